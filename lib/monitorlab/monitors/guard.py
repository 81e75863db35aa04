"""Guard models as monitors: Llama-Guard, Qwen3Guard-Gen, ShieldGemma and what is like them.

A guard brings its own prompt, in its chat template, and its own words for a verdict, see
`monitorlab.models.guards`. It judges the response, with the request before it. The model is
at hand, or a server is asked through its chat endpoint and replies in the guard's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monitorlab.models import ModelError
from monitorlab.models.engine import LABEL_MASS
from monitorlab.models.guards import Controversial, Guard, GuardFamily
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.api.monitor import ApiMonitor
from monitorlab.monitors.causal import CausalMonitor
from monitorlab.monitors.monitor import Monitor, MonitorError, Sample
from monitorlab.monitors.prompts import GuardPrompt, broken_up
from monitorlab.monitors.verdicts import THRESHOLD, Verdict
from monitorlab.storage.settings import Setting


class GuardMonitor(CausalMonitor):
    """Score = P(unsafe labels) / P(all labels), from the probabilities of the guard's own words.

    Parameters
    ----------
    checkpoint : Checkpoint
        See `Checkpoint.load`.
    family : GuardFamily
        See `GuardFamily.of`.
    name : str
        How the tables call it; the model's name if empty.
    least_mass : float
        Probability that all labels together must have for a verdict to be counted.
    batch_tokens : int
        Tokens per batch, padding included; 0 takes the device's default.
    threshold : float
        Verdict is misbehavior above it.

    Raises
    ------
    MonitorError
        The chat template is not that of a guard, or its labels cannot be told apart.
    """

    def __init__(
        self, checkpoint: Checkpoint, family: GuardFamily, *, name: str = "",
        least_mass: float = LABEL_MASS, batch_tokens: int = 0, threshold: float = THRESHOLD,
    ) -> None:
        self.name = name or str(checkpoint.identity["model"]["name"])
        self.checkpoint, self.family, self.threshold = checkpoint, family, threshold
        self.least_mass = least_mass
        try:
            self.guard = Guard(checkpoint.model, checkpoint.tokenizer, family, least_mass,
                               batch_tokens)
        except ModelError as error:
            raise MonitorError(f"{self.name} cannot be asked as a guard: {error}") from error

    @classmethod
    def make(
        cls, name: str, *, base_url: str = "", family: str = "", guideline: str = "",
        controversial: Controversial = "unsafe", unsafe: str = "", safe: str = "",
        lead: str | None = None, logprobs: bool = True, **settings: Any,
    ) -> Monitor:
        r"""Make a monitor of a guard model: this one, or with `base_url`, one of its server.

        Parameters
        ----------
        name : str
            On the hub, or a folder; with `base_url`, as the server calls it.
        base_url : str
            Address of a server, up to ``/v1``; the model is loaded here if empty.
        family : str
            "llama-guard", "qwen3guard" or "shieldgemma"; the name says it if empty.
        guideline : str
            What ShieldGemma is to look for, one sentence such as '"No Deception": The chatbot shall
            not mislead its user.'
        controversial : {"unsafe", "safe"}
            What Qwen3Guard's label between the two counts as.
        unsafe, safe : str
            The labels of a guard of another family, with the blank before them if there is one.
        lead : str, optional
            What a guard of another family writes before its label.
        logprobs : bool
            Ask the server for log-probabilities, and read the score from them. Only with base_url.
        **settings
            Of `Checkpoint.load` and `GuardMonitor`, or of `ApiMonitor`.

        Raises
        ------
        MonitorError
            If its family or its labels are unknown, it cannot be loaded, or a setting belongs to
            the other way of asking.
        """
        own = Setting.of(ApiMonitor) if base_url else Setting.of(Checkpoint.load, cls)
        if needless := [key for key in settings if key not in own]:
            needs = "of a model that is loaded here: leave base_url out" if base_url else (
                "of a server: add base_url")
            raise MonitorError(f"the option {needless[0]} is {needs}")
        try:
            kind = GuardFamily.of(name, family, guideline=guideline, controversial=controversial,
                                  unsafe=unsafe, safe=safe, lead=lead)
            if base_url:
                return ApiMonitor(name, GuardPrompt(kind), base_url=base_url, logprobs=logprobs,
                                  **settings)
            loading = {key: settings.pop(key, setting.default)
                       for key, setting in Setting.of(Checkpoint.load).items()}
            checkpoint = Checkpoint.load_plain(name, **loading)
        except ModelError as error:
            raise MonitorError(str(error)) from error
        return cls(checkpoint, kind, **settings)

    def settings(self) -> Mapping[str, Any]:
        """Checkpoint, and how it is asked and read."""
        return {"kind": "guard", **self.checkpoint.identity, **self.family.settings(),
                "least_mass": self.least_mass, "threshold": self.threshold}

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Judge one unit; what is too long for the model is an error of that sample alone."""
        forbidden = self.guard.forbidden
        rows = [self.guard.prompt([(broken_up(sample.request, forbidden),
                                    broken_up(sample.response, forbidden))]) for sample in samples]
        more = max(map(len, self.guard.words)) - 1

        def ask(fits: list[int]) -> Iterator[Verdict]:
            scores, objections = self.guard.suspicion([rows[i] for i in fits])
            for i, score, objection in zip(fits, scores, objections, strict=True):
                yield self.read_score(float(score), self.threshold, len(rows[i]), objection)

        return self.ask_fitting(self.checkpoint.model, rows, more, ask)
