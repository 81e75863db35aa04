"""The one dial: how large every experiment is.

A notebook never asks which profile it runs in. It takes sizes from `Profile`, so the same
cells run as a test (`tiny`), on a laptop (`cpu`), there with all trainings of notebook 05
(`overnight`), and at the scale of the paper (`gpu`).
The sizes stand in `profiles.yaml` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from monitorlab.models import Training


@dataclass(frozen=True)
class _Arithmetic:
    """Difficulty and number of the multi-step arithmetic problems.

    The three groups of problems share no problem. A generator errs where its training texts did,
    and where it has not learned them well: no noise is injected where it writes.

    Attributes
    ----------
    min_steps, max_steps : int
        Equations per solution, inclusive range; one equation is one step.
    max_value : int
        No number in a problem or its solution exceeds this.
    max_term : int
        Largest number that is added or subtracted at once.
    max_factor : int
        Largest multiplier and divisor; 1 leaves only addition and subtraction.
    n_train : int
        Problems with written-out solutions that the generators learn from.
    n_verifier : int
        Problems whose *generated* solutions, one per generator, the verifier learns from.
    n_test : int
        Problems whose generated solutions become trajectories (one each per generator).
    temperature : float
        Sampling temperature of the generators, above 0.
    """

    min_steps: int
    max_steps: int
    max_value: int
    max_term: int
    max_factor: int
    n_train: int
    n_verifier: int
    n_test: int
    temperature: float


@dataclass(frozen=True)
class _Conversations:
    """Number and length of the multi-turn conversations, which come in pairs.

    Attributes
    ----------
    min_turns, max_turns : int
        User turns per conversation, inclusive range.
    n_train : int
        Conversations that the guard learns from.
    n_test : int
        Conversations that become trajectories.
    """

    min_turns: int
    max_turns: int
    n_train: int
    n_test: int


@dataclass(frozen=True)
class _Benchmark:
    """Notebooks 01 and 02. The benchmark itself is the same in every profile.

    Attributes
    ----------
    check_every : int
        Every how many pairs one is checked; 1 checks all.
    corpus_share : float
        Size of the training corpus relative to the published 153,581 samples, in (0, 1].
    processes : int
        Processes that compose it.
    open_tier : bool
        Build the real pairs from public files too, where they are available.
    cue_questions : int
        Questions that a real model is asked with every cue and without one, where it is installed.
    pair_questions : int
        Questions that it answers itself, to make pairs of its own.
    """

    check_every: int
    corpus_share: float
    processes: int
    open_tier: bool
    cue_questions: int
    pair_questions: int


@dataclass(frozen=True)
class _Online:
    """Protocol of the online-monitoring comparison (arXiv 2607.02510, section 4).

    Attributes
    ----------
    n_splits : int
        Random splits into calibration and test trajectories.
    open_tier : bool
        Whether published scores join in if they are in the cache.
    plays : int
        How often each change of notebook 08 is played.
    levels : tuple of float
        Target risk levels epsilon, each in (0, 1), increasing.
    calibration_fraction : float
        Share of the trajectories used for calibration, in (0, 1).
    delta : float
        Allowed probability that a high-probability guarantee fails, in (0, 1).
    """

    n_splits: int
    open_tier: bool
    plays: int
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    calibration_fraction: float = 0.2
    delta: float = 0.1


@dataclass(frozen=True)
class _Evaluation:
    """Notebooks 03 and 04.

    Attributes
    ----------
    pairs_per_cell : int
        Pairs of each cell and split that are judged; 0 is all of them.
    words, embedded : int
        Samples of the corpus that TF-IDF and the encoder probe learn from; 0 is all of them.
    encoder_dtype : str
        "float32", "bfloat16" or "auto", see `monitorlab.models.sentence_encoder.Encoder.load`.
    encoded_pairs : int
        Pairs of each cell and split that the encoder probe judges; 0 is all of them.
    released : bool
        Whether the answers of the language model are read from ``data/released`` where they fit.
    asked_again : int
        Samples that it is asked about again then.
    language_pairs : int
        Test pairs of each cell that it judges where no answer fits; 0 is all of them.
    prompt_pairs : int
        Pairs among them, of each cell, that it judges with a second prompt; 0 is all of them.
    replies : int
        Test samples to which it writes out its replies then.
    real_pairs : int
        Pairs of each real source that are judged; 0 is all of them.
    resamples : int
        Bootstrap resamples of scenarios.
    resplits : int
        Random splits into dev and test that check the promises of thresholds.
    """

    pairs_per_cell: int
    words: int
    embedded: int
    encoder_dtype: str
    encoded_pairs: int
    released: bool
    asked_again: int
    language_pairs: int
    prompt_pairs: int
    replies: int
    real_pairs: int
    resamples: int
    resplits: int


@dataclass(frozen=True)
class Finetuning:
    """Notebook 05.

    Attributes
    ----------
    base : str
        Model that is fine-tuned: "smollm2", one of the hub, or empty for random weights.
    prompt : str
        Monitor prompt that it learns to answer.
    recipe : mapping
        What differs from the published recipe (`monitorlab.finetuning.recipe.PAPER`).
    samples : int
        Samples that an arm learns from; 0 is all of its components.
    arms : tuple of str
        Arms that are trained.
    released : bool
        Whether the results are read from ``data/released/finetuning``, and not made here.
    asked_again : int
        Samples that the released adapter is asked about again.
    seeds : int
        Trainings of the arm *all*, the first one included.
    shares : tuple of float
        Points of its learning curve, as shares of `samples`, below 1.
    longer : mapping
        Arms that are also trained on more: on `share` times `samples`, with what else of the recipe
        is given. They are asked, as the base is, about all test samples of the open tier in their
        own cells, too.
    pairs_per_cell : int
        Test pairs of each cell that are judged, and fewer dev pairs; 0 is all of them.
    resamples : int
        Bootstrap resamples of scenarios.
    """

    base: str
    prompt: str
    recipe: Mapping[str, int | float | str | bool]
    samples: int
    arms: tuple[str, ...]
    released: bool
    asked_again: int
    seeds: int
    shares: tuple[float, ...]
    longer: Mapping[str, Mapping[str, int | float | str]]
    pairs_per_cell: int
    resamples: int


@dataclass(frozen=True)
class _Deployment:
    """Notebook 09.

    Attributes
    ----------
    live : int
        Sequences that a real model writes at once while a monitor watches.
    """

    live: int


@dataclass(frozen=True)
class Profile:
    """All sizes of one run.

    Attributes
    ----------
    name : str
        "tiny", "cpu", "overnight" or "gpu".
    arithmetic : Arithmetic
        The problems of notebook 06.
    generator : Training
        The miniature language model; `steps` is an upper bound, see `chapters.signals`.
    verifier : Training
        The miniature process reward model.
    conversations : Conversations
        The second use case of notebook 06.
    online : Online
        The comparison of notebook 07.
    benchmark : Benchmark
        Notebooks 01 and 02.
    evaluation : Evaluation
        Notebooks 03 and 04.
    finetuning : Finetuning
        Notebook 05.
    deployment : Deployment
        Notebook 09.
    """

    name: str
    arithmetic: _Arithmetic
    generator: Training
    verifier: Training
    conversations: _Conversations
    online: _Online
    benchmark: _Benchmark
    evaluation: _Evaluation
    finetuning: Finetuning
    deployment: _Deployment

    @classmethod
    def named(cls, name: str) -> Profile:
        """Return the profile called `name`.

        Raises
        ------
        ValueError
            If there is no such profile; the message lists those that exist.
        """
        if name not in PROFILES:
            raise ValueError(f"unknown profile {name!r}: expected one of {', '.join(PROFILES)}")
        return PROFILES[name]


def _built(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    """Build a dataclass from what the data file says of each of its fields."""
    kinds = get_type_hints(kind)
    values = {}
    for name, value in entry.items():
        if is_dataclass(kinds[name]):
            value = _built(kinds[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PROFILES: dict[str, Profile] = {
    name: _built(Profile, {"name": name, **entry}) for name, entry in _DATA["profiles"].items()
}
