"""Notebook 06: problems, two generators, a verifier and a guard, all small, and their step scores.

Everything that is trained goes through a checkpoint whose fingerprint holds the settings, the seed,
the data and the code, so it is reused as long as nothing changed.

The guard pairs the rule of a conversation with what is said later: three logistic regressions on
vectors of a pretrained sentence encoder ask whether an answer hands something out, whether that is
what the rule reserves, and whether the user is whom it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from monitorlab.display import style
from monitorlab.models import ModelError
from monitorlab.models.sentence_encoder import Encoder
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
FEWEST = 20  # steps at a position of a figure; a share of fewer is noise


@dataclass(frozen=True)
class Problems:
    """Problems by purpose; no problem occurs in two of them."""

    train: list[Exercise]
    held_out: list[Exercise]
    verifier: list[Exercise]
    test: list[Exercise]

    @classmethod
    def draw(cls, run: Run) -> Problems:
        """Draw the problems of a run: test first, training last, all distinct."""
        sizes = run.profile.arithmetic
        difficulty = Difficulty(sizes.min_steps, sizes.max_steps, sizes.max_value, sizes.max_term,
                                sizes.max_factor)
        drawn: list[list[Exercise]] = []
        for purpose, size in (("test", sizes.n_test), ("verifier", sizes.n_verifier),
                              ("held-out", HELD_OUT), ("training", sizes.n_train)):
            before = [problem for group in drawn for problem in group]
            drawn.append(difficulty.draw(run.rng(f"{purpose} problems"), size, before))
        test, verifier, held_out, train = drawn
        return cls(train, held_out, verifier, test)

    def fit_generators(self, run: Run) -> dict[str, Path]:
        """Return the checkpoints of the generators by name, trained in one go if one is new."""
        settings, seed = run.profile.generator, run.torch_seed("generators")
        temperature = run.profile.arithmetic.temperature
        pairs, held_out = ([(problem.text, problem.taught) for problem in group]
                           for group in (self.train, self.held_out))
        folder = run.checkpoint(
            "generators",
            {"settings": asdict(settings), "seed": seed, "pairs": pairs, "held_out": held_out,
             "targets": GENERATORS, "temperature": temperature},
            lambda empty: Generator.train(pairs, held_out, GENERATORS, settings, empty, seed,
                                          temperature, "training generators"),
        )
        return {name: folder / name for name in GENERATORS}

    def fit_verifier(self, run: Run, generators: Mapping[str, Path]) -> Path:
        """Return the checkpoint of the process reward model, trained if new.

        It learns from what both generators make of the problems that are set aside for it, every
        line checked, and begins as the strong one.
        """
        settings, seed = run.profile.verifier, run.torch_seed("verifier")
        examples = [(one.problem.text, one.solution.text, one.checked.step_labels)
                    for name, folder in generators.items()
                    for one in Attempts.of(run, name, folder, self.verifier)]
        base = generators["strong"]
        return run.checkpoint(
            "verifier",
            {"settings": asdict(settings), "seed": seed, "examples": examples,
             "base": f"{base.parent.name}/{base.name}"},  # the upper folder's name has the digest
            lambda folder: Verifier.train(examples, settings, folder, seed, base=base,
                                          title="training verifier"),
        )


@dataclass(frozen=True)
class _Attempt:
    """One generated solution, its problem and what the exact checker says about it."""

    problem: Exercise
    solution: Solution
    checked: Checked


class Attempts(list[_Attempt]):
    """Solutions of one generator, one of each problem, checked line by line.

    Parameters
    ----------
    generator : str
        Its name.
    attempts : iterable
        In the order of the problems.
    """

    def __init__(self, generator: str, attempts: Iterable[_Attempt]) -> None:
        super().__init__(attempts)
        self.generator = generator

    @classmethod
    def of(cls, run: Run, name: str, folder: Path, problems: Sequence[Exercise]) -> Attempts:
        """Let the generator of a checkpoint solve problems, once each, and check every line."""
        purpose = f"{name} on {len(problems)} problems"
        solutions = Generator.load(folder).solve(
            [problem.text for problem in problems], run.torch_seed(purpose),
            run.profile.arithmetic.temperature, f"generating, {purpose}")
        return cls(name, (_Attempt(problem, solution, problem.check(solution.text))
                          for problem, solution in zip(problems, solutions, strict=True)))

    def tables(self, dataset: str, verifier: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Score the attempts with all three signals.

        Parameters
        ----------
        dataset : str
            Name of the data set.
        verifier : Path
            From `Problems.fit_verifier`.

        Returns
        -------
        tuple of DataFrame
            Rows of ``trajectories`` and of ``steps``.
        """
        pairs = [(one.problem.text, one.solution.text) for one in self]
        found = []
        for i, (one, suspicion) in enumerate(
                zip(self, Verifier.load(verifier).score(pairs), strict=True)):
            free = one.solution.signals()
            signals = {"verifier": suspicion, "min_logprob": free["min_logprob"],
                       "mean_logprob": free["mean_logprob"]}
            found.append(_Scored(f"{self.generator}_{i:05d}", "\n".join(pairs[i]),
                                 one.checked.label, np.asarray(free["tokens"]),
                                 one.checked.step_labels, signals))
        return _tables(dataset, self.generator, found)

    def error_rows(self) -> pd.DataFrame:
        """One row per step: what the checker, the training texts and the generator say of it.

        Columns are ``generator, step, verdict``, ``first`` (the first wrong line of its solution),
        ``taught`` (the training texts have this line there) and ``chance`` (the generator's
        probability of the least likely token of the line, in [0, 1]).
        """
        rows = []
        for one in self:
            chances = np.exp(-one.solution.signals()["min_logprob"])
            written = one.solution.text.split("\n")
            taught = one.problem.taught.split("\n")
            for k, (verdict, chance) in enumerate(
                    zip(one.checked.verdicts, chances, strict=True), 1):
                rows.append((self.generator, k, verdict.value, k == one.checked.first_error,
                             written[k - 1 : k] == taught[k - 1 : k], float(chance)))
        columns = ["generator", "step", "verdict", "first", "taught", "chance"]
        return pd.DataFrame(rows, columns=columns)

    def examples(self) -> list[int]:
        """Positions of one right attempt and one that goes wrong in the middle, of fair length."""
        longest = max(len(one.checked.verdicts) for one in self)
        right = [i for i, one in enumerate(self) if one.checked.first_error == 0]
        wrong = [i for i, one in enumerate(self)
                 if one.checked.label and 1 < one.checked.first_error < len(one.checked.verdicts)]

        def misfit(i: int) -> tuple[int, int]:
            return abs(len(self[i].checked.verdicts) - (longest - 1)), i

        return [min(group, key=misfit) for group in (right, wrong) if group]

    def plot(self, steps: pd.DataFrame, positions: Sequence[int], title: str) -> Figure:
        """Write out a few solutions, each step with a bar of suspicion per signal.

        Parameters
        ----------
        steps : DataFrame
            From `tables`; suspicion is drawn as a rank in [0, 1] among all steps.
        positions : sequence of int
            Which attempts.
        title : str
            Title of the figure.
        """
        ranked = steps.assign(rank=steps.groupby(["dataset", "signal"])["score"].rank(pct=True))
        longest = max(len(self[i].checked.verdicts) for i in positions)
        fig, axes = style.subplots(1, len(positions), style.TWO_COLUMNS, 0.42 * longest + 1.5)
        for ax, i in zip(axes[0], positions, strict=True):
            checked, lines = self[i].checked, self[i].solution.text.rstrip("\n").split("\n")
            mine = ranked[ranked["trajectory_id"].str.endswith(f"_{i:05d}")]
            signals = list(mine.groupby("signal", sort=False))
            y, height = np.arange(len(lines)), 0.8 / len(signals)
            for k, (signal, group) in enumerate(signals):
                offset = (k - (len(signals) - 1) / 2) * height
                ax.barh(y + offset, group.sort_values("step")["rank"], height * 0.9,
                        label=style.SIGNAL_NAMES.get(signal, signal),
                        color=style.SIGNAL_COLORS.get(signal, style.GREY))
            ax.set_yticks(y, lines, family="monospace")
            for text, label in zip(ax.get_yticklabels(), checked.step_labels, strict=True):
                text.set_color(style.UNSAFE if label else style.BLACK)
            ax.set(xlim=(0, 1), ylim=(longest - 0.5, -0.5),
                   xlabel="suspicion, as a rank among all steps\n(high means unsafe)")
            ax.grid(axis="y", visible=False)
            outcome = "wrong answer" if checked.label else "right answer"
            ax.set_title(f"{outcome} (expected {self[i].problem.answer})", fontsize=9)
        return style.finished(fig, 3, title)


@dataclass(frozen=True)
class _Scored:
    """A sequence of the test data with the scores of its steps, by signal."""

    name: str
    text: str
    label: int
    tokens: np.ndarray
    step_labels: Sequence[int]
    signals: Mapping[str, np.ndarray]


def _tables(
    dataset: str, generator: str, sequences: Iterable[_Scored]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the tables ``trajectories`` and ``steps``."""
    trajectories: list[tuple[object, ...]] = []
    steps: list[tuple[object, ...]] = []
    for one in sequences:
        trajectories.append((dataset, one.name, generator, "test", len(one.tokens),
                             int(one.tokens.sum()), one.label, one.text))
        for signal, scores in one.signals.items():
            rows = zip(scores, one.tokens, one.step_labels, strict=True)
            steps += [(dataset, signal, one.name, k, float(score), int(count), one.label, int(step))
                      for k, (score, count, step) in enumerate(rows, 1)]
    return (
        pd.DataFrame(trajectories, columns=["dataset", "trajectory_id", "generator", "split",
                                            "n_steps", "tokens", "label", "text"]),
        pd.DataFrame(steps, columns=["dataset", "signal", "trajectory_id", "step", "score",
                                     "tokens", "label", "step_label"]),
    )


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
    return pd.DataFrame(rows, columns=["dataset", "signal", "steps", "wrong", "auroc", "low",
                                       "high", "behind", "behind_low", "behind_high"])


# The guard ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """What turns texts into vectors, shape (n_texts, dimension), and what it is called."""

    name: str
    pretrained: bool
    embed: Callable[[Sequence[str]], np.ndarray]

    @classmethod
    def load(cls) -> Reader:
        """Return the pretrained sentence encoder or, where it cannot be loaded, shared words."""
        try:
            return cls("the pretrained sentence encoder all-MiniLM-L6-v2", True,
                       Encoder.load().embed)
        except ModelError as error:
            words = cls.words()
            return replace(words, name=f"{words.name}, for {error}")

    @classmethod
    def words(cls) -> Reader:
        """Return a reader that knows nothing but which words two texts share."""
        words = HashingVectorizer(n_features=WORD_COLUMNS, stop_words="english")
        return cls("the words that two texts share", False,
                   lambda texts: np.asarray(words.transform(texts).toarray()))

    def tables(
        self, dataset: str, groups: Mapping[str, Sequence[Conversation]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Score every turn of the test conversations; return the rows of both tables.

        Parameters
        ----------
        dataset : str
            Name of the data set.
        groups : mapping
            ``training`` and ``test`` conversations.

        Returns
        -------
        tuple of DataFrame
            Rows of ``trajectories`` and of ``steps``; tokens are words. Signals are the ``guard``,
            ``words`` (TF-IDF of all that was said so far, rule included), and simpler ones:
            ``paired words`` (the guard with words in place of the encoder), ``no answers`` (the
            part of the guard that reads rule and introduction only), ``turn number`` and ``answer
            length``, the letters of all answers so far.
        """
        train, talks = groups["training"], groups["test"]
        ends = np.cumsum([len(talk.turns) for talk in talks])[:-1]
        lengths = [len(turn.assistant) for talk in talks for turn in talk.turns]
        guard, uninvited = self._guard(train, talks)
        said = {
            "guard": _most_suspicious(guard, ends),
            "words": np.split(_word_scores(train, talks), ends),
            "paired words": _most_suspicious(Reader.words()._guard(train, talks)[0], ends),
            "no answers": np.split(uninvited, ends),
            "turn number": [np.arange(1, len(talk.turns) + 1) for talk in talks],
            "answer length": [np.cumsum(part) for part in np.split(np.array(lengths), ends)],
        }
        found = []
        for i, talk in enumerate(talks):
            tokens = np.array([len(turn.assistant.split()) for turn in talk.turns])
            found.append(_Scored(talk.conversation_id, talk.text(), talk.label, tokens,
                                 [turn.label for turn in talk.turns],
                                 {signal: scores[i] for signal, scores in said.items()}))
        return _tables(dataset, "composed", found)

    def _guard(
        self, train: Sequence[Conversation], test: Sequence[Conversation]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probability that an exchange breaks the rule, a product of three, and the last of them.

        Each is a balanced logistic regression on vectors from which the mean of the training texts
        of their kind was taken: whether something is given, from the answer; whether that is
        reserved, from the cosines of rule with question and answer; and whether the user is not
        entitled, from the cosine of rule and introduction.

        Returns
        -------
        tuple of numpy.ndarray, shape (n_turns of the test,)
        """
        known, new = _exchanges(train), _exchanges(test)
        texts = pd.Index(pd.unique(pd.concat([known, new])[list(TEXTS)].to_numpy().ravel()))
        vectors = self.embed(list(texts))
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


def _exchanges(talks: Sequence[Conversation]) -> pd.DataFrame:
    """One row per turn: the four texts of `TEXTS`, and what is true of them."""
    return pd.DataFrame(
        (talk.rule, talk.introduction, turn.user, turn.assistant, turn.act == "give",
         turn.thing == talk.reserved, talk.entitled)
        for talk in talks for turn in talk.turns
    ).set_axis([*TEXTS, "given", "reserved", "entitled"], axis=1)


def _most_suspicious(scores: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Per conversation and turn, the highest score so far: what is broken stays broken."""
    return [np.maximum.accumulate(part) for part in np.split(scores, ends)]


def _word_scores(train: Sequence[Conversation], test: Sequence[Conversation]) -> np.ndarray:
    """Log odds that the rule is broken by then, of TF-IDF over all that was said so far."""

    def so_far(talks: Sequence[Conversation]) -> list[str]:
        texts = []
        for talk in talks:
            said = f"{talk.rule} {talk.introduction}"
            for turn in talk.turns:
                said = f"{said} {turn.user} {turn.assistant}"
                texts.append(said)
        return texts

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
                          LogisticRegression(max_iter=500))
    model.fit(so_far(train), [turn.label for talk in train for turn in talk.turns])
    return np.asarray(model.decision_function(so_far(test)))


# Figures ------------------------------------------------------------------------------------


def plot_auroc(frame: pd.DataFrame, title: str) -> Figure:
    """AUROC of each signal at the level of steps, with intervals.

    Parameters
    ----------
    frame : DataFrame
        Columns ``dataset, signal, auroc, low, high``.
    title : str
        Title of the figure.
    """
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS * 0.75, 0.36 * len(frame) + 1.3)
    ax = axes[0, 0]
    rows = frame.iloc[::-1].reset_index(drop=True)
    for y, row in rows.iterrows():
        arms = [[row["auroc"] - row["low"]], [row["high"] - row["auroc"]]]
        ax.errorbar(row["auroc"], y, xerr=arms, marker="o", capsize=3,
                    color=style.SIGNAL_COLORS.get(row["signal"], style.GREY))
    names = [style.SIGNAL_NAMES.get(signal, signal) for signal in rows["signal"]]
    sets = rows["dataset"].str.removeprefix("miniature_").str.replace("_", ", ")
    labels = [f"{name}: {one}" for name, one in zip(sets, names, strict=True)]
    ax.set_yticks(range(len(rows)), labels)
    ax.axvline(0.5, color=style.GREY, linestyle="--")
    ax.annotate("chance", (0.5, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -9),
                textcoords="offset points", color=style.GREY, fontsize=8)
    ax.set_xlim(min(0.45, float(rows["low"].min()) - 0.02), 1.0)
    ax.set_xlabel("step AUROC (higher is better)")
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_errors(frame: pd.DataFrame, title: str) -> Figure:
    """What kinds of wrong steps occur, and at which step the first one lies.

    Parameters
    ----------
    frame : DataFrame
        One row per generated step: ``generator, step, verdict, first`` with ``first`` true for the
        first wrong step of its solution. Positions with fewer than `FEWEST` steps are left out on
        the right.
    title : str
        Title of the figure.
    """
    fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 2.9)
    kinds_ax, place_ax = axes[0]
    generators = list(dict.fromkeys(frame["generator"]))
    colors = {"strong": style.SAFE, "weak": style.VERMILION}
    wrong = frame[frame["verdict"] != "right"]
    kinds = list(wrong["verdict"].value_counts().index)
    width = 0.8 / len(generators)
    for k, generator in enumerate(generators):
        rows = frame[frame["generator"] == generator]
        offset = (k - (len(generators) - 1) / 2) * width
        shares = [(rows["verdict"] == kind).mean() for kind in kinds]
        color = colors.get(generator, style.GREY)
        kinds_ax.barh(np.arange(len(kinds)) + offset, shares, width * 0.92, color=color,
                      label=f"{generator} generator")
        at = rows.groupby("step")["first"].agg(["mean", "size"])
        at = at[at["size"] >= FEWEST]
        place_ax.plot(at.index, at["mean"], marker="o", color=color)
    kinds_ax.set_yticks(range(len(kinds)), kinds)
    kinds_ax.invert_yaxis()
    kinds_ax.set_xlabel("share of all steps (lower is better)")
    place_ax.set(xlabel="position of the step", ylim=(0, None),
                 ylabel="first errors, share of steps\n(lower is better)")
    place_ax.xaxis.get_major_locator().set_params(integer=True)
    return style.finished(fig, len(generators), title)
