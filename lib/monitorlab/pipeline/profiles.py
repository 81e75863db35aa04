"""The one dial: how large every experiment is.

A notebook never asks which profile it runs in. It takes sizes from `Profile`, so the same
cells run as a test (`tiny`), on a laptop (`cpu`) and at the scale of the paper (`gpu`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSize:
    """Shape of one small transformer.

    Attributes
    ----------
    hidden : int
        Width of the residual stream, in units; a multiple of `heads`.
    layers : int
        Number of transformer blocks.
    heads : int
        Attention heads per block.
    """

    hidden: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Training:
    """One model and how long it is trained.

    Attributes
    ----------
    model : ModelSize
        Shape of the model.
    steps : int
        Optimizer steps.
    batch_tokens : int
        Tokens in one optimizer step, padding included.
    learning_rate : float
        Peak learning rate of AdamW.
    """

    model: ModelSize
    steps: int
    batch_tokens: int
    learning_rate: float


@dataclass(frozen=True)
class Arithmetic:
    """Difficulty and number of the multi-step arithmetic problems.

    The three groups of problems share no problem. Difficulty is the only thing that makes the
    generator err: no noise is injected anywhere.

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
class Conversations:
    """Number and length of the multi-turn conversations.

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
class Benchmark:
    """Notebooks 01 and 02. The benchmark itself is the same in every profile.

    Attributes
    ----------
    corpus_share : float
        Size of the training corpus relative to the published 153,581 samples, in (0, 1].
    processes : int
        Processes that compose it.
    open_tier : bool
        Build the real pairs from public files too, where they are available.
    """

    corpus_share: float
    processes: int
    open_tier: bool


@dataclass(frozen=True)
class Online:
    """Protocol of the online-monitoring comparison (arXiv 2607.02510, section 4).

    Attributes
    ----------
    n_splits : int
        Random splits into calibration and test trajectories.
    open_tier : bool
        Whether published scores join in if they are in the cache.
    levels : tuple of float
        Target risk levels epsilon, each in (0, 1), increasing.
    calibration_fraction : float
        Share of the trajectories used for calibration, in (0, 1).
    delta : float
        Allowed probability that a high-probability guarantee fails, in (0, 1).
    """

    n_splits: int
    open_tier: bool
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    calibration_fraction: float = 0.2
    delta: float = 0.1


@dataclass(frozen=True)
class Miniature:
    """The small stand-in for an LLM monitor, trained in notebook 03.

    Attributes
    ----------
    vocabulary : int
        Pieces of its tokenizer.
    reading : Training
        First it reads corpus texts ...
    answering : Training
        ... then it learns to answer the monitor prompt.
    """

    vocabulary: int
    reading: Training
    answering: Training


@dataclass(frozen=True)
class Evaluation:
    """Notebooks 03 and 04.

    Attributes
    ----------
    pairs_per_cell : int
        Pairs of each cell and split that are judged; 0 is all of them.
    words, embedded : int
        Samples of the corpus that TF-IDF and the encoder probe learn from; 0 is all of them.
    encoder_dtype : str
        "float32", "bfloat16" or "auto", see `monitorlab.monitors.embeddings.load_encoder`.
    prompt_pairs : int
        Pairs of each cell that are asked with a second prompt.
    probe_pairs : int
        Pairs of each cell whose replies are written out.
    real_pairs : int
        Pairs of each real source that are judged; 0 is all of them.
    resamples : int
        Bootstrap resamples of scenarios.
    resplits : int
        Random splits into dev and test that check the promises of thresholds.
    miniature : Miniature
        The small language model.
    """

    pairs_per_cell: int
    words: int
    embedded: int
    encoder_dtype: str
    prompt_pairs: int
    probe_pairs: int
    real_pairs: int
    resamples: int
    resplits: int
    miniature: Miniature


@dataclass(frozen=True)
class Finetuning:
    """Notebook 05.

    Attributes
    ----------
    base : str
        Model of the hub that is fine-tuned; empty for the small one that is trained here.
    prompt : str
        Monitor prompt that it learns to answer.
    vocabulary, model, reading_steps : int, ModelSize, int
        The small base: pieces of its tokenizer, its shape, its steps of practice.
    recipe : mapping
        What differs from the published recipe (`monitorlab.finetuning.recipe.PAPER`).
    samples : int
        Samples that an arm learns from; 0 is all of its components.
    seeds : int
        Trainings of the arms that are repeated, the first one included.
    shares : tuple of float
        Points of the learning curve, as shares of `samples`, below 1.
    processes : int
        Trainings side by side.
    pairs_per_cell : int
        Pairs of each cell and split, and of each real source, that are judged; 0 is all of them.
    probe : int
        Samples of each component that the probe on sentence embeddings learns from; 0 is all.
    encoder_dtype : str
        "float32", "bfloat16" or "auto", see `monitorlab.monitors.embeddings.load_encoder`.
    resamples : int
        Bootstrap resamples of scenarios.
    """

    base: str
    prompt: str
    vocabulary: int
    model: ModelSize
    reading_steps: int
    recipe: Mapping[str, int | float | str | bool]
    samples: int
    seeds: int
    shares: tuple[float, ...]
    processes: int
    pairs_per_cell: int
    probe: int
    encoder_dtype: str
    resamples: int


@dataclass(frozen=True)
class Profile:
    """All sizes of one run.

    Attributes
    ----------
    name : str
        "tiny", "cpu" or "gpu".
    arithmetic : Arithmetic
        The problems of notebook 06.
    generator : Training
        The miniature language model; `steps` is an upper bound, see `signals.miniature`.
    verifier : Training
        The miniature process reward model.
    conversations : Conversations
        The second use case of notebook 06.
    guard : Training
        The miniature guard that scores conversation turns.
    online : Online
        The comparison of notebook 07.
    benchmark : Benchmark
        Notebooks 01 and 02.
    evaluation : Evaluation
        Notebooks 03 and 04.
    finetuning : Finetuning
        Notebook 05.
    """

    name: str
    arithmetic: Arithmetic
    generator: Training
    verifier: Training
    conversations: Conversations
    guard: Training
    online: Online
    benchmark: Benchmark
    evaluation: Evaluation
    finetuning: Finetuning


SMALL = ModelSize(hidden=64, layers=2, heads=4)
READER = ModelSize(hidden=64, layers=3, heads=4)  # two layers fetch, the third one compares
# The published recipe, but for what a model of this size needs: a higher rate, short batches.
SMALL_RECIPE: Mapping[str, int | float | str | bool] = {
    "learning_rate": 2e-3, "accumulation": 1, "max_tokens": 2_048, "dtype": "float32",
    "gradient_checkpointing": False, "labelled": "verdict",
}

TINY = Profile(
    name="tiny",
    arithmetic=Arithmetic(
        min_steps=2, max_steps=4, max_value=30, max_term=9, max_factor=1,
        n_train=6_000, n_verifier=400, n_test=400, temperature=0.7,
    ),
    generator=Training(SMALL, 1_000, 512, 2e-2),
    verifier=Training(SMALL, 300, 512, 1e-2),
    conversations=Conversations(min_turns=3, max_turns=9, n_train=900, n_test=300),
    guard=Training(ModelSize(hidden=64, layers=2, heads=2), 220, 1_024, 3e-3),
    online=Online(n_splits=4, open_tier=False),
    benchmark=Benchmark(corpus_share=0.01, processes=1, open_tier=False),
    evaluation=Evaluation(
        pairs_per_cell=12, words=0, embedded=150, encoder_dtype="float32", prompt_pairs=8,
        probe_pairs=3, real_pairs=20,
        resamples=1_000, resplits=200,
        miniature=Miniature(
            1_500, Training(SMALL, 5, 4_096, 1e-2), Training(SMALL, 30, 4_096, 1e-2)
        ),
    ),
    finetuning=Finetuning(
        base="", prompt="brief", vocabulary=1_500, model=ModelSize(32, 2, 2), reading_steps=8,
        recipe=SMALL_RECIPE, samples=64, seeds=2, shares=(0.5,), processes=1,
        pairs_per_cell=22, probe=60, encoder_dtype="float32", resamples=500,
    ),
)

CPU = Profile(
    name="cpu",
    arithmetic=Arithmetic(
        min_steps=3, max_steps=7, max_value=99, max_term=20, max_factor=3,
        n_train=20_000, n_verifier=2_500, n_test=2_000, temperature=0.7,
    ),
    generator=Training(SMALL, 2_200, 1_024, 2e-2),
    verifier=Training(SMALL, 1_600, 768, 1e-2),
    conversations=Conversations(min_turns=3, max_turns=9, n_train=2_000, n_test=1_500),
    guard=Training(ModelSize(hidden=64, layers=2, heads=2), 500, 1_024, 2.5e-3),
    online=Online(n_splits=10, open_tier=True),
    benchmark=Benchmark(corpus_share=0.08, processes=2, open_tier=True),
    evaluation=Evaluation(
        pairs_per_cell=0, words=0, embedded=1_000, encoder_dtype="auto", prompt_pairs=60,
        probe_pairs=8, real_pairs=60,
        resamples=5_000, resplits=1_000,
        miniature=Miniature(
            3_000, Training(SMALL, 20, 4_096, 1e-2), Training(SMALL, 50, 6_144, 1e-2)
        ),
    ),
    finetuning=Finetuning(
        base="", prompt="brief", vocabulary=3_000, model=READER, reading_steps=40,
        recipe=SMALL_RECIPE, samples=96, seeds=2, shares=(0.5,), processes=2,
        pairs_per_cell=22, probe=60, encoder_dtype="auto", resamples=2_000,
    ),
)

GPU = Profile(
    name="gpu",
    arithmetic=Arithmetic(
        min_steps=3, max_steps=10, max_value=999, max_term=250, max_factor=9,
        n_train=200_000, n_verifier=20_000, n_test=5_000, temperature=0.7,
    ),
    generator=Training(ModelSize(hidden=512, layers=8, heads=8), 8_000, 16_384, 1e-2),
    verifier=Training(ModelSize(hidden=512, layers=8, heads=8), 2_000, 16_384, 5e-3),
    conversations=Conversations(min_turns=3, max_turns=9, n_train=20_000, n_test=5_000),
    guard=Training(ModelSize(hidden=256, layers=6, heads=8), 1_000, 32_768, 6e-4),
    online=Online(n_splits=10, open_tier=True),
    benchmark=Benchmark(corpus_share=1.0, processes=8, open_tier=True),
    evaluation=Evaluation(
        pairs_per_cell=0, words=0, embedded=0, encoder_dtype="bfloat16", prompt_pairs=0,
        probe_pairs=40, real_pairs=0,
        resamples=5_000, resplits=1_000,
        miniature=Miniature(
            8_000,
            Training(ModelSize(hidden=512, layers=8, heads=8), 4_000, 65_536, 1e-2),
            Training(ModelSize(hidden=512, layers=8, heads=8), 1_000, 65_536, 5e-3),
        ),
    ),
    finetuning=Finetuning(
        base="Qwen/Qwen3-4B-Instruct-2507", prompt="direct", vocabulary=8_000, model=READER,
        reading_steps=4_000, recipe={}, samples=0, seeds=3, shares=(0.125, 0.25, 0.5),
        processes=1, pairs_per_cell=0, probe=0, encoder_dtype="bfloat16", resamples=5_000,
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (TINY, CPU, GPU)}


def get_profile(name: str) -> Profile:
    """Return the profile called `name`.

    Raises
    ------
    ValueError
        If there is no such profile; the message lists those that exist.
    """
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise ValueError(f"unknown profile {name!r}: expected one of {known}")
    return PROFILES[name]
