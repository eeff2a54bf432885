"""Small servers of OpenAI's protocol for the studio's tests: what they say, how fast, and how they fail.

with stub_model("amber", answer="Hello.") as model:      # a thread of this process
    model.address, model.asked, model.mode = "dead"
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mode = Literal["well", "dead", "breaks", "silent", "slow", "calls"]


@dataclass(kw_only=True)
class StubModel:
    """`mode`: `dead` refuses each request with an error that names it, `breaks` fails after a word,
    `silent` never says a word, `slow` says one each 50 ms for half a minute, `calls` asks the calculator
    for 2 + 3 and then says what came."""

    name: str
    answer: str = "Certainly."
    reasoning: str = ""
    weight_version: str = ""
    tokens: int = 3
    pause: float = 0.0  # seconds between words
    mode: Mode = "well"
    address: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)  # the requests' bodies

    def words(self) -> Iterator[str]:
        if self.mode == "slow":
            for _ in range(600):
                yield "word "
                time.sleep(0.05)
        for number, word in enumerate(self.answer.split(" ")):
            yield word if number == 0 else f" {word}"
            time.sleep(self.pause)


@contextmanager
def stub_model(name: str, **options: Any) -> Iterator[StubModel]:
    model = StubModel(name=name, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    model: StubModel

    def do_GET(self) -> None:
        card = {"id": self.model.name, "object": "model"} | self.model.card
        self._send("application/json", json.dumps({"data": [card], "status": "ok"}).encode())

    def do_POST(self) -> None:
        self.model.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        mode = self.model.mode
        if mode == "dead":
            error = {"error": {"message": f"{self.model.name} is out of memory"}}
            self._send("application/json", json.dumps(error).encode(), 500)
            return
        self._send("text/event-stream", b"")
        try:
            if mode == "silent":
                time.sleep(30)
                return
            if self.model.reasoning:
                self._delta({"reasoning_content": self.model.reasoning})
            last = self.model.asked[-1]["messages"][-1]
            if mode == "calls" and last["role"] != "tool":
                call = {"name": "calculator", "arguments": json.dumps({"expression": "2 + 3"})}
                self._delta({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": call}]})
                self._delta({}, finish="tool_calls")
                self.wfile.write(b"data: [DONE]\n\n")
                return
            if mode == "calls":
                self._delta({"content": f"It is {last['content']}. "})
            for number, word in enumerate(self.model.words()):
                if mode == "breaks" and number == 1:
                    error = {"error": {"message": f"{self.model.name} broke down"}}
                    self.wfile.write(b"data: " + json.dumps(error).encode() + b"\n\n")
                    return
                self._delta({"content": word})
            self._delta({}, finish="stop")
            usage = {"completion_tokens": self.model.tokens}
            self._event({"choices": [], "usage": usage, "system_fingerprint": self.model.weight_version})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the client has gone

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self._event({"choices": [choice], "system_fingerprint": self.model.weight_version})

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _send(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
