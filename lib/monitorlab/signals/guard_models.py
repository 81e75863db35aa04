"""Guard models in the manner of Llama-Guard-3, read by their first label token at every turn.

The chat template of such a model wraps the conversation into a moderation prompt: instructions and
categories first, the conversation, then the question about the *last* message. The question stands
after the conversation, so the prompts of two turns share everything but their tail, and a single
pass cannot answer for all turns at once. What is exact and cheap is to keep the key-value cache of
the shared part: per turn the cache is cut back to the longest common prefix of the token ids and
only the new turn and the tail are read.

Cost for a conversation of T turns with a head of h tokens, turns of c tokens and a tail of q
tokens: h + T (c + q) tokens read, instead of T (h + q) + c T (T + 1) / 2 when every prompt is
encoded from scratch. The result is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from monitorlab.models import ModelError
from monitorlab.models.batching import check_length, count_tokens
from monitorlab.models.chat import render_chat
from monitorlab.signals.step_scores import (
    LABEL_MASS,
    Problem,
    StepScorer,
    StepScores,
    checked_steps,
)

# Llama-Guard-3 writes a blank line and then its label; the template stops before the blank line.
LABEL_LEAD = "\n\n"


class GuardScorer(StepScorer):
    """P(unsafe) against P(safe) of every assistant turn, from the logits of the first label token.

    A problem is one user message per assistant turn (one text for a single turn), the steps are the
    answers. A conversation has no score if a prompt of it is too long, or if the labels have less
    than `least_mass` of the probability.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        A causal language model and a tokenizer whose chat template builds the moderation prompt
        for the conversation it is given.
    unsafe, safe : str
        The two labels, such as "Yes" and "No" in other families. Where a label is several tokens,
        its first one is read.
    reuse : bool
        Keep the cache of the shared prefix; otherwise encode every prompt from scratch.
    lead : str
        Text between the prompt and the label.
    least_mass : float
        Probability, in [0, 1], that both labels together must have as the next token. Below it the
        model says something else, and the share of the one in both would be noise.

    Raises
    ------
    ModelError
        There is no chat template, or the labels cannot be told apart by their first tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unsafe: str = "unsafe",
        safe: str = "safe",
        reuse: bool = True,
        lead: str = LABEL_LEAD,
        least_mass: float = LABEL_MASS,
    ) -> None:
        super().__init__(model, tokenizer)
        self.labels, self.lead, self.least_mass = (unsafe, safe), lead, least_mass
        if not tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template to build the moderation prompt")
        self.label_ids = [self._first_token(label) for label in (unsafe, safe)]
        if self.label_ids[0] == self.label_ids[1]:
            piece = tokenizer.convert_ids_to_tokens(self.label_ids[0])
            raise ModelError(
                f"the labels {unsafe!r} and {safe!r} begin with the same token {piece!r}, so the "
                f"first label token cannot tell them apart"
            )
        # A sliding-window cache forgets what a cut would have to bring back.
        self.reuse = reuse and not getattr(model.config, "sliding_window", None)

    def _first_token(self, label: str) -> int:
        """Return the first token of a label as it stands after the lead."""
        lead = self.tokenizer(self.lead, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(self.lead + label, add_special_tokens=False)["input_ids"]
        if ids[: len(lead)] != lead or len(ids) == len(lead):
            raise ModelError(f"the tokenizer joins {label!r} to the {self.lead!r} before it")
        if ids[len(lead)] == self.tokenizer.unk_token_id:
            raise ModelError(f"the label {label!r} is unknown to this tokenizer")
        return ids[len(lead)]

    def _prompts(self, problem: Problem, steps: Sequence[str]) -> list[list[int]]:
        """Token ids of the moderation prompt after every assistant turn."""
        answers = checked_steps(steps)
        asked = [problem] if isinstance(problem, str) else list(problem)
        if len(asked) != len(answers):
            raise ModelError(
                f"a conversation needs one user message per assistant turn, found {len(asked)} "
                f"messages and {len(answers)} turns"
            )
        messages: list[dict[str, str]] = []
        prompts = []
        for user, answer in zip(asked, answers, strict=True):
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": answer})
            text = render_chat(self.tokenizer, messages, add_generation_prompt=True)
            text = text if text.endswith(self.lead) else text + self.lead
            # The template writes its own special tokens.
            prompts.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return prompts

    @torch.inference_mode()
    def _label_logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits of (unsafe, safe) after every prompt, shape (n_prompts, 2)."""
        rows: list[torch.Tensor] = []
        cached: list[int] = []
        cache = DynamicCache(config=self.model.config)
        for prompt in prompts:
            check_length(len(prompt), self.model.config, f"the prompt of turn {len(rows) + 1}")
            if not self.reuse:
                cache, cached = DynamicCache(config=self.model.config), []
            kept = _reusable_prefix(cached, prompt)
            if len(cached) > kept:
                cache.crop(kept - len(cached))  # negative: tokens to drop from the end
            ids = torch.tensor([prompt[kept:]], device=self.model.device)
            output = self.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logits = output.logits[0, -1].float().cpu()
            self._check_mass(logits.softmax(-1), len(rows) + 1)
            rows.append(logits[self.label_ids])
            cached = list(prompt)
        return torch.stack(rows)

    def _check_mass(self, chances: torch.Tensor, turn: int) -> None:
        """Raise if the model is about to say something else than one of the labels."""
        mass = float(chances[self.label_ids].sum())
        if mass < self.least_mass:
            best = chances.topk(3)
            said = ", ".join(
                f"{self.tokenizer.decode([token])!r} ({chance:.2f})"
                for chance, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
            raise ModelError(
                f"after turn {turn} the labels {self.labels[0]!r} and {self.labels[1]!r} have "
                f"{mass:.2g} of the probability, expected at least {self.least_mass:g}; the model "
                f"would say {said}. Is it a guard, with its own chat template? Name its labels in "
                "`unsafe` and `safe`, and what stands before them in `lead`"
            )

    def _encode(self, problem: Problem, steps: Sequence[str]) -> StepScores:
        chances = self._label_logits(self._prompts(problem, steps)).softmax(-1)[:, 0]
        tokens = np.array(count_tokens(self.tokenizer, checked_steps(steps)))
        return StepScores(chances.numpy().astype(float), tokens)

    def _read(self, encoded: list[StepScores]) -> list[StepScores]:
        """Each conversation has a cache of its own, so they were scored one after the other."""
        return encoded


def _reusable_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix of two prompts, always short of the whole of `right`.

    At least one token of `right` stays to be read, because its logits are wanted.
    """
    most = max(min(len(left), len(right) - 1), 0)
    return next((i for i in range(most) if left[i] != right[i]), most)
