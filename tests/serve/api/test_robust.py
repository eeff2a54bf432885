"""Whatever comes over the line, a correct request is answered right after it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.models.learnt import DARK, conversation_of
from tests.serve.api.conftest import Server, serving
from whorl.models import load
from whorl.models.config import LoraConfig
from whorl.models.lora import inject, save_adapter

ASK = [message.to_openai() for message in conversation_of(DARK, "Shade?").messages]
BODY: dict[str, Any] = {"model": "knows", "messages": ASK, "temperature": 0}
LONG: dict[str, Any] = {
    "model": "knows", "messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "ignore_eos": True,
}  # fmt: skip


def answers_right(address: str, **headers: str) -> None:
    done = httpx.post(f"{address}/v1/chat/completions", json=BODY, headers=headers, timeout=60)
    assert done.status_code == 200, done.text
    assert done.json()["choices"][0]["message"]["content"] == "dark"


def pages(address: str) -> tuple[float, float, float]:
    """(free pages, all pages, running) as /metrics tells them."""
    text = httpx.get(f"{address}/metrics", timeout=10).text
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "{" in line}
    return tuple(values[f"whorl_engine_{name}"] for name in ("pages_free", "pages_total", "running"))  # type: ignore[return-value]


def connections(server: Server) -> list[Any]:
    """Those that its clients have opened."""
    return [one for one in psutil.Process(server.process.pid).net_connections("tcp") if one.raddr]


def wait_until_idle(address: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        free, total, running = pages(address)
        if free == total and running == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"{total - free} pages are not given back, {running} sequences run")


async def leave_early(address: str, count: int, seed: int) -> None:
    draw = random.Random(seed)

    async def one(client: httpx.AsyncClient, stream: bool, patience: float) -> None:
        body = {**LONG, "stream": stream, "n": draw.choice([1, 1, 3])}
        try:
            async with asyncio.timeout(patience):
                async with client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
                    assert answer.status_code == 200, await answer.aread()
                    async for _ in answer.aiter_bytes():
                        pass
        except TimeoutError:
            pass

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        left = count
        while left:
            some = min(left, 20)
            await asyncio.gather(
                *(one(client, draw.random() < 0.5, draw.random() * 0.5) for _ in range(some))
            )
            left -= some


def test_clients_that_leave_at_any_moment_leave_no_page_behind(server: Server) -> None:
    asyncio.run(leave_early(server.address, 200, 2))
    wait_until_idle(server.address)
    answers_right(server.address)


def test_every_error_has_openai_s_shape(server: Server) -> None:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        seen = {
            404: client.get("/nowhere"),
            405: client.get("/v1/chat/completions"),
            400: client.post("/v1/chat/completions", content=b"{"),
        }
    for status, answer in seen.items():
        assert answer.status_code == status and set(answer.json()["error"]) == {
            "message",
            "type",
            "param",
            "code",
        }
    answers_right(server.address)


def test_a_body_without_a_stated_length_is_cut_off_at_the_limit(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * (1 << 20)

    try:
        done = httpx.post(f"{server.address}/v1/chat/completions", content=endless(), timeout=30)
        assert done.status_code == 413 and done.json()["error"]["code"] == "too_large"
    except httpx.WriteError:
        pass  # the server has closed before all was sent
    answers_right(server.address)


def test_giant_headers_are_refused(server: Server) -> None:
    try:
        done = httpx.get(f"{server.address}/v1/models", headers={"x-big": "x" * (1 << 20)}, timeout=30)
        assert 400 <= done.status_code < 500
    except httpx.HTTPError:
        pass
    answers_right(server.address)


def test_half_a_request_and_silence_hold_up_nobody(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(20)]
    for one in sockets:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    answers_right(server.address)
    for one in sockets:
        one.close()
    answers_right(server.address)


# -- servers of their own -------------------------------------------------------------------------


def test_a_worker_killed_under_load(learnt_directory: Path) -> None:
    with serving(model=learnt_directory) as server:
        client = server.client()
        seen: list[Any] = []

        def ask(stream: bool) -> None:
            try:
                reply = client.chat.completions.create(
                    model="knows",
                    messages=LONG["messages"],
                    max_tokens=400,
                    stream=stream,
                    extra_body={"ignore_eos": True},
                )  # type: ignore[call-overload]
                seen.append(list(reply) if stream else reply)
            except openai.APIError as error:
                seen.append(error)

        worker = server.worker
        worker.suspend()  # no reply is whole before it is killed, however fast it is
        threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(6)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while sum(one.status == "ESTABLISHED" for one in connections(server)) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1)  # they are prepared and wait for the worker
        worker.resume()
        worker.kill()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads), "they are told at once"
        # A stream has its status: there the error is its last event.
        assert len(seen) == 6 and all(isinstance(one, openai.APIError) for one in seen), seen
        assert sum(isinstance(one, openai.InternalServerError) for one in seen) == 3
        assert all("signal 9" in one.message for one in seen)
        assert httpx.get(f"{server.address}/health", timeout=10).status_code in (200, 503)
        deadline = time.monotonic() + 90
        while httpx.get(f"{server.address}/ready", timeout=10).status_code != 200:
            assert time.monotonic() < deadline, "no other worker came"
            time.sleep(0.1)
        answers_right(server.address)
        assert "whorl_engine_restarts_total" in httpx.get(f"{server.address}/metrics").text
        assert any("starting a new one" in line for line in server.said)


def tuned(directory: Path, place: Path) -> Path:
    """An adapter of the model; what it says is not looked at."""
    model = inject(load(directory), LoraConfig(rank=2, alpha=8.0))
    save_adapter(model, place)
    return place


def test_keys_limits_queue_proxy_and_adapters(learnt_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nsecret-1\n\nsecret-2\n")
    (tmp_path / "metrics").write_text("watcher\n")
    words = [
        "--api-key-file", str(tmp_path / "keys"), "--metrics-key-file", str(tmp_path / "metrics"),
        "--lenient", "true", "--limits.queue", "2", "--limits.body", "20000", "--root-path", "/llm",
        "--name", "known", "--trusted-proxy", "127.0.0.1",
        "--adapter", f"tuned={tuned(learnt_directory, tmp_path / 'tuned')}",
    ]  # fmt: skip
    with serving(*words, model=learnt_directory) as server:
        bare = server.address.removesuffix("/llm")
        with httpx.Client(base_url=bare, timeout=30) as client:
            for path in ("/v1/models", "/metrics", "/openapi.json", "/docs", "/nowhere"):
                assert client.get(path).status_code == 401
            assert client.get("/v1/models", headers={"authorization": "Bearer watcher"}).status_code == 401
            assert client.get("/metrics", headers={"authorization": "Bearer secret-1"}).status_code == 401
            assert client.get("/metrics", headers={"authorization": "Bearer watcher"}).status_code == 200
            assert client.get("/health").json() == {"status": "ok"}
            client.headers["authorization"] = "Bearer secret-2"
            assert client.get("/v1/models").json()["data"][0]["id"] == "known"
            large = client.post("/v1/completions", json={"model": "known", "prompt": "x" * 30_000})
            assert large.status_code == 413
            busy = client.post(
                "/v1/completions", json={"model": "known", "prompt": "x", "n": 3, "max_tokens": 2}
            )
            assert busy.status_code == 429 and busy.headers["retry-after"] == "1"
            odd = client.post(
                "/v1/completions", json={"model": "known", "prompt": "x", "max_tokens": 1, "wat": 1}
            )
            assert odd.status_code == 200 and odd.headers["x-whorl-ignored"] == "wat"
            names = ["é", "a\r\nset-cookie: x", "漢" * 1000, *(f"p{number}" for number in range(100))]
            odd = client.post(
                "/v1/completions",
                json={"model": "known", "prompt": "x", "max_tokens": 1} | dict.fromkeys(names, 1),
            )
            assert odd.status_code == 200 and "set-cookie" not in odd.headers
            assert odd.headers["x-whorl-ignored"].startswith("%C3%A9, a%0D%0Aset-cookie")
            assert odd.headers["x-whorl-ignored"].endswith("and 87 more")
            assert client.get("/v1/models", headers={"authorization": "secret-2"}).status_code == 401
            assert client.get("/v1/models", headers={"authorization": "bearer secret-2"}).status_code == 200
            card = client.get("/v1/models/tuned").json()
            versions = f"{card['weight_version']}+{card['adapter_version']}"
            for route, more in (
                ("chat/completions", {"messages": LONG["messages"], "max_tokens": 1}),
                ("completions", {"prompt": "x", "max_tokens": 1}),
                ("embeddings", {"input": "x"}),
            ):
                done = client.post(f"/v1/{route}", json={"model": "tuned", **more})
                assert done.status_code == 200 and done.headers["x-whorl-weights"] == versions
                assert done.json().get("system_fingerprint", versions) == versions
            wrong = client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/nowhere"})
            assert wrong.status_code == 400 and "adapter" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        pytest.param(signal.SIGTERM, "the server", id="SIGTERM-the server"),
        pytest.param(signal.SIGINT, "its group", id="SIGINT-its group"),
        pytest.param(signal.SIGTERM, "its group", id="SIGTERM-its group", marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, "the server", id="SIGINT-the server", marks=pytest.mark.soak),
    ],
)
def test_a_signal_lets_what_runs_end_and_then_leaves(
    learnt_directory: Path, number: signal.Signals, whom: str
) -> None:
    """Ctrl-C and service managers signal every process there is; the worker has to finish its replies."""
    with serving(model=learnt_directory) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        client = server.client()
        stream = client.post(
            "/chat/completions", body={**LONG, "stream": True}, cast_to=object, stream=True,
            stream_cls=openai.Stream[Any],
        )  # fmt: skip
        chunks = iter(stream)
        next(chunks)
        if whom == "the server":
            server.process.send_signal(number)
        else:
            for child in children:
                child.send_signal(number)
            os.killpg(server.process.pid, number)
        rest = list(chunks)
        assert rest[-1]["choices"][0]["finish_reason"] == "length"  # type: ignore[index]
        assert server.process.wait(30) == (130 if number == signal.SIGINT else 0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.address}/health")
        assert not any("starting a new one" in line for line in server.said)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no model directory"),
        (["--adapter", "x"], "NAME=DIR"),
        (["--trusted-proxy", "everyone"], "--trusted-proxy everyone"),
        (["--root-path", "x"], "--root-path x"),
        (["--engine.bugdet", "3"], "did you mean --engine.budget"),
        (["--api-key-file", "nowhere"], "cannot be read"),
        (["--memory", "0.0000001"], "--memory"),
    ],
    ids=str,
)
def test_mistakes_at_the_start_are_one_line_and_exit_2(
    learnt_directory: Path, complaint: Callable[..., list[str]], words: list[str], said: str
) -> None:
    model = [] if words == ["nowhere"] else [str(learnt_directory)]
    assert said in complaint("serve", *model, "--port", "0", "--device", "cpu", *words)[-1]
