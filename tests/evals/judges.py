"""A small server of OpenAI's protocol whose model is a function: what it is asked → what it says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Says = Callable[[list[dict[str, Any]]], str]


class Asked:
    """Its address, and all the conversations it was asked to go on with."""

    def __init__(self) -> None:
        self.url = ""
        self.conversations: list[list[dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.models: set[str] = set()


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # as many at once as a judge is asked
    daemon_threads = True


@contextmanager
def serving(says: Says, *names: str) -> Iterator[Asked]:
    """Serve `says` under these names (or as "model") on a free port."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def answer(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer({"data": [{"id": name} for name in names or ("model",)]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.conversations.append(body["messages"])
            asked.models.add(body["model"])
            asked.keys.add(self.headers.get("Authorization", ""))
            message = {"role": "assistant", "content": says(body["messages"])}
            self.answer({"choices": [{"message": message, "finish_reason": "stop"}]})

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    asked.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def shown(text: str) -> dict[str, str]:
    """What stands between the marks of a judge's prompt, by name."""
    tag = re.findall(r"\[end ([0-9a-f]{8})\]", text)[-1]
    return dict(re.findall(rf"\[([^\]\n]+) {tag}\]\n(.*?)\n\[end {tag}\]", text, re.DOTALL))


def prefers(better: Callable[[str, str], str]) -> Says:
    """A judge that compares the two shown by a function of them."""

    def says(messages: list[dict[str, Any]]) -> str:
        found = shown(messages[-1]["content"])
        return f"Some thoughts.\n\nVerdict: {better(found['assistant A'], found['assistant B'])}"

    return says
