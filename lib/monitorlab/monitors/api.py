"""A monitor behind an OpenAI-compatible API: many calls at a time, none lost, none paid for twice.

A call is repeated only while no answer has arrived. The key is read from the environment, goes to
the client, and is taken out of everything else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai

from monitorlab.monitors.api_replies import (
    NO_MONEY,
    Answer,
    BrokenReplyError,
    Failure,
    failure_of,
    read_body,
    scrub,
    short,
    suspicion,
    without,
)
from monitorlab.monitors.api_settings import (
    check_setting,
    extra_fields,
    most_tokens,
    plain_url,
    read_key,
    request_fields,
    secrets_of,
)
from monitorlab.monitors.monitor import MonitorStop, Sample, chunks
from monitorlab.monitors.prompts import Prompt, load_prompt
from monitorlab.monitors.rate_limit import Budget, RateLimiter, prices
from monitorlab.monitors.replies import read_reply
from monitorlab.monitors.verdicts import ERROR, REFUSED, TRUNCATED, Verdict, failure

OPENAI = "https://api.openai.com/v1"
LONGEST_BACKOFF_S = 60.0
LONGEST_WAIT_S = 600.0  # a server that asks for more is left alone until the next run
BLOCKED = frozenset({"content_filter", "sensitive"})
WITHHELD = "the provider withheld the answer"


class ApiMonitor:
    """A monitor that asks a chat model through an OpenAI-compatible API.

    Parameters
    ----------
    model : str
        Identifier that the server knows; a dated one where there is one.
    prompt : str or Prompt
        Name of a monitor prompt, path of a prompt file, or the prompt.
    name : str
        How the tables call the monitor; `model` if empty.
    base_url : str
        Address up to ``/v1``; OpenAI if empty. User name, password, query and fragment in it are
        dropped: a key belongs into the environment.
    key_variable : str
        Environment variable with the key. Optional for a server on this machine.
    max_tokens : int
        Longest reply, with the thinking.
    limit_name : str
        "max_tokens", or "max_completion_tokens" where a provider insists on it.
    temperature : float or None
        None for the provider's own, where it takes no other.
    seed : int, optional
        Sent as `seed` plus the number of the draw.
    workers : int
        Calls at a time.
    requests_per_minute, tokens_per_minute : float
        Limits of this monitor, see :class:`RateLimiter`; 0 is none.
    cost_cap_usd : float
        The most that this object may spend; 0 is no cap. Before a call the highest price that it
        should have is set aside: prompt at three bytes a token and the longest reply. A call that
        ended without an answer, but may be charged, counts with that price.
    input_price, output_price : float, optional
        USD per million tokens; both or neither.
    logprobs : bool
        Ask for the log-probabilities of 20 alternatives per token and read the score from them.
        The score stays missing where a server has none. A sampled verdict may contradict it.
    timeout_s : float
        Seconds without a byte from the server after which a call counts as lost.
    max_retries : int
        How often a call is repeated after errors 408, 409, 425, 429 and from 500 up, timeouts,
        lost connections and bodies without an answer.
    extra : mapping
        Further fields of the request, such as ``{"reasoning_effort": "low"}`` or
        ``{"chat_template_kwargs": {"enable_thinking": False}}``.
    first_wait_s : float
        The first repetition waits a random time up to this, every further one up to twice as
        long, at most a minute; what the server asks for comes on top.
    sleep : callable
        Waits for a number of seconds.

    Raises
    ------
    MonitorError
        For a missing key and unusable settings; the message says what to set.
    """

    def __init__(
        self,
        model: str,
        prompt: str | Prompt,
        *,
        name: str = "",
        base_url: str = "",
        key_variable: str = "OPENAI_API_KEY",
        max_tokens: int = 512,
        limit_name: str = "max_tokens",
        temperature: float | None = 0.0,
        seed: int | None = None,
        workers: int = 8,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        cost_cap_usd: float = 0,
        input_price: float | None = None,
        output_price: float | None = None,
        logprobs: bool = False,
        timeout_s: float = 60,
        max_retries: int = 6,
        extra: Mapping[str, Any] | None = None,
        first_wait_s: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_setting("model", model, bool(model.strip()), "the identifier that the server knows")
        check_setting("workers", workers, workers >= 1, "at least 1")
        check_setting("max_retries", max_retries, max_retries >= 0, "at least 0")
        check_setting("timeout_s", timeout_s, timeout_s > 0, "a positive number")
        self.name = name or model
        self.workers = workers
        self._prompt = load_prompt(prompt) if isinstance(prompt, str) else prompt
        self.prompt = self._prompt.name
        self._model, self._key_variable = model, key_variable
        self._url = plain_url(base_url or OPENAI)
        key = read_key(key_variable, self._url)
        self._secrets = secrets_of(key)
        self._fields = request_fields(max_tokens, limit_name, temperature, logprobs)
        self._extra = extra_fields(extra or {}, self._secrets)
        self._seed, self._max_tokens = seed, max_tokens
        self._max_retries, self._first_wait_s, self._sleep = max_retries, first_wait_s, sleep
        self._prices = prices(input_price, output_price, cost_cap_usd)
        self._budget = Budget(cost_cap_usd)
        self._limiter = RateLimiter(requests_per_minute, tokens_per_minute, sleep=sleep)
        self._client = openai.OpenAI(
            api_key=key, base_url=self._url, timeout=timeout_s, max_retries=0
        )

    @property
    def spent_usd(self) -> float:
        """What this object has spent, in USD; 0 without prices."""
        return self._budget.spent

    def settings(self) -> Mapping[str, Any]:
        """Everything besides the sample that decides a reply; the key is not among it."""
        return {
            "kind": "api",
            "model": self._model,
            "base_url": "" if self._url == OPENAI else self._url,
            "prompt": self._prompt.digest,
            "seed": self._seed,
            **self._fields,
            "extra": self._extra,
        }

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """One sample at a time."""
        return chunks(len(samples), 1)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask about each sample.

        Raises
        ------
        MonitorStop
            If the key or the model is refused, no money is left, or the server asks for a wait
            that is too long.
        """
        return [self._judge(sample, draw) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Read the stored reply again; a score from log-probabilities stays with its verdict."""
        if verdict.status == ERROR or verdict.reason.startswith(WITHHELD):
            return verdict
        fresh = self._read(verdict.reply, verdict.status != TRUNCATED, sample)
        keep = self._prompt.answer != "score" and verdict.score is not None
        if keep and fresh.verdict == verdict.verdict:
            fresh = replace(fresh, score=verdict.score)
        return replace(
            fresh, input_tokens=verdict.input_tokens, output_tokens=verdict.output_tokens,
            seconds=verdict.seconds, cost_usd=verdict.cost_usd,
        )

    def _judge(self, sample: Sample, draw: int) -> Verdict:
        messages = self._prompt.messages(sample)
        body = {"messages": messages, **self._fields}
        if self._seed is not None:
            body["seed"] = self._seed + draw
        prompt_tokens = most_tokens(messages)
        for attempt in range(self._max_retries + 1):
            result = self._limited_call(body, prompt_tokens)
            if isinstance(result, Answer):
                return self._verdict(result, sample)
            reason = short(scrub(result.reason, self._secrets))
            self._stop_if_hopeless(result, reason)
            if not result.repeat:
                return failure(ERROR, reason)
            self._wait(result, attempt)
        return failure(ERROR, f"no answer in {self._max_retries + 1} calls, the last: {reason}")

    def _limited_call(self, body: Mapping[str, Any], prompt_tokens: int) -> Answer | Failure:
        """Make a call when the limits allow it, and account for it."""
        tokens = prompt_tokens + self._max_tokens
        most = self._prices.cost(prompt_tokens, self._max_tokens) if self._prices else 0.0
        self._limiter.acquire(tokens)
        self._budget.reserve(most)
        spent = most  # an interruption leaves it open whether the call is charged
        try:
            result = self._call(body)
            if isinstance(result, Answer):
                cost = self._cost(result)
                spent = most if cost is None else cost
            elif not result.spent:
                spent = 0.0
        finally:
            self._budget.settle(most, spent)
        if isinstance(result, Answer) and None not in (result.input_tokens, result.output_tokens):
            self._limiter.give_back(tokens - (result.input_tokens or 0)
                                    - (result.output_tokens or 0))
        return result

    def _call(self, body: Mapping[str, Any]) -> Answer | Failure:
        """Make one call. Errors become values: theirs hold the request, and so the key."""
        started = time.perf_counter()
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._model, extra_body=self._extra, **body
            )
            return replace(read_body(raw.text), seconds=time.perf_counter() - started)
        except BrokenReplyError as error:
            return Failure(f"HTTP 200 with {error}", repeat=True, spent=True)
        except openai.OpenAIError as error:
            return failure_of(error)

    def _stop_if_hopeless(self, result: Failure, reason: str) -> None:
        """Raise MonitorStop for a failure that every other call would meet, too."""
        if result.status in (401, 403):
            raise MonitorStop(f"{self._url} refused the key ({reason}): set {self._key_variable} "
                              f"to a key that may use {self._model}")
        if result.status == 404:
            raise MonitorStop(f"{self._url} does not offer model {self._model!r} ({reason}): "
                              "check the identifier and base_url")
        if result.status == NO_MONEY:
            raise MonitorStop(f"the account at {self._url} has no money left ({reason}): top it "
                              "up and run again; what was answered is stored")
        if result.wait_s is not None and result.wait_s > LONGEST_WAIT_S:
            raise MonitorStop(f"{self._url} asks to wait for {result.wait_s:.0f} s ({reason}): run "
                              "again after that; what was answered is stored")

    def _wait(self, result: Failure, attempt: int) -> None:
        """Wait before a repetition; a server that asks for it, or is overrun, holds up all calls.

        Exponential backoff with full jitter: a random time from 0 to the longest, after what the
        server asks for. The jitter keeps calls that were refused together from coming together.
        """
        jitter = random.uniform(0, min(self._first_wait_s * 2**attempt, LONGEST_BACKOFF_S))
        asked = result.wait_s or 0.0
        if result.status == 429 or asked:
            self._limiter.pause(asked or jitter)
        if attempt < self._max_retries:
            self._sleep(asked + jitter)

    def _verdict(self, answer: Answer, sample: Sample) -> Verdict:
        text = without(answer.text, self._secrets)
        if answer.refusal or answer.finish in BLOCKED:
            why = "it is marked as a refusal" if answer.refusal else "its content filter"
            reply = text or without(answer.refusal, self._secrets)
            verdict = failure(REFUSED, f"{WITHHELD}: {why}", reply)
        else:
            verdict = self._read(text, answer.finish != "length", sample)
        if verdict.verdict is not None and self._prompt.answer != "score":
            score = suspicion(replace(answer, text=text), verdict.verdict)
            verdict = verdict if score is None else replace(verdict, score=score)
        return replace(
            verdict, input_tokens=answer.input_tokens, output_tokens=answer.output_tokens,
            seconds=answer.seconds, cost_usd=self._cost(answer),
        )

    def _read(self, text: str, finished: bool, sample: Sample) -> Verdict:
        audited = f"{sample.request}\n{sample.response}"
        return read_reply(text, self._prompt.answer, finished=finished, audited=audited)

    def _cost(self, answer: Answer) -> float | None:
        if self._prices is None or answer.input_tokens is None or answer.output_tokens is None:
            return None
        return self._prices.cost(answer.input_tokens, answer.output_tokens)

