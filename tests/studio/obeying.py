"""A small real server of OpenAI's protocol, whose replies do what a test needs.

What the last user message begins with says what it does:

    echo TEXT        TEXT, in two pieces               slow N           N words, 20 ms each
    die              three words, then the line is cut  refuse          an error instead of a reply
    call NAME JSON   a tool call (once its result is there: "It said …")
    calls            a call of the calculator, each time it is asked
    think TEXT       thinking first, then TEXT
    wait             nothing until `go` is set, then "gone"
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Obeying(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str = "obeying", weights: str = "fp_0123456789abcdef") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.weights = name, weights
        self.asked: list[dict[str, Any]] = []  # the bodies of requests for replies
        self.go = threading.Event()
        self.left = threading.Event()  # someone went away in mid-answer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has left is what tests do."""


class _Handler(BaseHTTPRequestHandler):
    server: Obeying
    protocol_version = "HTTP/1.1"  # in chunks: a line that is cut is no end of a reply

    def do_GET(self) -> None:
        self._json(200, {"data": [{"id": self.server.name}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        last = asked["messages"][-1]
        said = next(_text(one) for one in reversed(asked["messages"]) if one["role"] == "user")
        verb, _, rest = said.partition(" ")
        if verb == "refuse":
            self._json(400, {"error": {"message": "not today"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._reply(verb, rest, last)
        except OSError:
            self.server.left.set()

    def _reply(self, verb: str, rest: str, last: dict[str, Any]) -> None:
        if verb == "calls" or (verb == "call" and last["role"] != "tool"):
            name, _, arguments = rest.partition(" ")
            arguments = arguments or json.dumps({"expression": "1+1"})
            call = {
                "index": 0,
                "id": "c1",
                "function": {"name": name or "calculator", "arguments": arguments},
            }
            self._send({"tool_calls": [call]})
            self._end("tool_calls")
            return
        if verb == "call":
            rest = f"It said {_text(last)}"
        if verb == "think":
            self._send({"reasoning_content": "Let me *see* …"})
        if verb == "wait":
            self._send({"content": "Well: "})
            self.server.go.wait(30)
            rest = "gone"
        words = [f"word{number} " for number in range(int(rest))] if verb == "slow" else _halves(rest)
        for word in ["one ", "two ", "three"] if verb == "die" else words:
            self._send({"content": word})
            time.sleep(0.02 if verb == "slow" else 0)
        if verb == "die":
            self.close_connection = True
        else:
            self._end("stop", len(words))

    def _send(self, delta: dict[str, Any]) -> None:
        self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def _end(self, finish: str, tokens: int = 9) -> None:
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        self._event({"choices": [], "usage": {"completion_tokens": tokens}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, data: dict[str, Any]) -> None:
        data["system_fingerprint"] = self.server.weights
        self._chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        data = json.dumps(body).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is not for it."""


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


@contextmanager
def obeying(name: str = "obeying", weights: str = "fp_0123456789abcdef") -> Iterator[Obeying]:
    server = Obeying(name, weights)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.go.set()
        server.shutdown()
        server.server_close()
