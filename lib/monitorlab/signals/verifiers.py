"""Models from the hub as step signals: process reward models, and guards over conversations.

`TokenRewardScorer` reads token-classification models in the manner of Qwen2.5-Math-PRM
(arXiv 2501.07301, model card of Qwen/Qwen2.5-Math-PRM-7B): every step is closed by ``<extra_0>``
and judged there. `MathShepherdScorer` reads peiyi9979/math-shepherd-mistral-7b-prm
(arXiv 2312.08935): a causal language model that says `` +`` or `` -`` at a step tag. Both report
the probability of a good step; here it is turned into suspicion, 1 - p.

`GuardScorer` judges every turn of a conversation. The question of a guard stands after the
conversation, so the prompts of two turns share everything but their tail, and a single pass cannot
answer for all turns at once. The scoring engine computes what they share once: a conversation of T
turns with a head of h tokens, turns of c tokens and a tail of q tokens costs h + T (c + q) tokens
instead of T (h + q) + c T (T + 1) / 2, and the head is there once for all conversations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Model,
    Qwen2PreTrainedModel,
)
from transformers.modeling_outputs import TokenClassifierOutput

from monitorlab.models import ModelError, engine
from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import LABEL_MASS, Encoded
from monitorlab.models.guards import Guard, GuardFamily
from monitorlab.models.loading import from_checkpoint, load_model
from monitorlab.signals.step_scores import Label, Problem, StepScorer, StepScores
from monitorlab.storage.settings import Setting

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
SEPARATOR = "<extra_0>"
STEP_TAG = "ки"
GOOD, BAD = "+", "-"
PUBLISHED = {"Qwen2ForProcessRewardModel": 1}  # good labels that a card states, and no name
HEADS = ("lm_head",)  # of the language model that a reward model started from
LABEL_LEAD = "\n\n"  # Llama-Guard writes a blank line and then its label
Turns = Literal["assistant", "user", "both"]
_Asked = tuple[list[list[int]], np.ndarray]


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """A Qwen2 body with a two-layer head over two labels, as in Qwen2.5-Math-PRM.

    The parameter names are those of the published checkpoints, so their weights load here without
    running code from the hub.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = 2
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, self.num_labels))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                use_cache: bool = False) -> TokenClassifierOutput:
        """Return the logits of both labels at every position, shape (n, length, 2)."""
        body = self.model(input_ids, attention_mask=attention_mask, use_cache=use_cache)
        return TokenClassifierOutput(logits=self.score(body.last_hidden_state))


def _configuration(name: str, revision: str) -> Any:
    """What a checkpoint says about itself; its own code is never run."""
    return from_checkpoint(AutoConfig.from_pretrained, name, revision, trust_remote_code=False)


class _RewardScorer(StepScorer):
    """A process reward model: it reads a problem and a solution with a mark behind every step."""

    @staticmethod
    def load_any(name: str, revision: str = "", **settings: Any) -> StepScorer:
        """Load a process reward model by what its checkpoint holds.

        A causal language model is read at step tags, as Math-Shepherd, everything else by the
        labels of its tokens.

        Parameters
        ----------
        name, revision : str
            Local folder, or name on the hub with its commit.
        **settings
            Of :meth:`TokenRewardScorer.load` or :meth:`MathShepherdScorer.load`, and of their
            classes.

        Raises
        ------
        ModelError
            It cannot be loaded, or a setting belongs to the other kind.
        """
        config = _configuration(name, revision)
        causal = any(one.endswith("ForCausalLM") for one in config.architectures or ())
        scorer: type[StepScorer] = MathShepherdScorer if causal else TokenRewardScorer
        known = Setting.of(scorer.load, scorer)
        if needless := [key for key in settings if key not in known]:
            raise ModelError(f"the option {needless[0]} means nothing to {name}, which is read by "
                             f"{scorer.__name__}. There are: {', '.join(known)}")
        return cast(StepScorer, scorer.load(name, revision, **settings))

    @staticmethod
    def _single(problem: Problem) -> str:
        """Return the problem if it is one text, as these scorers need it."""
        if not isinstance(problem, str):
            raise ModelError("this scorer takes one problem text, found a sequence of messages")
        return problem

    def _marked(self, ids: list[int], mark: int, text: str, steps: Sequence[str]) -> Encoded:
        """Find the marks that close the steps; there must be exactly one per step."""
        positions = [i for i, token in enumerate(ids) if token == mark]
        if len(positions) != len(steps):
            raise ModelError(f"found {len(positions)} marks {text!r} for {len(steps)} steps: the "
                             "problem or a step contains the mark itself, or the tokenizer joins "
                             "it to its neighbours")
        engine.check_length(len(ids), self.model.config, "the trajectory")
        return Encoded(ids, positions, _count_tokens(self.tokenizer, steps))


def _count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text on its own, at least 1."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [max(len(row), 1) for row in rows]


class TokenRewardScorer(_RewardScorer):
    """Suspicion per step, in [0, 1], from a token-classification process reward model.

    Parameters
    ----------
    model : PreTrainedModel
        Its ``logits`` have shape (n, length, n_labels).
    tokenizer : PreTrainedTokenizerBase
        With a chat template and the separator as one token.
    separator : str
        Token that closes every step.
    good_label : str or int, optional
        Name (or position) of the label of a good step; suspicion is 1 minus its probability. May
        be left out where the labels' names or the model's card say it.
    system : str
        System message of the chat.

    Raises
    ------
    ModelError
        The separator is no single token, or it is not known which label means a good step.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                 separator: str = SEPARATOR, good_label: str | int | None = None,
                 system: str = QWEN_SYSTEM) -> None:
        super().__init__(model, tokenizer)
        self.separator, self.system = separator, system
        if good_label is None:
            good_label = PUBLISHED.get(type(model).__name__)
        self.label = Label.read(model.config, good_label, "good_label", bad=False)
        ids = tokenizer(separator, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            found = tokenizer.convert_ids_to_tokens(ids)
            raise ModelError(f"the separator {separator!r} is not one token of this tokenizer "
                             f"(found {found}): is it the model's own tokenizer?")
        self.separator_id = ids[0]

    @classmethod
    def _load_model(cls, name: str, revision: str, dtype: str, device: str) -> PreTrainedModel:
        """``Qwen2ForProcessRewardModel`` checkpoints load into the class above."""
        config = _configuration(name, revision)
        architecture = (config.architectures or ["none"])[0]
        if architecture == "Qwen2ForProcessRewardModel":
            loader: Callable[..., PreTrainedModel] = Qwen2ForProcessRewardModel.from_pretrained
        elif architecture.endswith("ForTokenClassification"):
            loader = AutoModelForTokenClassification.from_pretrained
        else:
            raise ModelError(f"{name!r} holds {architecture}, expected Qwen2ForProcessRewardModel "
                             "or a ...ForTokenClassification; a model's own code is never run")
        return load_model(loader, name, revision, dtype, device, heads=HEADS)

    def _encode(self, problem: Problem, steps: Sequence[str]) -> Encoded:
        texts = self._checked(steps)
        answer = "".join(text + self.separator for text in texts)
        said = {"system": self.system, "user": self._single(problem), "assistant": answer}
        chat = ChatTemplate(self.tokenizer).render(
            [{"role": role, "content": text} for role, text in said.items()])
        ids = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
        return self._marked(ids, self.separator_id, self.separator, texts)

    def _read(self, encoded: Sequence[Encoded]) -> list[StepScores]:
        logits = Encoded.logits(self.model, encoded, self.tokenizer.pad_token_id)
        return [StepScores(self.label.suspicion(row), np.array(item.tokens))
                for row, item in zip(logits, encoded, strict=True)]


class MathShepherdScorer(_RewardScorer):
    """Suspicion per step, in [0, 1], from a causal language model that judges at a step tag.

    The model reads ``problem Step 1: ... ки\\nStep 2: ... ки``; at every tag the logits of the two
    judgement tokens are compared: suspicion is 1 - softmax(good, bad)[good].

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
    step_tag, good, bad : str
        Tag at the end of each step, and the judgements.
    numbered : bool
        Put ``Step k:`` before a step that does not begin with it, as in the training data.
    least_mass : float
        Probability, in [0, 1], that both judgements together must have at every tag. A model that
        was not trained to judge there says something else.

    Raises
    ------
    ModelError
        Tag and judgements are not one token each.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                 step_tag: str = STEP_TAG, good: str = GOOD, bad: str = BAD, numbered: bool = True,
                 least_mass: float = LABEL_MASS) -> None:
        super().__init__(model, tokenizer)
        self.step_tag, self.numbered, self.least_mass = step_tag, numbered, least_mass
        # The card encodes both judgements in one text; the second then carries its blank.
        self.judgement_ids = tokenizer(f"{good} {bad}", add_special_tokens=False)["input_ids"]
        tag_ids = tokenizer(f"a {step_tag}", add_special_tokens=False)["input_ids"]
        self.tag_id = tag_ids[-1]
        if (tokenizer.unk_token_id in (*self.judgement_ids, self.tag_id)
                or len(self.judgement_ids) != 2
                or step_tag not in tokenizer.decode([self.tag_id])):
            pieces = tokenizer.convert_ids_to_tokens([*self.judgement_ids, *tag_ids[1:]])
            raise ModelError(f"{good!r}, {bad!r} and {step_tag!r} must be one token each, found "
                             f"{pieces}: is it the model's own tokenizer?")

    def _encode(self, problem: Problem, steps: Sequence[str]) -> Encoded:
        texts = self._checked(steps)
        if self.numbered:
            texts = [text if re.match(r"Step \d+:", text) else f"Step {k}: {text}"
                     for k, text in enumerate(texts, 1)]
        solution = "\n".join(f"{text} {self.step_tag}" for text in texts)
        ids = self.tokenizer(f"{self._single(problem)} {solution}")["input_ids"]
        return self._marked(ids, self.tag_id, self.step_tag, texts)

    def _read(self, encoded: Sequence[Encoded]) -> list[StepScores | ModelError]:
        pad_id = self.tokenizer.pad_token_id
        logs = Encoded.logits(self.model, encoded, pad_id, self.judgement_ids)
        read: list[StepScores | ModelError] = []
        label = Label(position=0, bad=False, alone=False)
        for row, item in zip(logs, encoded, strict=True):
            mass = float(row.exp().sum(-1).min())
            read.append(StepScores(label.suspicion(row), np.array(item.tokens)))
            if mass < self.least_mass:
                read[-1] = ModelError(
                    f"the judgements have {mass:.2g} of the probability at a tag, expected at least"
                    f" {self.least_mass:g}: was the model trained to judge at {self.step_tag!r}?")
        return read


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

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                 unsafe: str = "unsafe", safe: str = "safe", lead: str = LABEL_LEAD,
                 least_mass: float = LABEL_MASS, turns: Turns = "assistant") -> None:
        super().__init__(model, tokenizer)
        self.turns = turns
        family = GuardFamily("own", (unsafe,), (safe,), lead=lead)
        self.guard = Guard(model, tokenizer, family, least_mass)

    def _encode(self, problem: Problem, steps: Sequence[str]) -> _Asked:
        """Return the moderation prompt after every turn that is judged, and the turn's tokens."""
        answers = self._checked(steps)
        asked = [problem] if isinstance(problem, str) else list(problem)
        if len(asked) != len(answers):
            raise ModelError("a conversation needs one user message per assistant turn, found "
                             f"{len(asked)} messages and {len(answers)} turns")
        turns: list[tuple[str, ...]] = list(zip(asked, answers, strict=True))
        judged: list[list[tuple[str, ...]]] = []
        for k, turn in enumerate(turns):
            said_by = {"user": [*turns[:k], turn[:1]], "assistant": turns[: k + 1]}
            judged += [part for who, part in said_by.items() if self.turns in (who, "both")]
        prompts = [self.guard.prompt(part) for part in judged]
        for number, prompt in enumerate(prompts, 1):
            longest = len(prompt) + max(map(len, self.guard.words)) - 1
            engine.check_length(longest, self.model.config, f"the prompt of turn {number}")
        said = [part[-1][-1] for part in judged]
        return prompts, np.array(_count_tokens(self.tokenizer, said))

    def _read(self, encoded: list[_Asked]) -> list[StepScores | ModelError]:
        """Score all turns of all conversations together."""
        together = [prompt for prompts, _ in encoded for prompt in prompts]
        scores, objections = self.guard.suspicion(together)
        found: list[StepScores | ModelError] = []
        start = 0
        for prompts, tokens in encoded:
            own = slice(start, start + len(prompts))
            start = own.stop
            wrong = [f"after turn {turn} {why}" for turn, why in enumerate(objections[own], 1)
                     if why]
            found.append(ModelError(wrong[0]) if wrong else StepScores(scores[own], tokens))
        return found
