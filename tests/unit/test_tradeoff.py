"""The plane of miss rate and false alarm rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.api import OLS, add_constant

from monitorlab.evaluation.tradeoff import Line, pareto_front


def test_front_keeps_what_nothing_beats_on_both_rates():
    points = [(0.1, 0.5), (0.3, 0.3), (0.5, 0.1), (0.3, 0.4), (0.5, 0.1), (np.nan, 0.0), (0.6, 0.6)]
    front = pareto_front(pd.DataFrame(points, columns=["mr", "far"]))
    assert front.tolist() == [True, True, True, False, True, False, False]


def test_line_through_points_on_a_line():
    mr = np.linspace(0.1, 0.7, 7)
    line = Line.fit(pd.DataFrame({"mr": mr, "far": 0.49 - 0.42 * mr}))
    assert (line.slope, line.intercept, line.r) == pytest.approx((-0.42, 0.49, -1))
    assert line.p < 1e-10


def test_intervals_of_correlation_and_slope_are_those_of_the_textbook():
    random = np.random.default_rng(4)
    mr = random.random(22)
    far = 0.5 - 0.4 * mr + random.normal(0, 0.15, 22)
    line = Line.fit(pd.DataFrame({"mr": [*mr, np.nan], "far": [*far, 0.3]}))
    r = np.corrcoef(mr, far)[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * 1.959963985 / np.sqrt(19))
    assert line.n == 22
    assert (line.r, line.r_low, line.r_high) == pytest.approx((r, *ends))
    assert (line.slope, line.intercept) == pytest.approx(tuple(np.polyfit(mr, far, 1)))
    least_squares = OLS(far, add_constant(mr)).fit()  # an independent implementation
    assert (line.slope_low, line.slope_high) == pytest.approx(tuple(least_squares.conf_int()[1]))


def test_too_few_or_equal_monitors_have_no_line():
    three = pd.DataFrame({"mr": [0.1, 0.2, 0.3], "far": [0.3, 0.2, 0.2]})
    same = pd.DataFrame({"mr": [0.1] * 5, "far": np.linspace(0, 1, 5)})
    for rates in (three, same):
        line = Line.fit(rates)
        assert line.n == len(rates) and np.isnan(line.slope) and np.isnan(line.p)
