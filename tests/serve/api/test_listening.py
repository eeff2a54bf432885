"""Sockets as they are listened on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serve.api.test_nginx import free_port
from whorl.serve.api.listening import listen


def test_connections_send_without_delay() -> None:
    """asyncio sets this only on sockets that name TCP, and one from `create_server` does not."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextmanager
def starting(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server from its very beginning, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "whorl", "serve", str(directory), "--port", str(port), "--device", "cpu",
               "--root-path", "/llm", "--end_with_stdin=true"]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def health(process: subprocess.Popen[str], address: str) -> Iterator[httpx.Response]:
    """What /health says, again and again, from when the port is open."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            yield httpx.get(f"{address}/health", timeout=30)
        except httpx.ConnectError:
            time.sleep(0.05)


def test_while_models_load_the_answer_is_503(learnt_directory: Path) -> None:
    with starting(learnt_directory) as (process, address):
        seen = []
        for answer in health(process, address):
            seen.append(answer.status_code)
            if answer.status_code == 200:
                break
            assert answer.json()["error"]["code"] == "starting" and answer.headers["retry-after"]
        assert set(seen) == {200, 503}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Warning" not in process.communicate()[1]


@pytest.mark.parametrize("how", ["SIGTERM", "the end of standard input"])
def test_asked_to_leave_while_models_load_it_does(learnt_directory: Path, how: str) -> None:
    """A server that is given a pipe ends with whoever held its other end, however that one went."""
    with starting(learnt_directory) as (process, address):
        assert next(health(process, address)).status_code == 503
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        assert process.wait(60) == 0
