"""Behind a real nginx, with its usual settings: what it buffers, cuts off, renames and gives up on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from tests.serve.api.conftest import Server, serving
from tests.serve.api.test_robust import BODY, LONG, answers_right, wait_until_idle
from whorl.serve.api.listening import http_settings

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

SECRET = {"authorization": "Bearer secret"}
PATIENCE = 60  # seconds that nginx waits for the server's next byte, as it comes
CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream served {{ server {upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 8m;
        proxy_read_timeout {patience}s;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto https;
        location /llm/ {{ proxy_pass http://served/; }}  # without its prefix, over HTTP/1.0
        location /kept/ {{  # connections to the server are kept, bodies passed on as they come
            proxy_pass http://served/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
        location / {{ proxy_pass http://served; }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def nginx(upstream: str, folder: Path, patience: int = PATIENCE) -> Iterator[str]:
    """An nginx of its own in front of `upstream` (host:port); its address."""
    assert NGINX is not None
    for _ in range(3):  # somebody else may take the port in between
        port = free_port()
        # Started by root, its workers would become another user, who may not enter pytest's folders.
        user = "user root;" if os.geteuid() == 0 else ""
        written = CONFIG.format(user=user, folder=folder, upstream=upstream, port=port, patience=patience)
        (folder / "nginx.conf").write_text(written)
        errors = folder / "error.log"
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-e", str(errors), "-c", str(folder / "nginx.conf")],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if listens(port, process):
            break
    else:
        raise AssertionError(process.communicate()[1] + errors.read_text())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def listens(port: int, process: subprocess.Popen[str]) -> bool:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


class Behind:
    """A server, and the address under which nginx shows it."""

    def __init__(self, server: Server, address: str) -> None:
        self.server, self.address = server, address

    @property
    def direct(self) -> str:
        return self.server.address.removesuffix("/llm")

    @contextmanager
    def worker_stopped(self) -> Iterator[Callable[[], None]]:
        """As slow as a prompt can be: the model makes nothing until this ends, or what it gives is called."""
        worker = self.server.worker
        worker.suspend()
        try:
            yield worker.resume
        finally:
            worker.resume()


@contextmanager
def behind(model: Path, folder: Path, *words: str) -> Iterator[Behind]:
    with (
        serving("--limits.keep_alive_seconds", "0.3", *words, model=model) as server,
        nginx(server.host, folder) as address,
    ):
        yield Behind(server, address)


@pytest.fixture(scope="module")
def site(learnt_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("nginx")
    with behind(learnt_directory, folder, "--root-path", "/llm", "--limits.body", "100000") as made:
        yield made


def lines(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line)


@pytest.mark.parametrize("place", ["llm", "kept"])
def test_a_prompt_slower_than_nginx_waits_is_kept_alive(site: Behind, tmp_path: Path, place: str) -> None:
    """Comments pass at once, though nginx buffers; so the stream outlives its patience."""
    patience = 2
    with (
        nginx(site.server.host, tmp_path, patience) as hasty,
        site.worker_stopped() as go_on,
        httpx.stream(
            "POST", f"{hasty}/{place}/v1/chat/completions", json={**BODY, "stream": True}, timeout=60
        ) as answer,
    ):
        assert answer.status_code == 200
        seen = lines(answer)
        assert "assistant" in next(seen)
        began = time.monotonic()
        while time.monotonic() - began < patience + 1:
            assert next(seen) == ": still here"
        go_on()
        rest = list(seen)
    assert rest[-1] == "data: [DONE]" and any("dark" in line for line in rest)


def test_events_come_as_they_are_made(site: Behind) -> None:
    with httpx.stream(
        "POST", f"{site.address}/llm/v1/chat/completions", json={**LONG, "stream": True, "n": 8}, timeout=60
    ) as answer:
        seen = lines(answer)
        first = next(line for line in seen if line.startswith("data: "))
        with site.worker_stopped():
            before = []
            for line in seen:
                before.append(line)
                if line == ": still here":  # all that was made has come
                    break
            assert "data: [DONE]" not in [first, *before]
        assert list(seen)[-1] == "data: [DONE]"


@pytest.mark.parametrize("place", ["/llm", "/kept", ""])
def test_every_route_under_its_place(site: Behind, place: str) -> None:
    address = site.address + place
    answers_right(address)
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "knows"
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
    chunks = client.chat.completions.create(**BODY, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "dark"


def test_what_the_server_says_of_itself_has_the_prefix(site: Behind) -> None:
    """So that a browser's documentation page finds its description."""
    assert httpx.get(f"{site.address}/llm/").json()["api"] == "/llm/v1"
    assert "/llm/openapi.json" in httpx.get(f"{site.address}/llm/docs").text
    described = httpx.get(f"{site.address}/llm/openapi.json").json()
    assert described["servers"] == [{"url": "/llm"}] and "/v1/models" in described["paths"]


@pytest.mark.parametrize("place", ["llm", "kept"])
@pytest.mark.parametrize("size", [100_001, 5_000_000])
def test_a_body_over_the_servers_limit_is_told_so(site: Behind, place: str, size: int) -> None:
    """Not 502: nginx reads the answer though the server has left most of the body unread."""
    body = b"{" + b" " * (size - 1)
    for _ in range(20):
        done = httpx.post(f"{site.address}/{place}/v1/chat/completions", content=body, timeout=30)
        assert done.status_code == 413, done.text
        assert done.json()["error"]["code"] == "too_large"
    answers_right(f"{site.address}/{place}")


def test_a_body_of_no_stated_length(site: Behind) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    for place in ("llm", "kept"):
        done = httpx.post(f"{site.address}/{place}/v1/chat/completions", content=endless(), timeout=30)
        assert done.status_code == 413 and done.json()["error"]["code"] == "too_large", done.text


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_through_nginx_leaves_no_page_behind(site: Behind, stream: bool) -> None:
    address = f"{site.address}/llm/v1/chat/completions"

    def leave() -> None:
        patience = httpx.Timeout(10, read=0.2)
        with suppress(httpx.ReadTimeout):
            httpx.post(address, json={**LONG, "n": 4}, timeout=patience)

    def open_and_leave() -> None:
        with httpx.stream("POST", address, json={**LONG, "stream": True, "n": 4}, timeout=60) as answer:
            next(lines(answer))

    threads = [threading.Thread(target=open_and_leave if stream else leave) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until_idle(site.direct)
    answers_right(f"{site.address}/llm")


def test_keys_pass_and_sigterm_lets_a_stream_end(learnt_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    words = ("--api-key-file", str(tmp_path / "keys"), "--root-path", "/llm")
    with behind(learnt_directory, tmp_path, *words) as site:
        address = f"{site.address}/llm"
        for path in ("/v1/models", "/metrics", "/docs", "/health/"):
            assert httpx.get(address + path).status_code == 401, path
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        for _ in range(20):
            large = httpx.post(f"{address}/v1/chat/completions", content=b" " * 5_000_000, timeout=30)
            assert large.status_code == 401, large.text
        answers_right(address, **SECRET)
        body, url = {**LONG, "stream": True}, f"{address}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=SECRET, timeout=60) as answer:
            seen = lines(answer)
            next(line for line in seen if line.startswith("data: "))
            site.server.process.send_signal(signal.SIGTERM)
            assert list(seen)[-1] == "data: [DONE]"
        assert site.server.process.wait(30) == 0
        assert httpx.get(f"{address}/health").status_code == 502


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the client and scheme that the server believes in."""
    assert scope["type"] == "http"
    text = f"{scope['client'][0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [((), "127.0.0.1 http"), (("127.0.0.0/8",), "10.9.8.7 https"), (("192.0.2.1",), "127.0.0.1 http")],
    ids=str,
)
def test_forwarded_headers_are_believed_of_the_trusted_proxy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], believed: str
) -> None:
    """The server's own HTTP settings, with an application that shows what they make of the headers."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own variable does not open a back door
    server = uvicorn.Server(http_settings(whoami, trusted_proxy=trusted, drain_seconds=5))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with nginx(f"127.0.0.1:{listener.getsockname()[1]}", tmp_path) as address:
            given = httpx.get(address, headers={"x-forwarded-for": "6.6.6.6, 10.9.8.7"}, timeout=30).text
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert given == believed
