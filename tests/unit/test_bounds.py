"""P-values and bounds against published reference values and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from monitorlab.evaluation.label_noise import eta_from_agreement
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.ranks import _binomial_p_value, hoeffding_bentkus_p_value

# (n, c, level, Hoeffding-Bentkus p, exact binomial p)
REFERENCE = [
    (100, 1, 0.05, 0.08427963824, 0.03708120933),
    (133, 3, 0.05, 0.2612160407, 0.09609601107),
    (1000, 82, 0.10, 0.08135011442, 0.02992703463),
    (10, 0, 0.10, 0.3486784401, 0.3486784401),
    (50, 0, 0.05, 0.07694497528, 0.07694497528),
    (1000, 38, 0.05, 0.1178325988, 0.04334819061),
]


@pytest.mark.parametrize(("n", "count", "level", "hb", "binomial"), REFERENCE)
def test_reference_p_values(n, count, level, hb, binomial):
    assert float(hoeffding_bentkus_p_value(count / n, n, level)) == pytest.approx(hb, abs=1e-8)
    assert float(_binomial_p_value(count / n, n, level)) == pytest.approx(binomial, abs=1e-8)


def test_reference_upper_bounds():
    assert eta_from_agreement(2, 100, 0.1) == pytest.approx(0.05234529018, abs=1e-8)
    assert eta_from_agreement(0, 50, 0.1) == pytest.approx(0.04500741398, abs=1e-8)
    assert eta_from_agreement(18, 500, 0.1) == pytest.approx(0.0491768201, abs=1e-8)


def test_upper_bound_edges():
    assert eta_from_agreement(7, 7, 0.1) == 1.0
    assert 0.0 < eta_from_agreement(0, 7, 0.1) < 1.0


@pytest.mark.parametrize("n", [5, 66, 100, 1000])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.5])
def test_agrees_with_mapie_where_its_ceil_is_right(n, level):
    """MAPIE computes ceil(n * (c / n)) in floating point, which sometimes lands on c + 1."""
    counts = np.arange(n)
    rates = counts / n
    right = np.ceil(n * rates) == counts
    theirs = compute_hoeffding_bentkus_p_value(rates, n, level)[:, 0]
    ours = hoeffding_bentkus_p_value(counts / n, n, level)
    np.testing.assert_allclose(ours[right], np.minimum(theirs, 1.0)[right], rtol=1e-9, atol=1e-15)
    assert right.mean() > 0.8
    exact = compute_hoeffding_bentkus_p_value(rates, n, level, binary=True)[:, 0]
    ours = np.minimum(ours, _binomial_p_value(counts / n, n, level))
    np.testing.assert_allclose(ours[right], exact[right], rtol=1e-9, atol=1e-15)


def test_the_float_ceil_fault_is_real():
    """At n = 100 and c = 7 the floating-point ceil is 8: MAPIE's tail counts one alarm too many."""
    assert np.ceil(100 * (7 / 100)) == 8
    theirs = compute_hoeffding_bentkus_p_value(np.array([0.07]), 100, 0.1, binary=True)[0, 0]
    assert float(_binomial_p_value(7 / 100, 100, 0.1)) < theirs


def test_binomial_p_value_never_exceeds_hoeffding_bentkus():
    for n in (5, 50, 500):
        counts = np.arange(n)
        for level in (0.01, 0.1, 0.5):
            exact = _binomial_p_value(counts / n, n, level)
            assert np.all(exact <= hoeffding_bentkus_p_value(counts / n, n, level) + 1e-12)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, float("nan")])
def test_level_outside_the_open_interval_is_refused(level):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        check_level(level)


def test_counts_must_be_whole_and_losses_in_range():
    with pytest.raises(TypeError, match="integer"):
        eta_from_agreement(0.5, 10)
    with pytest.raises(ValueError, match="11 disagreements on 10 samples"):
        eta_from_agreement(11, 10)
    with pytest.raises(ValueError, match="n of at least 1"):
        hoeffding_bentkus_p_value(0, 0, 0.1)
    with pytest.raises(ValueError, match="losses between 0 and 1"):
        hoeffding_bentkus_p_value(1.5, 10, 0.1)
