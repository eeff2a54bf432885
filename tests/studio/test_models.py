"""Who is in the studio and whether they are well: real servers that stall, processes that are stopped."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.studio.conftest import studio_process
from tests.studio.stub_server import stub_model
from whorl.arena.store import Store
from whorl.arena.store.store import default_store
from whorl.base.client import OpenAIClient
from whorl.base.errors import FaultError, InputError
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.studio.models import pool as pooling
from whorl.studio.models.places import default_name, find_place, read_wanted
from whorl.studio.models.pool import ModelPool

HELLO = Conversation(id="one", messages=(Message(role="user", content=("hello",)),))
HUNG = "http://[::1"


def models(admin: httpx.Client) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in admin.get("/api/models").json()["models"]}


def eventually(look: Callable[[], Any], wanted: Any, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    assert seen == wanted


# -- places and names ----------------------------------------------------------------------------------


def test_a_place_has_one_form(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        assert find_place(address, tmp_path) == "http://h:1"
    shutil.copytree(learnt, tmp_path / "models" / "mine")
    inside = str((tmp_path / "models" / "mine").resolve())
    assert find_place("models/mine", tmp_path) == inside  # the workspace's, from anywhere
    monkeypatch.chdir(tmp_path / "models")
    assert find_place("mine", tmp_path) == find_place("./mine/../mine", tmp_path) == inside


@pytest.mark.parametrize(
    "address",
    [HUNG, "http://", "http:///v1", "http://h:abc", "http://host:99999999", "http://a b", "http://h\nx",
     "http://h?x=1", "ftp://h", "a\0b"],
)  # fmt: skip
def test_what_is_no_place_is_the_users_mistake(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a server URL|is not a path|more than a server URL"):
        find_place(address, tmp_path)


def test_a_client_of_no_address_says_so() -> None:
    with pytest.raises(InputError, match="is not a server URL"):
        OpenAIClient(HUNG)


def test_the_command_lines_words(tmp_path: Path) -> None:
    def read(word: str) -> tuple[str, str, str]:
        wanted = read_wanted(word, tmp_path)
        return wanted.place, wanted.name, wanted.served_as

    assert read("http://h:1/v1") == ("http://h:1", "", "")
    assert read("mine=http://h:1#qwen/7b") == ("http://h:1", "mine", "qwen/7b")
    assert read("http://h:1/a=b") == ("http://h:1/a=b", "", "")
    assert read(f"mine={tmp_path}/x#y") == (str((tmp_path / "x#y").resolve()), "mine", "")


def test_everyone_names_a_directory_alike(learnt: Path, tmp_path: Path) -> None:
    from whorl.studio.models.discovery import find_models

    for way in ("runs/quick/model", "runs/quick/base", "models/a", "models/model"):
        shutil.copytree(learnt, tmp_path / way)
    for name, folder in find_models(tmp_path).items():
        assert default_name(str(folder.resolve()), tmp_path.resolve()) == name
    assert default_name("/elsewhere/fine/model", tmp_path) == "fine"


# -- health --------------------------------------------------------------------------------------------


class Stalling(ThreadingHTTPServer):
    """Answers about its health only while `well` is set; a reply is said a word at a time until `enough`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Stalling)
        self.well, self.enough = threading.Event(), threading.Event()
        self.well.set()
        self.cut = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Stalling(BaseHTTPRequestHandler):
    server: Stalling

    def do_GET(self) -> None:
        self.server.well.wait(60)
        self._begin("application/json")
        self.wfile.write(json.dumps({"data": [{"id": "qwen-7b"}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._begin("text/event-stream")
        try:
            while not self.server.enough.wait(0.05):
                self._say({"content": "word "})
            self._say({"content": "end"}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.cut += 1

    def _say(self, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    server = Stalling()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.well.set()
    server.enough.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that follow each other soon."""
    monkeypatch.setattr(pooling, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(pooling, "PATIENCE_SECONDS", 0.1)


async def answer(pool: ModelPool, name: str, began: asyncio.Event | None = None) -> str:
    text = ""
    async with pool.using(name) as client:
        async for delta in client.chat(HELLO, SamplingParams()):
            text += delta.content
            if began is not None:
                began.set()
    return text


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("hasty")
def test_a_slow_server_is_not_dead_while_it_answers(stalling: Stalling) -> None:
    async def talk() -> None:
        pool = ModelPool(2)
        model = pool.add("slow", stalling.address)
        pool.watch()
        began = asyncio.Event()
        first = asyncio.create_task(answer(pool, "slow", began))
        await began.wait()
        stalling.well.clear()
        await until(lambda: model.misses > 3)
        assert model.state == "ready"
        second = asyncio.create_task(answer(pool, "slow"))  # it needs no start, and cuts nobody off
        await until(lambda: model.answering == 2)
        stalling.enough.set()
        assert (await first).endswith("word end") and (await second).endswith("end")
        assert stalling.cut == 0
        await pool.close()

    asyncio.run(talk())


@pytest.mark.usefixtures("hasty")
def test_who_asks_a_model_that_is_down_cuts_nobody_off(
    stalling: Stalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "HEARD_SECONDS", 0.0)  # as one that has said nothing for long

    async def talk() -> None:
        pool = ModelPool(2)
        model = pool.add("slow", stalling.address)
        pool.watch()
        began = asyncio.Event()
        first = asyncio.create_task(answer(pool, "slow", began))
        await began.wait()
        stalling.well.clear()
        await until(lambda: model.state == "down")
        assert model.misses >= pooling.MISSES
        with pytest.raises(FaultError, match="does not answer at the moment"):
            await answer(pool, "slow")
        stalling.well.set()
        await until(lambda: model.state == "ready")  # it is looked at on
        stalling.enough.set()
        assert (await first).endswith("end") and stalling.cut == 0
        await pool.close()

    asyncio.run(talk())


@pytest.mark.usefixtures("hasty")
def test_one_bad_address_does_not_end_the_watch() -> None:
    async def look() -> None:
        with stub_model("amber") as stub:
            pool = ModelPool(2)
            bad, good = pool.add("bad", HUNG), pool.add("good", stub.address)
            pool.watch()
            await until(lambda: bad.state == "down")
            with pytest.raises(InputError):
                await pool.start(bad)
            assert bad.state == "down" and "is not a server URL" in bad.why
            await pool.start(good)
        await until(lambda: good.state == "down")  # its server has ended
        await pool.close()

    asyncio.run(look())


def serving(studio: Any) -> psutil.Process:
    """The `whorl serve` of a studio's one started model."""
    children = psutil.Process(studio.process.pid).children()
    return next(child for child in children if "serve" in child.cmdline())


@pytest.mark.soak
def test_a_stopped_process_that_goes_on_is_well_again_and_an_ended_one_is_seen_off(
    learnt: Path, tmp_path: Path
) -> None:
    shutil.copytree(learnt, tmp_path / "models" / "tiny")
    with studio_process(tmp_path) as studio, studio.admin() as admin:
        assert (
            admin.post("/api/models/start", params={"name": "tiny"}, timeout=300).json()["state"] == "ready"
        )
        server = serving(studio)
        server.send_signal(signal.SIGSTOP)
        eventually(lambda: models(admin)["tiny"]["state"], "down")
        server.send_signal(signal.SIGCONT)
        eventually(lambda: models(admin)["tiny"]["state"], "ready")
        server.kill()
        eventually(lambda: models(admin)["tiny"]["state"], "down")
        assert "has ended" in models(admin)["tiny"]["why"]
        eventually(server.is_running, False)  # no zombie is left
        assert (
            admin.post("/api/models/start", params={"name": "tiny"}, timeout=300).json()["state"] == "ready"
        )


# -- joining and starting again ------------------------------------------------------------------------


@contextmanager
def within(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_a_relative_directory_joins_and_the_studio_starts_again(learnt: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    (workspace / "models").mkdir(parents=True)
    shutil.copytree(learnt, tmp_path / "mine")
    with within(tmp_path), studio_process(workspace) as studio, studio.admin() as admin:
        joined = admin.post("/api/models", json={"address": "mine"}).json()
        assert joined["name"] == "mine" and joined["address"] == str((tmp_path / "mine").resolve())
        again = admin.post("/api/models", json={"address": str(tmp_path / "mine"), "name": "other"})
        assert again.status_code == 400 and "already here as mine" in again.json()["error"]["message"]
        for bad in (HUNG, "http://h:abc", "http://host:99999999"):
            refused = admin.post("/api/models", json={"address": bad})
            assert refused.status_code == 400, refused.text
            assert "is not a server URL" in refused.json()["error"]["message"]
        key = admin.post("/api/models", json={"address": "http://127.0.0.1:9", "api_key": "ключ"})
        assert key.status_code == 400 and "key" in key.json()["error"]["message"]
    with studio_process(workspace) as studio, studio.admin() as admin:
        assert [one["state"] for one in models(admin).values()] == ["idle"]


def test_what_cannot_be_had_is_a_card_and_no_end(learnt: Path, tmp_path: Path) -> None:
    """Also what an earlier version kept: paths as they were typed, and whatever else."""
    for way in ("models/typed", "models/taken"):
        shutil.copytree(learnt, tmp_path / way)
    with Store.open(default_store(tmp_path)) as store:
        store.add_model("typed", address="models/typed")
    entries = [
        {"name": "typed", "address": "models/typed", "served_as": "", "api_key": ""},
        {"name": "gone", "address": "/no/such/place", "served_as": "", "api_key": ""},
        {"name": "crooked", "address": HUNG, "served_as": "", "api_key": ""},
        {"name": "odd", "address": 7}, "nothing", {"name": "newer", "address": "/x", "seed": 1},
        {"name": "taken", "address": str(learnt), "served_as": "", "api_key": ""},
    ]  # fmt: skip
    file = tmp_path / "studio" / "models.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"format": 1, "models": entries}))
    with studio_process(tmp_path) as studio, studio.admin() as admin:
        found = models(admin)
        down = {name: one["why"] for name, one in found.items() if one["state"] == "down"}
        assert found["typed"]["address"] == str((tmp_path / "models" / "typed").resolve())
        assert set(down) == {"gone", "crooked", "odd", "entry 5", "newer"}
        assert "contains no model" in down["gone"] and "not a server URL" in down["crooked"]
        assert "has no address" in down["odd"] and "seed" in down["newer"]
        # `taken` joined first under that name: the workspace's folder has another.
        assert {found["taken"]["state"], found["taken-2"]["state"]} == {"idle"}
        assert found["taken"]["address"] == str(learnt)
        tried = admin.post("/api/models/start", params={"name": "crooked"})
        assert tried.status_code == 400 and "not a server URL" in tried.json()["error"]["message"]
        assert admin.delete("/api/models", params={"name": "entry 5"}).status_code == 204
    kept = [one.get("name") for one in json.loads(file.read_text())["models"]]
    assert sorted(kept) == ["crooked", "gone", "newer", "odd", "taken", "typed"]


def test_what_is_trained_meanwhile_appears(learnt: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with studio_process(tmp_path) as studio, studio.admin() as admin:
        assert models(admin) == {}
        shutil.copytree(learnt, tmp_path / "runs" / "first" / "model")
        assert "first" in admin.get("/models").text  # who opens the page need not wait
        shutil.copytree(learnt, tmp_path / "runs" / "second" / "model")
        eventually(lambda: set(models(admin)), {"first", "second"})
        admin.delete("/api/models", params={"name": "first"})
        admin.get("/models")
        assert set(models(admin)) == {"second"}  # it left, and stays away


def test_the_command_line_does_what_the_page_can(learnt: Path, tmp_path: Path) -> None:
    with stub_model("qwen-7b") as one, stub_model("gemma-2b") as two:
        key = tmp_path / "key"
        key.write_text("# of the second\nsecret\n")
        words = [
            "--model", f"fast={one.address}/v1#qwen-7b", "--model", two.address,
            "--model", f"{two.address}/v1/", "--model", f"mine={learnt}", "--key-file", f"fast={key}",
        ]  # fmt: skip
        workspace = tmp_path / "ws"
        workspace.mkdir()
        host = two.address.partition("://")[2]
        for _ in range(2):  # and again
            with studio_process(workspace, *words) as studio, studio.admin() as admin:
                assert set(models(admin)) == {"fast", host, "mine"}
                for name in ("fast", host):
                    assert admin.post("/api/models/start", params={"name": name}).json()["state"] == "ready"
    held = {
        one["name"]: one for one in json.loads((workspace / "studio" / "models.json").read_text())["models"]
    }
    assert held["fast"]["api_key"] == "secret" and held[host]["api_key"] == ""
    with Store.open(default_store(workspace)) as store:
        aliases = {model.name: model.aliases for model in store.models()}
    # A reply that says what its server calls it names itself.
    assert aliases == {"fast": ("qwen-7b",), host: ("gemma-2b",), "mine": ()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", HUNG], "is not a server URL"),
        (["--model", "x=ftp://h"], "must start with http"),
        (
            ["--key-file", "nobody={key}", "--model", "http://127.0.0.1:9"],
            "there is no --model with that name",
        ),
        (["--key-file", "/no/such/file"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line(words: list[str], expected: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    given = [word.format(key=key) for word in words]
    command = [sys.executable, "-m", "whorl", "studio", "--workspace", str(tmp_path), "--port", "0", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and expected in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
