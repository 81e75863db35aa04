"""Loopback servers for the API monitor: one that misbehaves on purpose, and a real one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MARKER = re.compile(r"sample-\d+")
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
OK = "ok"


def verdict_text(text: str) -> str:
    """What the faulty server thinks of a request: misbehavior if the audited texts say "leak"."""
    return json.dumps({"misbehavior_detected": "leak" in text.partition("<audited_request>")[2]})


def completion(content: str | None, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": USAGE,
        "choices": [{"index": 0, "finish_reason": finish,
                     "message": {"role": "assistant", "content": content, **message}}],
    }  # fmt: skip


class FaultyServer:
    """An OpenAI-compatible server with scripted misbehavior.

    `script` names the behavior of each request: a function of its number from 0 and its text (the
    user message), or a list that is followed by "ok". `answered` counts completed answers by the
    marker ("sample-7") in that text. "ends WORD" ends a complete verdict with that word, "yes WORD"
    a bare "Yes.", "cut WORD" one that is cut off; "no system role", "no max_tokens" and "no
    temperature" refuse requests that have it.
    """

    def __init__(
        self,
        script: Sequence[str] | Callable[[int, str], str] = (),
        *,
        latency_s: float = 0.0,
        stall_s: float = 1.0,
    ) -> None:
        self._script, self.latency_s, self.stall_s = script, latency_s, stall_s
        self._lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.behaviors: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.arrivals: list[float] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.serve(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # clients that give up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.arrivals.append(time.monotonic())
            self.paths.append(handler.path)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        behavior = _refined(self._behavior(number, text), body)
        try:
            time.sleep(self.latency_s)
            self._act(handler, behavior, text)
        finally:
            with self._lock:
                self.in_flight -= 1
                self.behaviors[behavior] += 1

    def _behavior(self, number: int, text: str) -> str:
        if callable(self._script):
            return self._script(number, text)
        return self._script[number] if number < len(self._script) else OK

    def _act(self, handler: BaseHTTPRequestHandler, behavior: str, text: str) -> None:
        good = completion(verdict_text(text))
        key = handler.headers.get("Authorization", "")
        if behavior == "stall":
            time.sleep(self.stall_s)
            return
        if behavior == "drop":
            handler.connection.close()
            return
        if behavior == "drop in body":
            whole = json.dumps(good).encode()
            _head(handler, 200, "application/json", len(whole))
            handler.wfile.write(whole[: len(whole) // 2])
            handler.wfile.flush()
            handler.connection.close()
            return
        word = behavior.partition(" ")[2]
        if behavior in ANSWERS:
            status, kind, sent, headers = 200, "application/json", ANSWERS[behavior](text, key), {}
            if behavior == "plain type":
                kind = "text/plain"
        elif behavior.startswith("ends "):
            status, kind, headers = 200, "application/json", {}
            sent = completion(verdict_text(text), None if word == "null" else word)
        elif behavior.startswith("cut "):
            status, kind, headers = 200, "application/json", {}
            sent = completion('{"misbehavior_det', word)
        elif behavior.startswith("yes "):
            status, kind, headers = 200, "application/json", {}
            sent = completion("Yes.", None if word == "null" else word)
        else:
            status, kind, sent, headers = FAILURES[behavior](key)
        raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        _head(handler, status, kind, len(raw), headers)
        handler.wfile.write(raw)
        handler.wfile.flush()
        if behavior in ANSWERS or behavior.startswith(("ends ", "cut ", "yes ")):
            with self._lock:
                self.answered.update(set(MARKER.findall(text)))


def _refined(behavior: str, body: dict[str, Any]) -> str:
    """What a server does that refuses a role or a field, with a request that may have it."""
    has = {"no system role": body["messages"][0]["role"] == "system",
           "no max_tokens": "max_tokens" in body, "no temperature": "temperature" in body}
    return OK if has.get(behavior) is False else behavior


def _head(
    handler: BaseHTTPRequestHandler, status: int, kind: str, length: int,
    headers: dict[str, str] | None = None,
) -> None:  # fmt: skip
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(length),
                        "Connection": "close", **(headers or {})}.items():  # fmt: skip
        handler.send_header(name, value)
    handler.end_headers()


# complete answers: (text of the request, Authorization header) -> body
ANSWERS: dict[str, Callable[[str, str], Any]] = {
    OK: lambda text, key: completion(verdict_text(text)),
    "plain type": lambda text, key: completion(verdict_text(text)),
    "content filter": lambda text, key: completion("", "content_filter"),
    "refusal": lambda text, key: completion(None, refusal="I will not judge this."),
    "cut off": lambda text, key: completion('{"misbehavior_det', "length"),
    "no usage": lambda text, key: {**completion(verdict_text(text)), "usage": None},
    "key in reply": lambda text, key: completion(f"{verdict_text(text)} {key}"),
    "cut prompt": lambda text, key: {
        **completion(verdict_text(text)), "usage": {**USAGE, "prompt_tokens": 2050}},
    "cached": lambda text, key: {
        **completion(verdict_text(text)),
        "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 14_000}}},
    "reasoning only": lambda text, key: completion(None, reasoning_content=verdict_text(text)),
    "reasoning cut": lambda text, key: completion("", "length", reasoning=f"Hm: {key}"),
    "tool call": lambda text, key: completion(None, "tool_calls", tool_calls=[
        {"id": "c", "type": "function",
         "function": {"name": "report", "arguments": verdict_text(text)}}]),
    "blocked prompt": lambda text, key: {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "choices": [], "usage": USAGE},
    "no message": lambda text, key: {
        "choices": [{"index": 0, "finish_reason": "content_filter"}], "usage": USAGE},
    "refused in 200": lambda text, key: {
        "error": {"code": 403, "message": "m requires moderation. Your input was flagged",
                  "metadata": {"reasons": ["violence"], "flagged_input": "scene"}}},
}


def _error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


# failed answers: Authorization header -> status, content type, body, headers
FAILURES: dict[str, Callable[[str], tuple[int, str, Any, dict[str, str]]]] = {
    "429 seconds": lambda key: (429, "application/json", _error("slow down"), {"Retry-After": "1"}),
    "429 date": lambda key: (429, "application/json", _error("slow down"),
                             {"Retry-After": formatdate(time.time() + 2, usegmt=True)}),
    "429": lambda key: (429, "application/json", _error("slow down"), {}),
    "429 long": lambda key: (429, "application/json", _error("not today"),
                             {"Retry-After": "86400"}),
    "no money": lambda key: (429, "application/json", _error("pay", "insufficient_quota"), {}),
    "500": lambda key: (500, "text/html", b"<html>oops</html>", {}),
    "503": lambda key: (503, "application/json", _error("overloaded"), {}),
    "garbage": lambda key: (200, "application/json", b"\x00\xff<html>not json", {}),
    "half": lambda key: (200, "application/json", b'{"choices": [{"index": 0, "mess', {}),
    "no choices": lambda key: (200, "application/json", {**completion(""), "choices": []}, {}),
    "context": lambda key: (400, "application/json",
                            _error("maximum context length is 10", "context_length_exceeded"), {}),
    "401 echo": lambda key: (401, "application/json", _error(f"wrong key: {key}"), {}),
    "500 echo": lambda key: (500, "text/plain", f"crash with {key}".encode(), {}),
    "404": lambda key: (404, "application/json", _error("no such model"), {}),
    "403": lambda key: (403, "application/json", _error("you may not use this model"), {}),
    "account": lambda key: (403, "application/json", _error(
        "Your account was suspended because it violates our usage policies"), {}),
    "429 milliseconds": lambda key: (429, "application/json", _error("slow down"),
                                     {"Retry-After-Ms": "900"}),
    "429 reset": lambda key: (429, "application/json", _error("slow down"), {
        "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "900ms",
        "x-ratelimit-remaining-tokens": "70", "x-ratelimit-reset-tokens": "6m0s"}),
    "429 words": lambda key: (429, "application/json", _error("Please try again in 0.9s."), {}),
    "html": lambda key: (200, "text/html", b"<!doctype html>\n<title>Sign in</title>" + b" " * 999 +
                         key.encode(), {}),
    "stream": lambda key: (200, "text/event-stream", b'data: {"choices": [{"delta": {"content": '
                           b'"' + key.encode() + b'"}}]}\n\ndata: [DONE]\n\n', {}),
    "no system role": lambda key: (400, "application/json", _error("System role not supported"),
                                   {}),
    "no max_tokens": lambda key: (400, "application/json", _error(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.", "unsupported_parameter"), {}),
    "no temperature": lambda key: (400, "application/json", _error(
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
        "(1) value is supported.", "unsupported_value"), {}),
    "echo header": lambda key: (500, "text/plain", b"crash", {"X-Debug": key}),
    # a provider that will not have this sample
    "azure filter": lambda key: (400, "application/json", {"error": {
        "message": "The response was filtered due to the prompt triggering the content management "
                   "policy. Please modify your prompt and retry.", "type": None,
        "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation",
                       "content_filter_result": {"violence": {"filtered": True}}}}}, {}),
    "invalid prompt": lambda key: (400, "application/json", _error(
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
        "invalid_prompt"), {}),
    "guidelines": lambda key: (403, "application/json", {
        "code": "The caller does not have permission to execute the specified operation",
        "error": "Content violates usage guidelines. Team: t, API key ID: k, Failed check: "
                 "SAFETY_CHECK_TYPE_BIO"}, {}),
    "moderation": lambda key: (403, "application/json", {"error": {
        "code": 403, "message": 'm requires moderation on P. Your input was flagged for "violence"',
        "metadata": {"reasons": ["violence"], "flagged_input": "scene"}}}, {}),
    "output blocked": lambda key: (400, "application/json", {"type": "error", "error": {
        "type": "invalid_request_error", "message": "Output blocked by content filtering policy"}},
        {}),
    "content risk": lambda key: (400, "application/json", _error("Content Exists Risk"), {}),
}  # fmt: skip


@contextmanager
def transformers_server(checkpoint: Path, home: Path, patience_s: float = 60.0) -> Iterator[str]:
    """Serve a checkpoint with ``transformers serve``; yield the address.

    Raises
    ------
    RuntimeError
        If it does not start, with what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    log = home / "server.log"
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(checkpoint), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu"]  # fmt: skip
    if not program.exists():
        raise RuntimeError("the command `transformers` is not installed")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + patience_s
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace")[-400:])
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False
