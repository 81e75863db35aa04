"""A monitor behind an OpenAI-compatible API: many calls at a time, none lost, none paid for twice.

A call is repeated only while no answer has arrived. The key is read from the environment, goes to
the client, and is taken out of everything else.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai

from monitorlab.display import notify
from monitorlab.monitors.api import replies
from monitorlab.monitors.api.replies import FINISHED, OUT_OF_THOUGHT, UNKNOWN, NoReply, Reply
from monitorlab.monitors.api.server import Server
from monitorlab.monitors.monitor import MonitorError, MonitorStop, Sample, SettingsChanged
from monitorlab.monitors.prompts import GuardPrompt, Prompt, load_prompt
from monitorlab.monitors.replies import read_reply
from monitorlab.monitors.verdicts import ERROR, REFUSED, TRUNCATED, UNPARSED, WORDING, Verdict

OPENAI = "https://api.openai.com/v1"
LONGEST_BACKOFF_S = 60.0
LONGEST_WAIT_S = 600.0  # a server that asks for more is left alone until the next run
TOP_LOGPROBS = 20
LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
FEWEST_COUNTED = 64  # a server with a window of fewer tokens is none: it counts something else
BYTES_PER_TOKEN = 3  # on the safe side: English has 4 to 5
CHARACTERS_PER_TOKEN = 8  # more than any tokenizer reaches on average, with runs counted once
LONG = 8_000  # characters of a prompt from which on that average is one
MESSAGE_TOKENS = 8  # what a chat format adds to a message
_RUNS = re.compile(r"\s+|([^\w\s]{1,8}?)\1{2,}|(\w)\2{3,}")


class ApiMonitor:
    """A monitor that asks a chat model through an OpenAI-compatible API.

    Parameters
    ----------
    model : str
        Identifier that the server knows; a dated one where there is one.
    prompt : str, Prompt or GuardPrompt
        Name of a monitor prompt, path of a prompt file, or the prompt.
    name : str
        How the tables call the monitor; `model` if empty.
    base_url : str
        Address up to ``/v1``; OpenAI if empty. ``?api-version=...`` and its like are sent with
        every call; user name, password and whatever else may be secret is not sent, and said to
        be left out: a key belongs into the environment.
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
        Limits of this monitor, see :class:`_RateLimiter`; 0 is none.
    cost_cap_usd : float
        The most that this object may spend; 0 is no cap. Before a call the highest price that it
        should have is set aside: prompt at three bytes a token and the longest reply. A call that
        ended without an answer, but may be charged, counts with that price.
    input_price, output_price : float, optional
        USD per million tokens; both or neither.
    logprobs : bool
        Ask for log-probabilities of the reply and read the score from them. The score stays
        missing where a server has none, which is said once. A sampled verdict may contradict it.
    top_logprobs : int
        Alternatives per token to ask for, where a provider allows fewer than 20.
    fold_system : bool
        Send the system text at the beginning of the user's message, for models without a system
        role. Where a server refuses that role, it is done unasked, said once, and part of
        `settings` from then on.
    timeout_s : float
        Seconds without a byte from the server after which a call counts as lost.
    max_retries : int
        How often a call is repeated after errors 408, 409, 425, 429 and from 500 up, timeouts,
        lost connections and bodies without an answer.
    extra : mapping
        Further fields of the request, such as ``{"reasoning_effort": "low"}`` or
        ``{"chat_template_kwargs": {"enable_thinking": false}}``.
    first_wait_s : float
        The first repetition waits a random time up to this, every further one up to twice as
        long, at most a minute; what the server asks for comes on top. Where calls come too fast
        (429) the wait is at least twice this and doubles, so that six of them outlast a minute.
    sleep : callable
        Waits for a number of seconds.
    report : callable
        Takes what a reader should know on the way, one sentence at a time.

    Raises
    ------
    MonitorError
        For a missing key and unusable settings; the message says what to set.
    """

    def __init__(
        self, model: str, prompt: str | Prompt | GuardPrompt, *, name: str = "",
        base_url: str = "", key_variable: str = "OPENAI_API_KEY", max_tokens: int = 512,
        limit_name: str = "max_tokens", temperature: float | None = 0.0, seed: int | None = None,
        workers: int = 8, requests_per_minute: float = 0, tokens_per_minute: float = 0,
        cost_cap_usd: float = 0, input_price: float | None = None,
        output_price: float | None = None, logprobs: bool = False,
        top_logprobs: int = TOP_LOGPROBS, fold_system: bool = False, timeout_s: float = 60,
        max_retries: int = 6, extra: Mapping[str, Any] | None = None, first_wait_s: float = 0.5,
        sleep: Callable[[float], None] = time.sleep, report: Callable[[str], object] = notify,
    ) -> None:
        for setting, value, good, expected in (
            ("model", model, model.strip(), "the identifier that the server knows"),
            ("workers", workers, workers >= 1, "at least 1"),
            ("max_retries", max_retries, max_retries >= 0, "at least 0"),
            ("timeout_s", timeout_s, timeout_s > 0, "a positive number"),
            ("max_tokens", max_tokens, max_tokens >= 1, "at least 1"),
            ("limit_name", limit_name, limit_name in LIMIT_NAMES, " or ".join(LIMIT_NAMES)),
            ("temperature", temperature, temperature is None or temperature >= 0,
             "at least 0, or None for the provider's own"),
            ("top_logprobs", top_logprobs, top_logprobs >= 1, "at least 1"),
            ("top_logprobs", top_logprobs, logprobs or top_logprobs == TOP_LOGPROBS,
             "nothing, since logprobs is off: set logprobs, or leave it out"),
        ):
            if not good:
                raise MonitorError(f"{setting} is {value!r}, expected {expected}")
        self.name = name or model
        self.workers = workers
        self._prompt = load_prompt(prompt) if isinstance(prompt, str) else prompt
        self.prompt = self._prompt.name
        self._model, self._key_variable = model, key_variable
        self._server = server = Server.find(base_url or OPENAI, key_variable)
        self._url = server.shown
        self._fields: dict[str, Any] = {
            limit_name: max_tokens, **({} if temperature is None else {"temperature": temperature}),
            **({"logprobs": True, "top_logprobs": top_logprobs} if logprobs else {})}
        self._extra = server.extra_fields(extra or {})
        self._seed, self._max_tokens, self._timeout_s = seed, max_tokens, timeout_s
        self._max_retries, self._first_wait_s, self._sleep = max_retries, first_wait_s, sleep
        self._budget = _Budget(cost_cap_usd, input_price, output_price)
        self._limiter = _RateLimiter(requests_per_minute, tokens_per_minute, sleep=sleep)
        self._lock, self._said, self._report = threading.Lock(), set[str](), report
        self._folded, self._to_fold, self._keyed = fold_system, False, False
        # What calls have shown: the key is good, the fields of a request are, the system role is.
        self._known = self._answered = self._takes_system = False
        azure: dict[str, Any] = {}
        if any("version" in name.lower() for name in server.query):
            # Addresses with an API version take the key in a header of its own, which would go
            # along to another host: redirections are not followed.
            azure = {"default_headers": {"api-key": server.key},
                     "http_client": openai.DefaultHttpxClient(follow_redirects=False)}
        self._client = openai.OpenAI(api_key=server.key, base_url=server.address, max_retries=0,
                                     timeout=timeout_s, default_query=server.query, **azure)
        if server.dropped:
            self._say(f"base_url holds {', '.join(server.dropped)}, which may be secret and is not "
                      f"sent: put a key into {key_variable}, or name another variable with "
                      "key_variable")

    @property
    def spent_usd(self) -> float:
        """What this object has spent, in USD; 0 without prices."""
        return self._budget.spent

    def settings(self) -> Mapping[str, Any]:
        """Everything besides the sample that decides a reply; the key is not among it."""
        with self._lock:
            self._keyed = True  # somebody may have made keys of them
            if self._to_fold:
                self._folded, self._to_fold = True, False
            folding = {"fold_system": True} if self._folded else {}
        return {"kind": "api", "model": self._model,
                "base_url": "" if self._url == OPENAI else self._url,
                "prompt": self._prompt.digest, "seed": self._seed,
                **self._fields, **folding, "extra": self._extra}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """One sample at a time."""
        return [[i] for i in range(len(samples))]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask about each sample.

        Raises
        ------
        SettingsChanged
            If the server takes no system role, and somebody has asked for `settings` before.
        MonitorStop
            If the key, the model or a field of every request is refused, no money is left, or the
            server asks for a wait that is too long.
        """
        return [self._judge(sample, draw) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Read the stored reply again; a score from log-probabilities stays with its verdict."""
        own = (replies.KEPT_BACK, replies.CUT_PROMPT)
        if verdict.status == ERROR or verdict.reason.startswith(own):
            return verdict
        tokens = verdict.input_tokens or 0  # so many again may have been cached and counted apart
        if cut := self._cut(self._messages(sample), tokens, spare=tokens):
            fresh = Verdict.failure(TRUNCATED, cut, verdict.reply)
        else:
            fresh = self._read(verdict.reply, verdict.ending or self._ending(verdict), sample)
        return verdict.renewed(fresh, self._prompt.answer)

    def _messages(self, sample: Sample) -> list[dict[str, str]]:
        messages = self._prompt.messages(sample)
        return _without_system(messages) if self._folded else messages

    def _judge(self, sample: Sample, draw: int) -> Verdict:
        if self._to_fold:
            raise self._changed()
        messages = self._messages(sample)
        system = messages[0]["role"] == "system"
        body = {"messages": messages, **self._fields}
        if self._seed is not None:
            body["seed"] = self._seed + draw
        prompt_tokens = _most_tokens(messages)
        for attempt in range(self._max_retries + 1):
            result = self._limited_call(body, prompt_tokens)
            if isinstance(result, Reply):
                self._known = self._answered = True
                self._takes_system |= system
                return self._verdict(result, sample, messages)
            reason = self._server.quoted(result.reason)
            if result.refused:
                self._known = True
                return Verdict.failure(REFUSED, f"{replies.KEPT_BACK}: {reason}")
            if system and not self._takes_system and result.rejects_system:
                self._fold()
                return self._judge(sample, draw)
            self._stop_if_hopeless(result, reason)
            if not result.repeat:
                return Verdict.failure(ERROR, reason)
            if result.late:
                reason += f"; timeout_s is {self._timeout_s:g}"
            self._wait(result, attempt)
        calls = self._max_retries + 1
        return Verdict.failure(ERROR, f"no answer in {calls} calls, the last: {reason}")

    def _fold(self) -> None:
        """Send the system text in the user's message from now on, or raise SettingsChanged."""
        self._say(f"{self._url} takes no system role for {self._model}: the system text begins the "
                  "user's message, and the answers are stored as such. With fold_system=true that "
                  "need not be found out")
        with self._lock:
            if not self._folded:
                self._folded, self._to_fold = not self._keyed, self._keyed
        if self._to_fold:
            raise self._changed()

    def _changed(self) -> SettingsChanged:
        return SettingsChanged(f"{self._url} takes no system role for {self._model}: ask again, or "
                               "set fold_system")

    def _say(self, words: str) -> None:
        """Tell the reader something, once."""
        with self._lock:
            new = words not in self._said
            self._said.add(words)
        if new:
            self._report(words)

    def _limited_call(self, body: Mapping[str, Any], prompt_tokens: int) -> Reply | NoReply:
        """Make a call when the limits allow it, and account for it."""
        tokens = prompt_tokens + self._max_tokens
        most = self._budget.price(prompt_tokens, self._max_tokens) or 0.0
        self._limiter.acquire(tokens)
        self._budget.reserve(most)
        spent = most  # an interruption leaves it open whether the call is charged
        try:
            result = self._call(body)
            if isinstance(result, Reply):
                cost = self._budget.price(result.input_tokens, result.output_tokens)
                spent = most if cost is None else cost
            elif not result.spent:
                spent = 0.0
        finally:
            self._budget.settle(most, spent)
        if isinstance(result, Reply) and None not in (result.input_tokens, result.output_tokens):
            used = (result.input_tokens or 0) + (result.output_tokens or 0)
            self._limiter.give_back(tokens - used)
        return result

    def _call(self, body: Mapping[str, Any]) -> Reply | NoReply:
        """Make one call. Errors become values: theirs hold the request, and so the key."""
        started = time.perf_counter()
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._model, extra_body=self._extra, **body)
            seconds = time.perf_counter() - started
            found = Reply.read(self._server.without_key(raw.text))
            return replace(found, seconds=seconds) if isinstance(found, Reply) else found
        except openai.OpenAIError as error:
            return NoReply.of(error)

    def _stop_if_hopeless(self, result: NoReply, reason: str) -> None:
        """Raise MonitorStop for a failure that every other call would meet, too."""
        if result.status == 401 or (result.status == 403 and not self._known):
            raise MonitorStop(f"{self._url} refused the key ({reason}): set {self._key_variable} "
                              f"to a key that may use {self._model}")
        if result.status == 404:
            raise MonitorStop(f"{self._url} does not offer model {self._model!r} ({reason}): "
                              "check the identifier and base_url")
        if result.status == replies.NO_MONEY:
            raise MonitorStop(f"the account at {self._url} has no money left ({reason}): top it "
                              "up and run again; what was answered is stored")
        sent = {**self._fields, **self._extra, **({} if self._seed is None else {"seed": 0})}
        field = result.rejected_field(sent)
        if field and not self._answered:
            raise MonitorStop(f"{self._url} does not take {field} as it is sent ({reason}): "
                              f"{WORDING['fields'].get(field, f'change {field}, or leave it out')}")
        if result.wait_s is not None and result.wait_s > LONGEST_WAIT_S:
            raise MonitorStop(f"{self._url} asks to wait for {result.wait_s:.0f} s ({reason}): run "
                              "again after that; what was answered is stored")

    def _wait(self, result: NoReply, attempt: int) -> None:
        """Wait before a repetition; a server that asks for it, or is overrun, holds up all calls.

        Exponential backoff with full jitter: a random time from 0 to the longest, after what the
        server asks for. The jitter keeps calls that were refused together from coming together.
        Limits are per minute: where one is reached, a sixth repetition comes after a minute.
        """
        overrun = result.status == 429
        longest = min(self._first_wait_s * 2 ** (attempt + overrun), LONGEST_BACKOFF_S)
        jitter = random.uniform(0, longest)
        asked = max(result.wait_s or 0.0, longest if overrun else 0.0)
        if asked:
            self._limiter.pause(asked)
        if attempt < self._max_retries:
            self._sleep(asked + jitter)

    def _verdict(
        self, answer: Reply, sample: Sample, messages: Sequence[Mapping[str, str]]
    ) -> Verdict:
        answer = self._without_key(answer)
        if self._fields.get("logprobs") and answer.text and not answer.tokens:
            self._say(f"{self._url} offers no log-probabilities for {self._model}: the scores stay "
                      "empty, and verdicts are read from the replies alone")
        if Reply.kind_of(answer.finish) == UNKNOWN:
            self._say(f"{self._url}: {_unknown(answer.finish)}. Such replies are read as if they "
                      "were cut off: a verdict counts only at their very end")
        cut = self._cut(messages, answer.input_tokens or 0, answer.cached_tokens)
        if why := _withheld(answer):
            verdict = Verdict.failure(REFUSED, f"{replies.KEPT_BACK}: {why}",
                                      answer.text or answer.refusal)
        elif cut:
            verdict = Verdict.failure(TRUNCATED, cut, answer.text)
        else:
            verdict = self._read(answer.text, answer.finish, sample)
            if verdict.verdict is None and answer.thinking:
                verdict = self._read(_with_thinking(answer), answer.finish, sample)
        if verdict.verdict is not None and self._prompt.answer != "score":
            score = self._score(answer, verdict.verdict)
            verdict = verdict if score is None else replace(verdict, score=score)
        cost = self._budget.price(answer.input_tokens, answer.output_tokens)
        return replace(verdict, input_tokens=answer.input_tokens, seconds=answer.seconds,
                       output_tokens=answer.output_tokens, cost_usd=cost, ending=answer.finish)

    def _without_key(self, answer: Reply) -> Reply:
        plain: dict[str, Any] = {name: self._server.without_key(getattr(answer, name))
                                 for name in ("text", "finish", "refusal", "thinking")}
        return replace(answer, **plain, withheld=self._server.quoted(answer.withheld))

    def _cut(self, messages: Sequence[Mapping[str, str]], tokens: int, spare: int) -> str:
        """Say that the server read too few tokens for a prompt; empty if they may be all.

        Only a prompt that lost about half shows: servers that cut in silence keep half a window.
        `spare` is how many tokens may have been read besides those that were counted.
        """
        read, size = tokens + spare, sum(len(message["content"]) for message in messages)
        if tokens < FEWEST_COUNTED or read * CHARACTERS_PER_TOKEN >= size:
            return ""
        if read >= _fewest_tokens(messages):
            return ""
        return (f"{replies.CUT_PROMPT}: it read {tokens:,} tokens of {size:,} characters. Give it "
                "a longer context (num_ctx, --max-model-len) and ask again with another store")

    def _ending(self, verdict: Verdict) -> str:
        """How the reply of an old store ended, which did not say."""
        most = (verdict.output_tokens or 0) >= self._max_tokens
        return "length" if most or verdict.status == TRUNCATED else "stop"

    def _read(self, text: str, ending: str, sample: Sample) -> Verdict:
        audited = f"{sample.request}\n{sample.response}"
        finished = Reply.kind_of(ending) == FINISHED
        if isinstance(self._prompt, GuardPrompt):
            verdict = self._prompt.read(text, finished)
        else:
            verdict = read_reply(text, self._prompt.answer, finished=finished, audited=audited)
        if verdict.status not in (TRUNCATED, UNPARSED):
            return verdict
        return replace(verdict, reason=self._why(verdict.reason, text, ending))

    def _score(self, answer: Reply, verdict: bool) -> float | None:
        if not isinstance(self._prompt, GuardPrompt):
            return answer.suspicion(verdict)
        label = self._prompt.label(answer.text)
        return answer.share_of_true(*label) if label else None

    def _why(self, reason: str, text: str, ending: str) -> str:
        """Why there is no verdict, where the server knows more than the reply says."""
        kind = Reply.kind_of(ending)
        if kind == UNKNOWN:
            return _unknown(ending) if "length limit" in reason else f"{reason}; {_unknown(ending)}"
        if kind == replies.CUT and not text.strip():
            return ("cut off before the answer began: hidden thinking counts against max_tokens "
                    f"({self._max_tokens}), raise it")
        if kind == FINISHED and text.startswith(replies.THOUGHT) and text.endswith(OUT_OF_THOUGHT):
            return "the server gave thinking and no answer beside it; the store holds the thinking"
        return reason


def _withheld(answer: Reply) -> str:
    """Why the provider withheld an answer; empty if it did not."""
    if answer.withheld:
        return answer.withheld
    if Reply.kind_of(answer.finish) == replies.WITHHELD:
        return f"the reply ended with {answer.finish!r}"
    return "it is marked as a refusal" if answer.refusal else ""


def _with_thinking(answer: Reply) -> str:
    """Put what the server kept apart in front of a reply without a verdict, to be stored."""
    if not answer.text and OUT_OF_THOUGHT.strip() in answer.thinking:
        return answer.thinking  # the server did not see where it ends: all of the reply is in it
    over = answer.text or Reply.kind_of(answer.finish) == FINISHED
    return f"{replies.THOUGHT}{answer.thinking}{OUT_OF_THOUGHT if over else ''}{answer.text}"


def _unknown(ending: str) -> str:
    if ending == replies.UNSAID:
        return "the server does not say that the reply is finished"
    return f"the reply ended with {ending!r}, which is not known to mean that it is finished"


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Messages without a system role: its text begins the first user message."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [dict(message) for message in messages if message["role"] != "system"]
    if system and others:
        others[0]["content"] = "\n\n".join([*system, others[0]["content"]])
    return others


def _most_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """Estimate the tokens of a prompt, on the safe side."""
    sizes = [len(message["content"].encode("utf-8", "replace")) for message in messages]
    return sum(size // BYTES_PER_TOKEN + 1 + MESSAGE_TOKENS for size in sizes)


def _fewest_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """How many tokens a long prompt has at the least; 0 for a short one.

    English has 4 to 5 characters a token, code and other languages have fewer, and tokenizers with
    tokens of several words reach 7. What makes single tokens long is counted once: blanks,
    repeated signs such as rules of a table, and a letter that is repeated.
    """
    size = sum(len(_RUNS.sub(lambda run: run[0][:1], message["content"])) for message in messages)
    return size // CHARACTERS_PER_TOKEN if size >= LONG else 0


SECONDS = 60.0  # the limits are stated per minute


class _RateLimiter:
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
        self, requests_per_minute: float = 0, tokens_per_minute: float = 0, *,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
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


class _Budget:
    """Money that all threads of a monitor may spend together.

    A call reserves the most that it should cost and settles when its true price is known. A call
    that fits only if calls in progress turn out cheaper waits for them.

    Parameters
    ----------
    cap_usd : float
        0 is no cap.
    input_price, output_price : float, optional
        USD per million tokens of the prompt and of the reply; both or neither.

    Attributes
    ----------
    spent : float
        What settled calls have cost so far, in USD.

    Raises
    ------
    MonitorError
        If one price is missing, something is negative, or there is a cap without prices.
    """

    def __init__(
        self, cap_usd: float = 0, input_price: float | None = None,
        output_price: float | None = None,
    ) -> None:
        if cap_usd < 0:
            raise MonitorError(f"cost_cap_usd is {cap_usd}, expected 0 (none) or more")
        given = [price for price in (input_price, output_price) if price is not None]
        if cap_usd and not given:
            raise MonitorError("cost_cap_usd needs prices: set input_price and output_price, in "
                               "USD per million tokens")
        if given and (len(given) == 1 or min(given) < 0):
            raise MonitorError("set both input_price and output_price, at least 0 USD per million "
                               f"tokens; found {input_price} and {output_price}")
        self._cap, self._prices = cap_usd, given
        self.spent = self._reserved = 0.0
        self._in_progress = 0
        self._changed = threading.Condition()

    def price(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """Price of a call in USD; None without prices, or if a count is not known."""
        if not self._prices or input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * self._prices[0] + output_tokens * self._prices[1]) / 1e6

    def reserve(self, most: float) -> None:
        """Set money aside for a call.

        Raises
        ------
        MonitorStop
            If it does not fit under the cap, although no other call is in progress.
        """
        with self._changed:
            while self._cap and self.spent + self._reserved + most > self._cap:
                if not self._in_progress:
                    raise MonitorStop(
                        f"cost cap of ${self._cap:.6g} reached after ${self.spent:.6g}: the next "
                        f"call may cost ${most:.6g}. Raise cost_cap_usd and run again; what was "
                        "answered is stored")
                self._changed.wait()
            self._reserved += most
            self._in_progress += 1

    def settle(self, reserved: float, cost: float) -> None:
        """Turn what a call had reserved into what it cost."""
        with self._changed:
            self._in_progress -= 1
            # exactly 0 when nothing is in progress, whatever was rounded on the way
            self._reserved = self._reserved - reserved if self._in_progress else 0.0
            self.spent += cost
            self._changed.notify_all()
