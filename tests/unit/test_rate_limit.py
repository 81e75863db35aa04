"""Limits shared by threads, with a clock that only moves when somebody waits."""

from __future__ import annotations

import threading

import pytest

from monitorlab.monitors.api.monitor import _Budget, _RateLimiter
from monitorlab.monitors.monitor import MonitorError, MonitorStop


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        with self._lock:
            self.now += seconds


def limiter(requests: float = 0, tokens: float = 0) -> tuple[_RateLimiter, Clock]:
    clock = Clock()
    return _RateLimiter(requests, tokens, clock=clock, sleep=clock.sleep), clock


def most_in_a_minute(starts: list[float], weights: list[float]) -> float:
    """The largest sum of weights in any half-open window of 60 s."""
    pairs = list(zip(starts, weights, strict=True))
    return max(sum(w for s, w in pairs if -1e-6 <= s - first < 60 - 1e-6) for first in starts)


def test_no_limit_never_waits():
    limit, clock = limiter()
    assert [limit.acquire(10**6) for _ in range(100)] == [0.0] * 100
    assert clock.now == 1000.0


def test_requests_are_spread_over_the_minute_from_the_first_one_on():
    limit, clock = limiter(requests=30)
    starts = []
    for _ in range(100):
        limit.acquire()
        starts.append(clock.now)
    assert starts[0] == 1000.0
    assert most_in_a_minute(starts, [1.0] * 100) == 30
    assert starts[-1] - starts[0] == pytest.approx(99 * 2)


def test_tokens_in_a_minute_stay_below_the_limit_and_one_request():
    limit, clock = limiter(tokens=1000)
    sizes = [10.0, 500.0, 20.0, 900.0, 300.0] * 10
    starts = []
    for size in sizes:
        limit.acquire(size)
        starts.append(clock.now)
    assert most_in_a_minute(starts, sizes) <= 1000 + 900
    assert clock.now - 1000.0 == pytest.approx(sum(sizes[:-1]) * 60 / 1000)


def test_both_limits_hold_at_once():
    limit, _ = limiter(requests=60, tokens=600)
    limit.acquire(1)  # 1 s by requests, .1 s by tokens
    assert limit.acquire(100) == pytest.approx(1.0)
    assert limit.acquire(1) == pytest.approx(10.0)


def test_idle_time_is_not_saved_up():
    limit, clock = limiter(requests=60)
    limit.acquire()
    clock.sleep(600)
    assert limit.acquire() == 0.0
    assert limit.acquire() == pytest.approx(1.0)


def test_unused_tokens_come_back_and_used_up_ones_are_taken():
    limit, _ = limiter(tokens=600)
    limit.acquire(100)
    limit.give_back(60)
    assert limit.acquire(0) == pytest.approx(4.0)
    limit.give_back(-20)
    assert limit.acquire(0) == pytest.approx(2.0)


def test_a_pause_holds_up_everybody_and_a_shorter_one_does_not_end_it():
    limit, clock = limiter()
    limit.pause(5.0)
    limit.pause(1.0)
    assert limit.acquire() == pytest.approx(5.0)
    assert limit.acquire() == 0.0
    assert clock.now == pytest.approx(1005.0)


def test_a_pause_reaches_threads_that_are_waiting_already():
    clock = Clock()
    paused = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if not paused:  # a 429 arrives while this thread waits for its turn
            paused.append(True)
            limit.pause(30.0)

    limit = _RateLimiter(60, clock=clock, sleep=sleep)
    limit.acquire()
    assert limit.acquire() == pytest.approx(1.0 + 30.0)


def test_threads_share_one_limit():
    limit, clock = limiter(requests=120)
    starts: list[float] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(25):
            limit.acquire()
            with lock:
                starts.append(clock.now)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) == 200
    assert clock.now - 1000.0 >= 199 * 0.5 - 1e-6


@pytest.mark.parametrize(("requests", "tokens"), [(-1, 0), (0, -1)])
def test_negative_limits_are_refused(requests, tokens):
    with pytest.raises(MonitorError, match="per_minute is -1, expected 0"):
        _RateLimiter(requests, tokens)


def test_cost_is_per_million_tokens():
    assert _Budget(0, 0.25, 2.0).price(1_000_000, 500_000) == pytest.approx(1.25)


def test_prices_come_in_pairs_and_a_cap_needs_them():
    assert _Budget().price(7, 7) is None
    assert _Budget(1, 0, 0).price(7, 7) == 0
    with pytest.raises(MonitorError, match="cost_cap_usd needs prices"):
        _Budget(1)
    with pytest.raises(MonitorError, match="both input_price and output_price"):
        _Budget(0, 1.0)
    with pytest.raises(MonitorError, match="at least 0"):
        _Budget(0, -1.0, 1.0)


def test_the_budget_stops_before_the_call_that_would_not_fit():
    budget = _Budget(1.0, 1, 1)
    budget.reserve(0.6)
    budget.settle(0.6, 0.5)
    with pytest.raises(MonitorStop, match=r"cap of \$1 reached after \$0.5: the next call may"):
        budget.reserve(0.51)
    budget.reserve(0.5)  # exactly the cap is allowed
    assert budget.spent == pytest.approx(0.5)


def test_without_a_cap_everything_fits_and_is_counted():
    budget = _Budget()
    for _ in range(3):
        budget.reserve(100.0)
    budget.settle(100.0, 7.0)
    assert budget.spent == 7.0


def test_a_call_that_fits_only_if_others_are_cheaper_waits_for_them():
    budget = _Budget(1.0, 1, 1)
    budget.reserve(0.9)
    outcome: list[str] = []

    def wait() -> None:
        budget.reserve(0.9)
        outcome.append("reserved")

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.05)
    assert outcome == []
    budget.settle(0.9, 0.05)
    thread.join(5)
    assert outcome == ["reserved"]


def test_a_waiting_call_stops_when_the_others_used_the_money():
    budget = _Budget(1.0, 1, 1)
    budget.reserve(0.9)
    outcome: list[str] = []

    def wait() -> None:
        try:
            budget.reserve(0.9)
        except MonitorStop as stop:
            outcome.append(str(stop))

    thread = threading.Thread(target=wait)
    thread.start()
    budget.settle(0.9, 0.9)
    thread.join(5)
    assert len(outcome) == 1 and "reached after $0.9" in outcome[0]


def test_threads_never_spend_more_than_the_cap_together():
    budget = _Budget(1.0, 1, 1)
    stops: list[bool] = []

    def work() -> None:
        try:
            while True:
                budget.reserve(0.03)
                budget.settle(0.03, 0.02)
        except MonitorStop:
            stops.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stops) == 8
    assert 0.97 < budget.spent <= 1.0 + 1e-9
