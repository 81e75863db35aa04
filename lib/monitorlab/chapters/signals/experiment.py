"""The miniature experiment: problems, two generators, a verifier and a guard, and their tables.

Everything that is trained goes through a checkpoint whose fingerprint holds the settings, the seed,
the data and the code, so it is reused as long as nothing changed.

The guard pairs the rule of a conversation with what is said later: three logistic regressions on
vectors of a pretrained sentence encoder ask whether an answer hands something out, whether that is
what the rule reserves, and whether the user is whom it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from monitorlab.models import ModelError
from monitorlab.models.sentence_encoder import Encoder
from monitorlab.pipeline.artifacts import checkpoint
from monitorlab.pipeline.runs import Run
from monitorlab.signals.arithmetic import Checked, Difficulty, Exercise
from monitorlab.signals.conversations import Conversation
from monitorlab.signals.solver import Generator, Solution, Verifier
from monitorlab.statistics.roc import auroc, resampled_auroc

# Expected agreement with the training texts at which training hands over each generator.
GENERATORS = {"strong": 0.95, "weak": 0.88}
HELD_OUT = 200  # problems that decide when a generator is good enough
BOOTSTRAPS = 200
LIMITS = (0.025, 0.975)
TEXTS = ("rule", "introduction", "question", "answer")  # what the guard reads of an exchange
WORD_COLUMNS = 1024
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
    test = difficulty.draw(run.rng("test problems"), sizes.n_test)
    for_verifier = difficulty.draw(run.rng("verifier problems"), sizes.n_verifier, test)
    held_out = difficulty.draw(run.rng("held-out problems"), HELD_OUT, [*test, *for_verifier])
    train = difficulty.draw(
        run.rng("training problems"), sizes.n_train, [*test, *for_verifier, *held_out])
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
        lambda empty: Generator.train(
            pairs, held_out, GENERATORS, settings, empty, seed, temperature, "training generators"
        ),
    )
    return {name: folder / name for name in GENERATORS}


def count_parameters(folder: Path) -> int:
    """Number of weights of a language model in a folder, shared ones counted once."""
    return int(Generator.load(folder).model.num_parameters())


def attempt(run: Run, name: str, folder: Path, problems: Sequence[Exercise]) -> list[_Attempt]:
    """Let a generator solve problems, once each, and check every line."""
    purpose = f"{name} on {len(problems)} problems"
    solutions = Generator.load(folder).solve(
        [problem.text for problem in problems], run.torch_seed(purpose),
        run.profile.arithmetic.temperature, f"generating, {purpose}",
    )
    return [
        _Attempt(problem, solution, problem.check(solution.text))
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
        lambda folder: Verifier.train(
            examples, settings, folder, seed, base=base, title="training verifier"
        ),
    )


def attempt_tables(
    dataset: str, generator: str, attempts: Sequence[_Attempt], verifier: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score attempts with all three signals; return their ``trajectories`` and ``steps`` rows."""
    pairs = [(a.problem.text, a.solution.text) for a in attempts]
    suspicions = Verifier.load(verifier).score(pairs)
    trajectories: list[Values] = []
    steps: list[Values] = []
    for i, (one, suspicion) in enumerate(zip(attempts, suspicions, strict=True)):
        free = one.solution.signals()
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
    dataset: str, groups: Mapping[str, Sequence[Conversation]], reader: _Reader
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every turn of the test conversations; return the rows of both tables.

    Parameters
    ----------
    dataset : str
        Name of the data set.
    groups : mapping
        ``training`` and ``test`` conversations.
    reader : _Reader
        What the guard reads with, see `load_reader`.

    Returns
    -------
    tuple of DataFrame
        Rows of ``trajectories`` and of ``steps``; tokens are words. Signals are the ``guard``,
        ``words`` (TF-IDF of all that was said so far, rule included), and simpler ones:
        ``paired words`` (the guard with words in place of the encoder), ``no answers`` (the part of
        the guard that reads rule and introduction only), ``turn number`` and ``answer length``, the
        letters of all answers so far.
    """
    train, talks = groups["training"], groups["test"]
    ends = np.cumsum([len(talk.turns) for talk in talks])[:-1]
    lengths = [len(turn.assistant) for talk in talks for turn in talk.turns]
    guard, uninvited = _guard(reader, train, talks)
    said = {
        "guard": _most_suspicious(guard, ends),
        "words": np.split(_word_scores(train, talks), ends),
        "paired words": _most_suspicious(_guard(WORDS, train, talks)[0], ends),
        "no answers": np.split(uninvited, ends),
        "turn number": [np.arange(1, len(talk.turns) + 1) for talk in talks],
        "answer length": [np.cumsum(part) for part in np.split(np.array(lengths), ends)],
    }
    trajectories: list[Values] = []
    steps: list[Values] = []
    for i, talk in enumerate(talks):
        tokens = np.array([len(turn.assistant.split()) for turn in talk.turns])
        trajectories.append(
            (dataset, talk.conversation_id, "composed", "test", len(tokens), int(tokens.sum()),
             talk.label, talk.text())
        )
        steps += _step_rows(dataset, talk.conversation_id,
                            {signal: scores[i] for signal, scores in said.items()}, tokens,
                            talk.label, [turn.label for turn in talk.turns])
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


def step_auroc(steps: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """AUROC of every signal for wrong steps, with bootstrap 95 % intervals over trajectories.

    Parameters
    ----------
    steps : DataFrame
        Rows of the table ``steps`` with known step labels.
    rng : Generator
        Draws the resamples. Steps of one trajectory are dependent, and so are conversations of one
        place, so whole trajectories or places are resampled, the same for all signals of a set.

    Returns
    -------
    DataFrame
        ``dataset, signal, steps, wrong, auroc, low, high``, and with ``behind, behind_low,
        behind_high`` how far a signal stays behind the first one of its set.
    """
    rows = []
    for dataset, together in steps.groupby("dataset", sort=False):
        names = together["trajectory_id"].str.partition("/")[0]
        count = names.nunique()
        draws = rng.multinomial(count, np.full(count, 1 / count), BOOTSTRAPS).T.astype(np.float32)
        best: tuple[float, np.ndarray] | None = None
        for signal, group in together.groupby("signal", sort=False):
            codes = pd.factorize(names[group.index])[0]
            labels, scores = group["step_label"].to_numpy(), group["score"].to_numpy()
            drawn = resampled_auroc(scores, labels, codes, draws)
            area = auroc(scores, labels)
            best = best or (area, drawn)
            rows.append((dataset, signal, len(group), float(labels.mean()), area,
                         *np.nanquantile(drawn, LIMITS), best[0] - area,
                         *np.nanquantile(best[1] - drawn, LIMITS)))
    columns = ["dataset", "signal", "steps", "wrong", "auroc", "low", "high", "behind",
               "behind_low", "behind_high"]
    return pd.DataFrame(rows, columns=columns)


def error_rows(generator: str, attempts: Sequence[_Attempt]) -> pd.DataFrame:
    """One row per generated step: what the checker, the training texts and the generator say of it.

    Columns are ``generator, step, verdict``, ``first`` (the first wrong line of its solution),
    ``taught`` (the training texts have this line there) and ``chance`` (the generator's probability
    of the least likely token of the line, in [0, 1]).
    """
    rows: list[Values] = []
    for one in attempts:
        chances = np.exp(-one.solution.signals()["min_logprob"])
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


@dataclass(frozen=True)
class _Reader:
    """What turns texts into vectors, shape (n_texts, dimension), and what it is called."""

    name: str
    pretrained: bool
    embed: Callable[[Sequence[str]], np.ndarray]


def _word_vectors(texts: Sequence[str]) -> np.ndarray:
    words = HashingVectorizer(n_features=WORD_COLUMNS, stop_words="english")
    return np.asarray(words.transform(texts).toarray())


WORDS = _Reader("the words that two texts share", False, _word_vectors)


def load_reader() -> _Reader:
    """Return the pretrained sentence encoder or, where it cannot be loaded, shared words."""
    try:
        return _Reader("the pretrained sentence encoder all-MiniLM-L6-v2", True,
                       Encoder.load().embed)
    except ModelError as error:
        return replace(WORDS, name=f"{WORDS.name}, for {error}")


def _exchanges(talks: Sequence[Conversation]) -> pd.DataFrame:
    """One row per turn: the four texts of `TEXTS`, and what is true of them."""
    return pd.DataFrame(
        (talk.rule, talk.introduction, turn.user, turn.assistant, turn.act == "give",
         turn.thing == talk.reserved, talk.entitled)
        for talk in talks for turn in talk.turns
    ).set_axis([*TEXTS, "given", "reserved", "entitled"], axis=1)


def _guard(
    reader: _Reader, train: Sequence[Conversation], test: Sequence[Conversation]
) -> tuple[np.ndarray, np.ndarray]:
    """Probability that an exchange breaks the rule, as a product of three, and the last of them.

    Each is a balanced logistic regression on vectors from which the mean of the training texts of
    their kind was taken: whether something is given, from the answer; whether that is reserved,
    from the cosines of rule with question and answer; and whether the user is not entitled, from
    the cosine of rule and introduction.

    Returns
    -------
    tuple of numpy.ndarray, shape (n_turns of the test,)
    """
    known, new = _exchanges(train), _exchanges(test)
    texts = pd.Index(pd.unique(pd.concat([known, new])[list(TEXTS)].to_numpy().ravel()))
    vectors = reader.embed(list(texts))
    centres = {kind: vectors[texts.get_indexer(known[kind].unique())].mean(0) for kind in TEXTS}

    def evidence(frame: pd.DataFrame) -> dict[str, np.ndarray]:
        rule, user, asked, answer = (
            normalize(vectors[texts.get_indexer(frame[kind])] - centres[kind]) for kind in TEXTS
        )
        return {"given": answer,
                "reserved": np.stack([(rule * asked).sum(1), (rule * answer).sum(1)], axis=1),
                "entitled": (rule * user).sum(1, keepdims=True)}

    seen, unseen, sure = evidence(known), evidence(new), {}
    for part, table in seen.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(
            C=0.01, class_weight="balanced", max_iter=500))
        sure[part] = model.fit(table, known[part]).predict_proba(unseen[part])[:, 1]
    uninvited = 1 - sure["entitled"]
    return sure["given"] * sure["reserved"] * uninvited, uninvited


def _most_suspicious(scores: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Per conversation and turn, the highest score so far: what is broken stays broken."""
    return [np.maximum.accumulate(part) for part in np.split(scores, ends)]


def _word_scores(train: Sequence[Conversation], test: Sequence[Conversation]) -> np.ndarray:
    """Log odds that the rule is broken by then, of TF-IDF over all that was said so far."""

    def so_far(talks: Sequence[Conversation]) -> list[str]:
        return [
            " ".join([talk.rule, talk.introduction,
                      *(f"{turn.user} {turn.assistant}" for turn in talk.turns[: k + 1])])
            for talk in talks for k in range(len(talk.turns))
        ]

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(max_iter=500),
    )
    model.fit(so_far(train), [turn.label for talk in train for turn in talk.turns])
    return np.asarray(model.decision_function(so_far(test)))
