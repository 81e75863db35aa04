"""A stream of an OpenAI-compatible server on loopback, closed at the alarm."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import openai
import pytest

from monitorlab.online.live import LiveStep, ScoreStep, WatchedText
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.signals.generation import LogProbability
from monitorlab.statistics.thresholds import calibrate

HALF = Policy(calibrate(np.arange(1, 10) / 10, level=0.5))
LINES = 400


class Shouting:
    """Suspicion is the share of capital letters, so that no log-probabilities are needed."""

    def start(self, problem: str) -> ScoreStep:
        def score(step: LiveStep) -> float:
            letters = [sign for sign in step.text if sign.isalpha()]
            return sum(map(str.isupper, letters)) / max(len(letters), 1)

        return score


class Server:
    """Streams lines, the fifth of them in capitals, until the reader goes away."""

    def __init__(self) -> None:
        self.sent, self.broken = 0, threading.Event()
        self.bodies: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for event in owner.events(body):
                        self.wfile.write(f"data: {event}\n\n".encode())
                        self.wfile.flush()
                        owner.sent += 1
                        time.sleep(0.005)
                except OSError:
                    owner.broken.set()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def events(self, body: dict[str, Any]) -> Iterator[str]:
        most = 3 if body["messages"][0]["content"] == "short" else LINES
        for number in range(1, most + 1):
            for word in (f"{'LINE' if number == 5 else 'line'}", f" {number}\n"):
                logs = {"content": [{"token": word, "logprob": -0.9 if number == 5 else -0.1,
                                     "bytes": list(word.encode()), "top_logprobs": []}]}
                yield self.event({"content": word}, logprobs=logs if body.get("logprobs") else None)
        yield self.event({}, finish_reason="stop")
        yield "[DONE]"

    @staticmethod
    def event(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **more}
        return json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 0,
                           "model": "m", "choices": [choice]})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize(("scorer", "asked"), [
    (Shouting(), {}), (LogProbability(), {"logprobs": True}),
], ids=["text", "logprobs"])
def test_the_server_stops_writing_at_the_alarm(scorer: Any, asked: dict[str, Any]) -> None:
    with Server() as server, openai.OpenAI(api_key="none", base_url=server.url) as client:
        monitor = OnlineMonitor(HALF)
        watched = WatchedText("long", monitor, scorer)
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "long"}], stream=True, **asked)
        passed = list(watched.stream(stream))
        assert passed == [f"line {number}\n" for number in range(1, 5)]
        assert watched.alarm is not None and watched.alarm.step == 5
        assert server.broken.wait(5.0), "the connection must be closed"
        assert server.sent < LINES
        assert server.bodies[0].get("logprobs", False) is bool(asked)
        assert monitor.open == 0

        short = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "short"}], stream=True, **asked)
        fine = WatchedText("short", monitor, scorer)
        assert "".join(fine.stream(short)) == "line 1\nline 2\nline 3\n"
        assert fine.alarm is None and (monitor.alarms, monitor.finished) == (1, 2)


def test_a_server_that_sends_no_log_probabilities_alarms() -> None:
    with Server() as server, openai.OpenAI(api_key="none", base_url=server.url) as client:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "long"}], stream=True)
        watched = WatchedText("a", OnlineMonitor(HALF), LogProbability())
        assert list(watched.stream(stream)) == []
        assert watched.alarm is not None
        assert "ask the server for them (logprobs=True)" in watched.alarm.reason
        assert server.broken.wait(5.0)
