"""Limits that all threads of a monitor share: how fast it may ask, and how much it may spend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from monitorlab.monitors.monitor import MonitorError, MonitorStop

SECONDS = 60.0  # the limits are stated per minute


class RateLimiter:
    """A token bucket for requests and one for tokens, shared by threads.

    The buckets hold one request, so requests are spread evenly: a bucket with a whole minute in it
    would let twice the limit through in the first minute. A request with more tokens than usual
    makes the next one wait longer.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float
        0 is no limit. In no minute are there more requests than the first; nor more tokens than
        the second plus those of one request.
    clock : callable
        Seconds of a clock that never goes back.
    sleep : callable
        Waits for a number of seconds.
    """

    def __init__(
        self,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, value in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if value < 0:
                raise MonitorError(f"{name}_per_minute is {value}, expected 0 (none) or more")
        self._request_s = SECONDS / requests_per_minute if requests_per_minute else 0.0
        self._token_s = SECONDS / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._paused = self._next_request = self._next_token = clock()

    def acquire(self, tokens: float = 0) -> float:
        """Wait until a request of so many tokens may go; return the seconds waited."""
        waited = 0.0
        while True:
            with self._lock:
                now = self._clock()
                wait = max(self._paused, self._next_request, self._next_token) - now
                if wait <= 0:
                    self._next_request = now + self._request_s
                    self._next_token = now + tokens * self._token_s
                    return waited
            self._sleep(wait)
            waited += wait

    def give_back(self, tokens: float) -> None:
        """Return tokens that a request was granted and did not use; negative ones are taken."""
        with self._lock:
            self._next_token -= tokens * self._token_s

    def pause(self, seconds: float) -> None:
        """Let no thread begin a request for so many seconds; an earlier pause may last longer."""
        with self._lock:
            self._paused = max(self._paused, self._clock() + seconds)


@dataclass(frozen=True)
class Prices:
    """Prices in USD per million tokens of the prompt and of the reply."""

    input: float
    output: float

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Price of a call in USD."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def prices(input_price: float | None, output_price: float | None, cap_usd: float) -> Prices | None:
    """Return the prices if there are any.

    Raises
    ------
    MonitorError
        If one is missing or negative, or there is a cap without prices.
    """
    if input_price is None and output_price is None:
        if cap_usd:
            raise MonitorError("cost_cap_usd needs prices: set input_price and output_price, in "
                               "USD per million tokens")
        return None
    if input_price is None or output_price is None or min(input_price, output_price) < 0:
        raise MonitorError("set both input_price and output_price, at least 0 USD per million "
                           f"tokens; found {input_price} and {output_price}")
    return Prices(input_price, output_price)


class Budget:
    """Money that all threads of a monitor may spend together.

    A call reserves the most that it should cost and settles when its true price is known. A call
    that fits only if calls in progress turn out cheaper waits for them.

    Parameters
    ----------
    cap_usd : float
        0 is no cap.
    """

    def __init__(self, cap_usd: float = 0) -> None:
        if cap_usd < 0:
            raise MonitorError(f"cost_cap_usd is {cap_usd}, expected 0 (none) or more")
        self._cap = cap_usd
        self._spent = self._reserved = 0.0
        self._in_progress = 0
        self._changed = threading.Condition()

    @property
    def spent(self) -> float:
        """What settled calls have cost so far, in USD."""
        return self._spent

    def reserve(self, most: float) -> None:
        """Set money aside for a call.

        Raises
        ------
        MonitorStop
            If it does not fit under the cap, although no other call is in progress.
        """
        with self._changed:
            while self._cap and self._spent + self._reserved + most > self._cap:
                if not self._in_progress:
                    raise MonitorStop(
                        f"cost cap of ${self._cap:.6g} reached after ${self._spent:.6g}: the next "
                        f"call may cost ${most:.6g}. Raise cost_cap_usd and run again; what was "
                        "answered is stored"
                    )
                self._changed.wait()
            self._reserved += most
            self._in_progress += 1

    def settle(self, reserved: float, cost: float) -> None:
        """Turn what a call had reserved into what it cost."""
        with self._changed:
            self._in_progress -= 1
            # exactly 0 when nothing is in progress, whatever was rounded on the way
            self._reserved = self._reserved - reserved if self._in_progress else 0.0
            self._spent += cost
            self._changed.notify_all()
