"""Profiles: frozen, ordered by size, and an unknown name says which exist."""

import dataclasses

import pytest

from monitorlab.models import Training
from monitorlab.pipeline.profiles import PROFILES, Profile


def models() -> list[tuple[str, Training]]:
    return [
        (f"{name}.{role}", getattr(profile, role))
        for name, profile in PROFILES.items()
        for role in ("generator", "verifier")
    ]


def test_the_profiles_exist_under_their_own_names() -> None:
    assert list(PROFILES) == ["tiny", "cpu", "overnight", "gpu"]
    assert all(Profile.named(name).name == name for name in PROFILES)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown profile 'cuda': expected one of tiny, cpu"):
        Profile.named("cuda")


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Profile.named("tiny").online.delta = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(("name", "training"), models())
def test_every_model_can_be_built(name: str, training: Training) -> None:
    size = training.model
    assert size.hidden % size.heads == 0, f"{name}: hidden must be a multiple of heads"
    assert min(size.layers, training.steps, training.batch_tokens) > 0, name
    assert 0 < training.learning_rate < 1, name


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_protocol_of_the_paper_is_kept(name: str) -> None:
    online = Profile.named(name).online
    assert online.n_splits == 10
    assert online.levels == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert (online.calibration_fraction, online.delta) == (0.2, 0.1)


def test_profiles_grow() -> None:
    sizes = [(p.arithmetic.n_test, p.generator.steps, p.conversations.n_test)
             for p in PROFILES.values() if p.name != "overnight"]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


def test_overnight_is_cpu_but_for_what_cpu_reads_as_released() -> None:
    cpu, overnight = PROFILES["cpu"], PROFILES["overnight"]
    same = {"finetuning": cpu.finetuning, "evaluation": cpu.evaluation}
    assert dataclasses.replace(overnight, name="cpu", **same) == cpu
    asked = ("released", "asked_again", "language_pairs", "prompt_pairs", "replies")
    known = {name: getattr(cpu.evaluation, name) for name in asked}
    assert dataclasses.replace(overnight.evaluation, **known) == cpu.evaluation
    assert cpu.evaluation.released and not overnight.evaluation.released
    assert cpu.finetuning.recipe == overnight.finetuning.recipe
    assert cpu.finetuning.released and not overnight.finetuning.released
    assert overnight.finetuning.arms == PROFILES["gpu"].finetuning.arms
