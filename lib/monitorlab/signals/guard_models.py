"""Guard models as step signals: every turn of a conversation is judged.

The question of a guard stands after the conversation, so the prompts of two turns share everything
but their tail, and a single pass cannot answer for all turns at once. The scoring engine computes
what they share once: a conversation of T turns with a head of h tokens, turns of c tokens and a
tail of q tokens costs h + T (c + q) tokens instead of T (h + q) + c T (T + 1) / 2, and the head is
there once for all conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.batching import LABEL_MASS, check_length, count_tokens
from monitorlab.models.guards import Guard, GuardFamily
from monitorlab.signals.step_scores import Problem, StepScorer, StepScores, checked_steps

Turns = Literal["assistant", "user", "both"]
LABEL_LEAD = "\n\n"  # Llama-Guard writes a blank line and then its label


@dataclass(frozen=True)
class _Asked:
    """The moderation prompt after every turn that is judged, and the tokens of each turn."""

    prompts: list[list[int]]
    tokens: np.ndarray


class GuardScorer(StepScorer):
    """P(unsafe) against P(safe) of every turn, see `monitorlab.models.guards`.

    A problem is one user message per assistant turn (one text for a single turn), the steps are the
    answers. A conversation has no score if a prompt of it is too long, or if the labels have less
    than `least_mass` of the probability.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        A causal language model and a tokenizer whose chat template builds the moderation prompt
        for the conversation it is given.
    unsafe, safe : str
        The two labels, such as "Yes" and "No" in other families.
    lead : str
        Text between the prompt and the label.
    least_mass : float
        Probability, in [0, 1], that both labels together must have.
    turns : {"assistant", "user", "both"}
        Whose turns are judged, in the order in which they were said.

    Raises
    ------
    ModelError
        There is no chat template, it leaves texts out, or the labels cannot be told apart.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unsafe: str = "unsafe",
        safe: str = "safe",
        lead: str = LABEL_LEAD,
        least_mass: float = LABEL_MASS,
        turns: Turns = "assistant",
    ) -> None:
        super().__init__(model, tokenizer)
        self.turns = turns
        family = GuardFamily("own", (unsafe,), (safe,), lead=lead)
        self.guard = Guard(model, tokenizer, family, least_mass)

    def _encode(self, problem: Problem, steps: Sequence[str]) -> _Asked:
        answers = checked_steps(steps)
        asked = [problem] if isinstance(problem, str) else list(problem)
        if len(asked) != len(answers):
            raise ModelError(
                f"a conversation needs one user message per assistant turn, found {len(asked)} "
                f"messages and {len(answers)} turns"
            )
        turns: list[tuple[str, ...]] = list(zip(asked, answers, strict=True))
        judged: list[list[tuple[str, ...]]] = []
        for k, turn in enumerate(turns):
            said_by = {"user": [*turns[:k], turn[:1]], "assistant": turns[: k + 1]}
            judged += [part for who, part in said_by.items() if self.turns in (who, "both")]
        prompts = [self.guard.prompt(part) for part in judged]
        for number, prompt in enumerate(prompts, 1):
            longest = len(prompt) + max(map(len, self.guard.words)) - 1
            check_length(longest, self.model.config, f"the prompt of turn {number}")
        said = [part[-1][-1] for part in judged]
        return _Asked(prompts, np.array(count_tokens(self.tokenizer, said)))

    def _read(self, encoded: list[_Asked]) -> list[StepScores | ModelError]:
        """Score all turns of all conversations together."""
        scores, objections = self.guard.suspicion([p for item in encoded for p in item.prompts])
        found: list[StepScores | ModelError] = []
        start = 0
        for item in encoded:
            own = slice(start, start + len(item.prompts))
            start = own.stop
            wrong = [f"after turn {turn} {why}"
                     for turn, why in enumerate(objections[own], 1) if why]
            found.append(ModelError(wrong[0]) if wrong else StepScores(scores[own], item.tokens))
        return found
