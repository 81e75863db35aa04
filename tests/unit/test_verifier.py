"""The miniature process reward model: causal, blind to padding, and it learns from labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForTokenClassification

from monitorlab.models import ModelSize, Training
from monitorlab.signals.arithmetic import Difficulty
from monitorlab.signals.solver import Generator, Verifier

SIZE = ModelSize(hidden=32, layers=2, heads=2)
PROBLEMS = Difficulty(2, 4, 15, 5, 1).draw(np.random.default_rng(0), 300)


def spoiled(i: int) -> tuple[str, str, tuple[int, ...]]:
    """A reference solution; every other one ends in a line with an operation nobody asked for."""
    problem = PROBLEMS[i]
    text = problem.solution
    if i % 2:
        text = "\n".join([*text.rstrip("\n").split("\n")[:-1], "Jan: 1*1=1", ""])
    return problem.text, text, problem.check(text).step_labels


EXAMPLES = [spoiled(i) for i in range(len(PROBLEMS))]
PAIRS = [(problem, text) for problem, text, _ in EXAMPLES]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    pairs = [(p.text, p.solution) for p in PROBLEMS]
    settings = Training(SIZE, 10, 512, 1e-2)
    # every piece of the spoiled lines must be in the vocabulary
    extra = [("Jan", "Jan: 1*1=1\n")]
    Generator.train([*pairs, *extra], pairs[:20], {"g": 0.99}, settings, folder, seed=1)
    return folder / "g"


@pytest.fixture(scope="module")
def verifier(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verifier")
    Verifier.train(EXAMPLES[:200], Training(SIZE, 60, 512, 1e-2), folder, seed=2, base=generator)
    return folder


def test_it_is_an_ordinary_token_classifier(verifier: Path) -> None:
    assert AutoModelForTokenClassification.from_pretrained(verifier).config.num_labels == 2


def test_it_learns_to_tell_wrong_steps(verifier: Path) -> None:
    scores = np.concatenate(Verifier.load(verifier).score(PAIRS[200:]))
    labels = np.concatenate([labels for _, _, labels in EXAMPLES[200:]])
    assert roc_auc_score(labels, scores) > 0.9
    assert ((scores >= 0) & (scores <= 1)).all()


def test_one_pass_equals_scoring_every_prefix(verifier: Path) -> None:
    problem, text = PAIRS[1]
    whole = Verifier.load(verifier).score([(problem, text)])[0]
    lines = text.rstrip("\n").split("\n")
    for k in range(1, len(lines) + 1):
        prefix = "".join(f"{line}\n" for line in lines[:k])
        assert Verifier.load(verifier).score([(problem, prefix)])[0][-1] == pytest.approx(
            whole[k - 1], abs=1e-5
        )


def test_the_company_in_a_batch_does_not_matter(verifier: Path) -> None:
    together = Verifier.load(verifier).score(PAIRS[:12])
    for pair, expected in zip(PAIRS[:12], together, strict=True):
        np.testing.assert_allclose(Verifier.load(verifier).score([pair])[0], expected, atol=1e-5)


def test_a_last_line_without_its_break_is_a_step_too(verifier: Path) -> None:
    problem, text = PAIRS[0]
    assert len(Verifier.load(verifier).score([(problem, text.rstrip("\n"))])[0]) == text.count("\n")


def test_one_kind_of_label_is_refused(generator: Path, tmp_path: Path) -> None:
    only_right = [example for example in EXAMPLES if not any(example[2])][:20]
    settings = Training(SIZE, 1, 512, 1e-2)
    with pytest.raises(ValueError, match="right and wrong steps"):
        Verifier.train(only_right, settings, tmp_path, seed=0, base=generator)
    problem, text, labels = EXAMPLES[1]
    with pytest.raises(ValueError, match=f"{len(labels) + 1} labels for {len(labels)} steps"):
        Verifier.train([(problem, text, [*labels, 0])], settings, tmp_path, seed=0, base=generator)
