"""The miniature experiment: problems, two generators, a verifier and a guard, and their tables.

Everything that is trained goes through a checkpoint whose fingerprint holds the settings, the seed,
the data and the code, so it is reused as long as nothing changed.

The guard is a small causal transformer that reads a rule and scores every turn after it: an
ordinary `LlamaForTokenClassification` checkpoint, trained here from scratch on composed
conversations. Each turn ends with a mark, and the score of a turn is read there. Attention is
causal, so one forward pass over a finished conversation gives exactly the scores that a monitor
running along would have seen turn by turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import (
    LlamaForTokenClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from monitorlab.models import Training
from monitorlab.models.batching import Encoded, count_tokens, label_probability, logits_at_steps
from monitorlab.models.loading import load_model, load_tokenizer, no_progress_bars
from monitorlab.models.tiny import (
    IGNORED,
    Row,
    byte_pair_tokenizer,
    fit,
    llama_config,
    seeded,
    suitable_threads,
)
from monitorlab.pipeline.artifacts import checkpoint
from monitorlab.pipeline.runs import Run
from monitorlab.signals.arithmetic import Checked, Difficulty, Exercise, check, make_problems
from monitorlab.signals.conversations import Conversation
from monitorlab.signals.solver import (
    Solution,
    generate,
    load_generator,
    score_solutions,
    step_signals,
    train_generators,
    train_verifier,
)
from monitorlab.statistics.roc import auroc, roc_metrics

# Expected agreement with the training texts at which training hands over each generator.
GENERATORS = {"strong": 0.94, "weak": 0.86}
HELD_OUT = 200  # problems that decide when a generator is good enough
BOOTSTRAPS = 100
Values = tuple[object, ...]


@dataclass(frozen=True)
class _ProblemSets:
    """Problems by purpose; no problem occurs in two of them."""

    train: list[Exercise]
    held_out: list[Exercise]
    verifier: list[Exercise]
    test: list[Exercise]


@dataclass(frozen=True)
class _Attempt:
    """One generated solution, its problem and what the exact checker says about it."""

    problem: Exercise
    solution: Solution
    checked: Checked


def draw_problems(run: Run) -> _ProblemSets:
    """Draw the problems of a run: test first, training last, all distinct."""
    sizes = run.profile.arithmetic
    difficulty = Difficulty(
        sizes.min_steps, sizes.max_steps, sizes.max_value, sizes.max_term, sizes.max_factor
    )
    test = make_problems(run.rng("test problems"), sizes.n_test, difficulty)
    for_verifier = make_problems(
        run.rng("verifier problems"), sizes.n_verifier, difficulty, exclude=test
    )
    held_out = make_problems(
        run.rng("held-out problems"), HELD_OUT, difficulty, exclude=[*test, *for_verifier]
    )
    train = make_problems(
        run.rng("training problems"), sizes.n_train, difficulty,
        exclude=[*test, *for_verifier, *held_out],
    )
    return _ProblemSets(train, held_out, for_verifier, test)


def fit_generators(run: Run, problems: _ProblemSets) -> dict[str, Path]:
    """Return the checkpoints of the generators by name, trained in one go if anything is new."""
    settings = run.profile.generator
    temperature = run.profile.arithmetic.temperature
    seed = run.torch_seed("generators")
    pairs, held_out = (
        [(problem.text, problem.taught) for problem in group]
        for group in (problems.train, problems.held_out)
    )
    folder = checkpoint(
        run,
        "generators",
        {"settings": asdict(settings), "seed": seed, "pairs": pairs, "held_out": held_out,
         "targets": GENERATORS, "temperature": temperature},
        lambda empty: train_generators(
            pairs, held_out, GENERATORS, settings, empty, seed, temperature, "training generators"
        ),
    )
    return {name: folder / name for name in GENERATORS}


def count_parameters(folder: Path) -> int:
    """Number of weights of a language model in a folder, shared ones counted once."""
    return int(load_generator(folder)[0].num_parameters())


def attempt(run: Run, name: str, folder: Path, problems: Sequence[Exercise]) -> list[_Attempt]:
    """Let a generator solve problems, once each, and check every line."""
    purpose = f"{name} on {len(problems)} problems"
    solutions = generate(
        folder, [problem.text for problem in problems], run.torch_seed(purpose),
        run.profile.arithmetic.temperature, f"generating, {purpose}",
    )
    return [
        _Attempt(problem, solution, check(problem, solution.text))
        for problem, solution in zip(problems, solutions, strict=True)
    ]


def fit_verifier(run: Run, attempts: Sequence[_Attempt], base: Path) -> Path:
    """Return the checkpoint of the process reward model, trained on checked attempts if new."""
    settings = run.profile.verifier
    seed = run.torch_seed("verifier")
    examples = [(a.problem.text, a.solution.text, a.checked.step_labels) for a in attempts]
    return checkpoint(
        run,
        "verifier",
        {"settings": asdict(settings), "seed": seed, "examples": examples,
         "base": f"{base.parent.name}/{base.name}"},  # the digest is in the upper folder's name
        lambda folder: train_verifier(
            examples, settings, folder, seed, base=base, title="training verifier"
        ),
    )


def fit_guard(run: Run, examples: Sequence[Conversation]) -> Path:
    """Return the checkpoint of the guard, trained on conversations if new."""
    settings = run.profile.guard
    seed = run.torch_seed("guard")
    return checkpoint(
        run,
        "guard",
        {"settings": asdict(settings), "seed": seed, "examples": [asdict(c) for c in examples]},
        lambda folder: _train_guard(examples, settings, folder, seed),
    )


def attempt_tables(
    dataset: str, generator: str, attempts: Sequence[_Attempt], verifier: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score attempts with all three signals; return their ``trajectories`` and ``steps`` rows."""
    pairs = [(a.problem.text, a.solution.text) for a in attempts]
    suspicions = score_solutions(verifier, pairs)
    trajectories: list[Values] = []
    steps: list[Values] = []
    for i, (one, suspicion) in enumerate(zip(attempts, suspicions, strict=True)):
        free = step_signals(one.solution)
        tokens = np.asarray(free["tokens"])
        name = f"{generator}_{i:05d}"
        text = f"{one.problem.text}\n{one.solution.text}"
        trajectories.append(
            (dataset, name, generator, "test", len(tokens), int(tokens.sum()), one.checked.label,
             text)
        )
        signals = {"verifier": suspicion, "min_logprob": free["min_logprob"],
                   "mean_logprob": free["mean_logprob"]}
        steps += _step_rows(dataset, name, signals, tokens, one.checked.label,
                            one.checked.step_labels)
    return _trajectories(trajectories), _steps(steps)


def conversation_tables(
    dataset: str, groups: Mapping[str, Sequence[Conversation]], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the test conversations by guard and by words; return the rows of both tables.

    Parameters
    ----------
    dataset : str
        Name of the data set.
    groups : mapping
        ``training`` (for the word baseline) and ``test`` conversations.
    folder : Path
        The guard.
    """
    talks = groups["test"]
    suspicions = _score_conversations(folder, talks)
    words = _word_baseline(groups["training"], talks)
    counts = _turn_tokens(folder, talks)
    trajectories: list[Values] = []
    steps: list[Values] = []
    for talk, suspicion, word, tokens in zip(talks, suspicions, words, counts, strict=True):
        trajectories.append(
            (dataset, talk.conversation_id, "composed", "test", len(tokens), int(tokens.sum()),
             talk.label, talk.text())
        )
        labels = [turn.label for turn in talk.turns]
        steps += _step_rows(dataset, talk.conversation_id, {"guard": suspicion, "words": word},
                            tokens, talk.label, labels)
    return _trajectories(trajectories), _steps(steps)


def _step_rows(
    dataset: str,
    name: str,
    signals: dict[str, np.ndarray],
    tokens: np.ndarray,
    label: int,
    step_labels: Sequence[int],
) -> Iterator[Values]:
    for signal, scores in signals.items():
        for k, (score, count, step) in enumerate(zip(scores, tokens, step_labels, strict=True), 1):
            yield dataset, signal, name, k, float(score), int(count), label, int(step)


def _trajectories(rows: list[Values]) -> pd.DataFrame:
    columns = ["dataset", "trajectory_id", "generator", "split", "n_steps", "tokens", "label",
               "text"]
    return pd.DataFrame(rows, columns=columns)


def _steps(rows: list[Values]) -> pd.DataFrame:
    columns = ["dataset", "signal", "trajectory_id", "step", "score", "tokens", "label",
               "step_label"]
    return pd.DataFrame(rows, columns=columns)


def accuracy_by_steps(trajectories: pd.DataFrame, problems: Sequence[Exercise]) -> pd.DataFrame:
    """Share of right final answers by length of the problem, with Wilson 95 % intervals.

    Parameters
    ----------
    trajectories : DataFrame
        Rows of both generators on the same test problems, in their order.
    problems : sequence of Exercise
        Those problems.
    """
    wanted = np.tile([len(p.steps) for p in problems], trajectories["generator"].nunique())
    grouped = (
        trajectories.assign(steps=wanted, right=1 - trajectories["label"])
        .groupby(["generator", "steps"])["right"]
        .agg(n="size", hits="sum")
        .reset_index()
    )
    bounds = [
        stats.binomtest(int(row.hits), int(row.n)).proportion_ci(method="wilson")
        for row in grouped.itertuples()
    ]
    return grouped.assign(
        right=grouped["hits"] / grouped["n"],
        low=[bound.low for bound in bounds],
        high=[bound.high for bound in bounds],
    )


def step_auroc(steps: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """AUROC of every signal for wrong steps, with bootstrap 95 % intervals over trajectories.

    Parameters
    ----------
    steps : DataFrame
        Rows of the table ``steps`` with known step labels.
    rng : Generator
        Draws the resamples. Whole trajectories are resampled, since steps of one are dependent.

    Returns
    -------
    DataFrame
        ``dataset, signal, steps, wrong, auroc, low, high``.
    """
    rows = []
    for (dataset, signal), group in steps.groupby(["dataset", "signal"], sort=False):
        codes, names = pd.factorize(group["trajectory_id"])
        labels, scores = group["step_label"].to_numpy(), group["score"].to_numpy()
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAPS)
        values = roc_metrics(scores, labels, codes, draws.T.astype(np.float32), low_end=False)
        low, high = np.quantile(values["auroc"], [0.025, 0.975])
        rows.append((dataset, signal, len(group), float(labels.mean()), auroc(scores, labels),
                     low, high))
    columns = ["dataset", "signal", "steps", "wrong", "auroc", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def error_rows(generator: str, attempts: Sequence[_Attempt]) -> pd.DataFrame:
    """One row per generated step: what the checker, the training texts and the generator say of it.

    Columns are ``generator, step, verdict``, ``first`` (the first wrong line of its solution),
    ``taught`` (the training texts have this line there) and ``chance`` (the generator's probability
    of the least likely token of the line, in [0, 1]).
    """
    rows: list[Values] = []
    for one in attempts:
        chances = np.exp(-step_signals(one.solution)["min_logprob"])
        written = one.solution.text.split("\n")
        taught = one.problem.taught.split("\n")
        for k, (verdict, chance) in enumerate(zip(one.checked.verdicts, chances, strict=True), 1):
            rows.append((generator, k, verdict.value, k == one.checked.first_error,
                         written[k - 1 : k] == taught[k - 1 : k], float(chance)))
    columns = ["generator", "step", "verdict", "first", "taught", "chance"]
    return pd.DataFrame(rows, columns=columns)


def example_panels(
    attempts: Sequence[_Attempt], steps: pd.DataFrame, names: Sequence[int]
) -> list[tuple[str, list[str], list[int], dict[str, np.ndarray]]]:
    """Prepare a few attempts for a figure: lines, step labels, suspicion as a rank in [0, 1]."""
    ranked = steps.assign(rank=steps.groupby(["dataset", "signal"])["score"].rank(pct=True))
    panels = []
    for i in names:
        one = attempts[i]
        mine = ranked[ranked["trajectory_id"].str.endswith(f"_{i:05d}")]
        signals = {
            str(signal): group.sort_values("step")["rank"].to_numpy()
            for signal, group in mine.groupby("signal", sort=False)
        }
        outcome = "wrong answer" if one.checked.label else "right answer"
        lines = one.solution.text.rstrip("\n").split("\n")
        panels.append((f"{outcome} (expected {one.problem.answer})", lines,
                       list(one.checked.step_labels), signals))
    return panels


def pick_examples(attempts: Sequence[_Attempt]) -> list[int]:
    """Positions of one right attempt and one that goes wrong in the middle, both of fair length."""
    longest = max(len(a.checked.verdicts) for a in attempts)
    right = [i for i, a in enumerate(attempts) if a.checked.first_error == 0]
    wrong = [i for i, a in enumerate(attempts)
             if a.checked.label and 1 < a.checked.first_error < len(a.checked.verdicts)]

    def misfit(i: int) -> tuple[int, int]:
        return abs(len(attempts[i].checked.verdicts) - (longest - 1)), i

    return [min(group, key=misfit) for group in (right, wrong) if group]


# The guard -----------------------------------------------------------------------------------

RULE, USER, ASSISTANT, END = "<rule>", "<user>", "<assistant>", "<end>"
MARKS = (RULE, USER, ASSISTANT, END)
VOCABULARY = 1200
MAX_POSITIONS = 1024
INITIAL_STD = 0.06  # the usual 0.02 suits wide models; this narrow one would not start to learn


def _text(conversation: Conversation) -> str:
    """Return what the guard reads; every turn closes with the mark at which it is scored."""
    turns = "".join(f"{USER}{t.user}{ASSISTANT}{t.assistant}{END}" for t in conversation.turns)
    return f"{RULE}{conversation.rule}{turns}"


def _encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]
) -> list[list[int]]:
    return tokenizer([_text(c) for c in conversations], add_special_tokens=False)["input_ids"]


def _examples(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Conversation]
) -> list[Row]:
    """Token ids, with the label of a turn at every token of its answer.

    Labels at the closing marks alone are some six per conversation, and learning from them is
    slow; the whole answer as target teaches the same question many times over.
    """
    start = tokenizer.convert_tokens_to_ids(ASSISTANT)
    end = tokenizer.convert_tokens_to_ids(END)
    rows = []
    for conversation, ids in zip(conversations, _encode(tokenizer, conversations), strict=True):
        turns, label = iter(conversation.turns), IGNORED
        labels: list[int] = []
        for token in ids:
            label = next(turns).label if token == start else label
            labels.append(label)
            label = IGNORED if token == end else label
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def _train_guard(
    conversations: Sequence[Conversation], settings: Training, folder: Path, seed: int
) -> None:
    """Train tokenizer and guard from scratch and save them.

    Parameters
    ----------
    conversations : sequence of Conversation
        Training conversations; both labels must occur.
    settings : Training
        Shape of the model, optimizer steps, tokens per step and peak learning rate.
    folder : Path
        Becomes an ordinary `save_pretrained` folder.
    seed : int
        Decides initial weights and order; torch's own random state is left as it was.

    Raises
    ------
    ValueError
        The conversations hold only one label.
    """
    if len({turn.label for c in conversations for turn in c.turns}) < 2:
        raise ValueError("the guard needs training turns of both labels, found one label only")
    tokenizer = byte_pair_tokenizer((c.text() for c in conversations), VOCABULARY, MARKS, True)
    rows = _examples(tokenizer, conversations)
    with seeded(seed), no_progress_bars():
        config = llama_config(
            settings.model, tokenizer, max_position_embeddings=MAX_POSITIONS,
            initializer_range=INITIAL_STD,
        )
        model = LlamaForTokenClassification(config)  # two labels are the default
        fit(model, rows, tokenizer.pad_token_id, settings, seed, muon=False)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _score_conversations(folder: Path, conversations: Sequence[Conversation]) -> list[np.ndarray]:
    """Score every turn of every conversation, one causal pass each.

    Parameters
    ----------
    folder : Path
        What `_train_guard` wrote.
    conversations : sequence of Conversation

    Returns
    -------
    list of numpy.ndarray, shape (n_turns,)
        Suspicion in [0, 1]: the guard's probability that the rule has been broken by then.

    Raises
    ------
    monitorlab.models.loading.ModelError
        A conversation is longer than the guard can read.
    """
    tokenizer = load_tokenizer(str(folder), "")
    model = load_model(LlamaForTokenClassification.from_pretrained, str(folder), "")
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = []
    for ids in _encode(tokenizer, conversations):
        positions = [i for i, token in enumerate(ids) if token == end]
        encoded.append(Encoded(ids, positions, [1] * len(positions)))
    with suitable_threads(model):
        logits = logits_at_steps(model, encoded, tokenizer.pad_token_id)
    return [label_probability(row, index=1) for row in logits]


def _word_baseline(
    train: Sequence[Conversation], test: Sequence[Conversation]
) -> list[np.ndarray]:
    """Score every turn by the words of all answers so far: the baseline a guard has to beat.

    Parameters
    ----------
    train, test : sequence of Conversation
        To fit on and to score; they should share no scenario.

    Returns
    -------
    list of numpy.ndarray, shape (n_turns,)
        Log odds that the rule has been broken by then, of a logistic regression on TF-IDF.
    """

    def so_far(talk: Conversation) -> list[str]:
        return [
            " ".join(turn.assistant for turn in talk.turns[: k + 1])
            for k in range(len(talk.turns))
        ]

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(max_iter=500),
    )
    texts = [text for talk in train for text in so_far(talk)]
    model.fit(texts, [turn.label for talk in train for turn in talk.turns])
    scores = model.decision_function([text for talk in test for text in so_far(talk)])
    return np.split(scores, np.cumsum([len(talk.turns) for talk in test])[:-1])


def _turn_tokens(folder: Path, conversations: Sequence[Conversation]) -> list[np.ndarray]:
    """Count the tokens of every assistant answer: shape (n_turns,) each, at least 1."""
    tokenizer = load_tokenizer(str(folder), "")
    answers = [[turn.assistant for turn in c.turns] for c in conversations]
    return [np.array(count_tokens(tokenizer, texts)) for texts in answers]
