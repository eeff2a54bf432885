"""Prompts are prepared for one client without holding up another, and what is too long is said."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.serve.api.conftest import Server, serving
from tests.serve.api.test_robust import answers_right, wait_until_idle

# Long enough that no test sees its end; each step does what the sandbox does not count.
SLOW = """{% if messages[0].content == 'slow' %}
{%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"""


def slow_model(directory: Path, place: Path) -> Path:
    """The model with a template that takes for ever where it is told so."""
    made = place / directory.name
    shutil.copytree(directory, made)
    template = made / "chat_template.jinja"
    template.write_text(SLOW + template.read_text())
    return made


def slow(stream: bool) -> dict[str, Any]:
    return {"model": "knows", "messages": [{"role": "user", "content": "slow"}], "stream": stream}


def test_a_prompt_that_takes_for_ever_holds_up_nobody(learnt_directory: Path, tmp_path: Path) -> None:
    """Six clients leave while theirs are prepared; then the process that prepares another one dies."""
    model = slow_model(learnt_directory, tmp_path)
    words = ("--limits.prepare_seconds", "500", "--limits.queue", "6")
    with serving(*words, model=model) as server:
        leaving = [send(server, slow(number % 2 == 0)) for number in range(6)]
        until_full(server)
        for one in leaving:
            one.close()
        deadline = time.monotonic() + 60
        while full(server):
            assert time.monotonic() < deadline, "those who left are still waited for"
            time.sleep(0.1)
        answers_right(server.address)
        wait_until_idle(server.address)
        with send(server, slow(False)) as waiting:
            busiest(server).send_signal(signal.SIGSEGV)
            told = HTTPResponse(waiting)
            told.begin()
            answer = told.read().decode()
        assert told.status == 503 and "signal 11" in answer and "memory" not in answer
        answers_right(server.address)


def send(server: Server, body: dict[str, Any]) -> socket.socket:
    """A connection that has asked and waits."""
    host, port = server.address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def full(server: Server) -> bool:
    body = {"model": "knows", "prompt": [5], "max_tokens": 1}
    done = httpx.post(f"{server.address}/v1/completions", json=body, timeout=30)
    assert done.status_code in (200, 429), done.text
    return done.status_code == 429


def until_full(server: Server) -> None:
    """Whose prompts are prepared has his place in the queue already."""
    deadline = time.monotonic() + 30
    while not full(server):
        assert time.monotonic() < deadline, "prompts are prepared without a place in the queue"
        time.sleep(0.1)


def busiest(server: Server) -> psutil.Process:
    """The preparer that works: it alone has used a second of a processor since now."""
    preparers = [
        child for child in psutil.Process(server.process.pid).children(recursive=True)
        if "whorl.serve.preparer" in " ".join(child.cmdline())
    ]  # fmt: skip
    assert len(preparers) >= 2
    before = {one.pid: one.cpu_times().user for one in preparers}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for one in preparers:
            if one.cpu_times().user > before[one.pid] + 1:
                return one
        time.sleep(0.1)
    raise AssertionError("no preparer works")


def test_a_prompt_longer_than_the_cache_names_what_holds_it(learnt_directory: Path) -> None:
    """Memory for 192 tokens of the model's 512."""
    with serving("--memory", "0.0001", model=learnt_directory) as server:
        assert any("context lowered from 512" in line for line in server.said)
        for stream in (False, True):
            body = {"model": "knows", "prompt": [5] * 300, "max_tokens": 4, "stream": stream}
            done = httpx.post(f"{server.address}/v1/completions", json=body, timeout=30)
            assert done.status_code == 400, done.text
            error = done.json()["error"]
            assert "--memory" in error["message"] and error["param"] == "prompt"
            assert error["code"] == "context_length_exceeded"
        answers_right(server.address)
        wait_until_idle(server.address)


def test_a_trace_that_cannot_be_written_costs_no_reply(learnt_directory: Path) -> None:
    """/dev/full takes no byte, as a full disk."""
    with serving("--traces", "/dev/full", model=learnt_directory) as server:
        answers_right(server.address)
        body = {"model": "knows", "prompt": [5, 9], "max_tokens": 2, "stream": True}
        done = httpx.post(f"{server.address}/v1/completions", json=body, timeout=30)
        assert done.status_code == 200 and done.text.endswith("data: [DONE]\n\n")
        assert "whorl_traces_lost_total 2.0" in httpx.get(f"{server.address}/metrics", timeout=30).text
        assert any("/dev/full cannot be written" in line for line in server.said)
