"""`whorl chat` over a real server, on a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.models.learnt import DARK, save_learnt
from whorl.evals.serving import served


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("chat") / "knows")


@pytest.fixture(scope="module")
def address(directory: Path) -> Iterator[str]:
    with served(directory, "--device", "cpu", "--dtype", "float32", "--memory", "0.05") as found:
        yield found


def command(address: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "whorl", "chat", address, "--temperature", "0", *words]


def test_without_a_terminal_each_line_is_a_message(address: str, tmp_path: Path) -> None:
    (tmp_path / "dark.png").write_bytes(DARK.data)
    lines = [
        f"/image {tmp_path / 'dark.png'}",
        "Shade?",
        "/new",
        "/tools calculator",
        "2+3?",
        f"/save {tmp_path / 'talk.json'}",
    ]
    done = subprocess.run(
        command(address, "--yes"), input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "dark" in done.stdout.splitlines()
    assert "calculator" in done.stderr, "calls are shown"
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [one["role"] for one in saved][:3] == ["user", "assistant", "tool"]


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = subprocess.run(
        command("http://127.0.0.1:9"), input="x\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "is the server running" in done.stderr and "Traceback" not in done.stderr


# Makes its standard input the terminal of its session, so that what is typed there can be a signal.
OWN_TERMINAL = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    def __init__(self, words: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *words],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text: str, seconds: float = 30.0, times: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while self.seen.count(text) < times and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 4096).decode("utf-8", "replace")
                except OSError:
                    break
        assert self.seen.count(text) >= times, self.seen

    def type(self, text: str) -> None:
        os.write(self.master, text.encode() + b"\n")

    def interrupt(self) -> None:
        os.write(self.master, b"\x03")


class Slow(BaseHTTPRequestHandler):
    """A server whose replies take half a minute: a word each 20 ms."""

    left = threading.Event()  # set when a client has gone

    def do_GET(self) -> None:
        self._answer("application/json", b'{"data": [{"id": "slow"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer("text/event-stream", b"")
        delta = {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
        try:
            for _ in range(1500):
                self.wfile.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
                time.sleep(0.02)
        except OSError:
            self.left.set()

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_ctrl_c_stops_the_reply_and_not_the_program(slow: str) -> None:
    terminal = Terminal(command(slow))
    try:
        terminal.until("/help")
        terminal.type("Break.")
        terminal.until("word word word")
        terminal.process.send_signal(signal.SIGINT)
        assert Slow.left.wait(20), "the server was not told"
        terminal.type("/help")
        terminal.until("/image FILE")
        assert terminal.seen.count("word") < 1500
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("/quit to exit")
        terminal.type("/quit")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.process.kill()


def test_ctrl_c_leaves_the_server_and_what_is_typed_next(directory: Path, tmp_path: Path) -> None:
    """Typed on the terminal of a chat that serves its own model: at the prompt, and at a question."""
    terminal = Terminal(command(str(directory)))
    try:
        terminal.until("/help", 90)
        terminal.interrupt()
        terminal.until("/quit to exit")
        terminal.type("/tools calculator")
        terminal.type("2+3?")
        terminal.until("run it?", 60)
        prompts = terminal.seen.count("> ")
        terminal.interrupt()
        terminal.until("> ", times=prompts + 1)
        for name in ("stopped", "again"):  # the first line after it is nobody else's
            terminal.type(f"/save {tmp_path / name}")
            terminal.type("/help")
            terminal.until("/image FILE", times=1 if name == "stopped" else 2)
        for name in ("stopped", "again"):
            saved = json.loads((tmp_path / name).read_text())["messages"]
            assert saved == [{"role": "user", "content": "2+3?"}], "no call without its result"
        terminal.type("/new")
        terminal.type("2+3?")
        terminal.until("run it?", 60, times=2)
        terminal.type("y")
        terminal.until("It is five.", 60)
        terminal.type("/quit")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
