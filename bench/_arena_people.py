"""A hundred people at once in the arena: battles and votes through the studio's HTTP, mock models behind.

Each person asks, reads both answers to their end, thinks a while, votes, and asks again; then all vote in
the same moment, which nobody does, as the worst case. The studio is killed with SIGKILL and the store is
read: every vote that was acknowledged must be there, and the chain must hold.

People, mock models and the studio share the machine's cores.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
from _arena_store import addresses, two_cores
from _mock_model import NAMES

from whorl.arena.store import Store
from whorl.base.files import write_json

IDLE_SECONDS = 2.0
SENT = {"left": "model_a", "right": "model_b", "tie": "tie", "bad": "tie (bothbad)"}


class Browser:
    """One keep-alive connection that speaks just enough HTTP: the bench's own time must not count much."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self.cookie = ""

    async def __aenter__(self) -> Browser:
        await self._connect()
        return self

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._used = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """(status, headers, body). A connection that lay idle is about to be closed, and is left."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._writer.close()
            await self._connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {kind}\r\n" + (f"Cookie: {self.cookie}\r\n" if self.cookie else "")
        self._writer.write(head.encode() + b"\r\n" + body)
        raw = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = raw.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" in headers:
            answer = await self._reader.readexactly(int(headers["content-length"]))
        else:
            answer = await self._chunks() if headers.get("transfer-encoding") == "chunked" else b""
        self._used = time.monotonic()
        return int(raw.split(" ", 2)[1]), raw, answer

    async def _chunks(self) -> bytes:
        whole = b""
        while size := int((await self._reader.readline()).strip(), 16):
            whole += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return whole

    async def post(self, path: str, value: Any) -> Any:
        status, _, answer = await self.ask("POST", path, json.dumps(value).encode())
        if status != 200:
            raise SystemExit(f"POST {path} gave {status}: {answer[:300]!r}")
        return json.loads(answer)


@dataclass
class Seen:
    """What came of it: seconds of each vote, of each battle's beginning, and what was acknowledged."""

    votes: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)

    def at(self, share: int) -> dict[str, float]:
        """Milliseconds within which so many per cent were answered."""
        took = {"begin": self.begun, "vote": self.votes, "vote of all at once": self.burst}
        return {
            what: round(1000 * statistics.quantiles(each, n=100)[share - 1], 2) for what, each in took.items()
        }


async def sign_in(browser: Browser, name: str, token: str) -> None:
    form = f"name={quote(name)}&token={quote(token)}".encode()
    status, head, _ = await browser.ask("POST", "/sign-in", form, "application/x-www-form-urlencoded")
    if status != 303:
        raise SystemExit(f"{name} could not sign in: {status}")
    found = re.search(r"set-cookie: (whorl_session=[^;]+)", head, re.IGNORECASE)
    assert found is not None
    browser.cookie = found[1]


async def battle(browser: Browser, chance: random.Random, seen: Seen) -> str:
    """Ask, and read both answers to their end; the battle's id."""
    began = time.perf_counter()
    text = f"What is {chance.randrange(10**9)} to you, and why is it {chance.randrange(10**9)}?"
    number = (await browser.post("/api/arena", {"text": text}))["id"]
    seen.begun.append(time.perf_counter() - began)
    _, _, stream = await browser.ask("GET", f"/api/arena/{number}/stream")
    if b'"state": "open"' not in stream:
        raise SystemExit(f"battle {number} did not go well: {stream[-300:]!r}")
    return str(number)


async def vote(browser: Browser, number: str, winner: str, seconds: list[float], seen: Seen) -> None:
    began = time.perf_counter()
    shown = await browser.post(f"/api/arena/{number}/vote", {"winner": winner})
    seconds.append(time.perf_counter() - began)
    assert shown["vote"]["winner"] == winner
    seen.acknowledged[number] = winner


async def person(
    address: str, name: str, token: str, seed: int, until: float, pace: float, together: asyncio.Barrier,
    seen: Seen,
) -> None:  # fmt: skip
    chance = random.Random(seed)
    async with Browser(address) as browser:
        await sign_in(browser, name, token)
        await asyncio.sleep(chance.random() * pace)  # people do not come in step
        while time.monotonic() < until:
            number = await battle(browser, chance, seen)
            await asyncio.sleep(chance.uniform(0.5, 1.5) * pace)
            await vote(browser, number, chance.choice([*SENT]), seen.votes, seen)
            await browser.ask("GET", f"/api/arena/{number}/outcome")  # as the page does
            # Who reads the outcome does not ask in the very moment in which the board comes for everyone.
            await asyncio.sleep(chance.uniform(0.5, 1.5) * pace / 3)
        number = await battle(browser, chance, seen)
        await together.wait()
        await vote(browser, number, chance.choice([*SENT]), seen.burst, seen)


@contextmanager
def mock_models() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("_mock_model.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)


@contextmanager
def studio(workspace: Path, store: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a studio and its process, which is killed with SIGKILL at the end."""
    command = [
        sys.executable, "-m", "whorl", "studio", "--workspace", str(workspace), "--port", "0",
        "--store", store, "--limits.messages", "100000", "--limits.sign_ins", "100000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"open (http://\S+?)/enter", line):
                yield found[1], psutil.Process(process.pid)
                break
        else:
            raise SystemExit("the studio did not start")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def at_the_studio(people: int, seconds: float, pace: float) -> dict[str, dict[str, Any]]:
    """By database."""
    with two_cores(), addresses() as places:
        return {
            name: people_at_once(place, people, seconds, pace)
            for name, place in places.items()
            if "no pauses" not in name
        }


def people_at_once(address: str, people: int, seconds: float, pace: float) -> dict[str, Any]:
    """Figures over an empty store."""
    workspace = Path(tempfile.mkdtemp(prefix="whorl-people-"))
    try:
        with mock_models() as models, Store.open(address) as opened:
            names = [f"person {number}" for number in range(people)]
            tokens = [opened.new_token(opened.add_person(name).id) for name in names]
            for name in NAMES:
                opened.add_model(name, address=models)
            held = [{"name": name, "address": models, "served_as": name, "api_key": ""} for name in NAMES]
            write_json(workspace / "studio" / "models.json", {"format": 1, "models": held})
            with studio(workspace, address) as (http, process):
                before = sum(process.cpu_times()[:2])
                seen = asyncio.run(_all(http, list(zip(names, tokens, strict=True)), seconds, pace))
                used = sum(process.cpu_times()[:2]) - before
        with Store.open(address, create=False) as opened:
            found = opened.verify()
            kept = {vote.battle: vote.winner for vote in opened.battles(consent="none", rated=None)}
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    if not found.ok:
        sys.exit(f"bench/arena.py: the log of votes does not verify: {found.problem}")
    lost = sum(kept.get(number) != SENT[winner] for number, winner in seen.acknowledged.items())
    return {
        "people": people, "pace_s": pace, "seconds": seconds, "votes": len(seen.acknowledged), "lost": lost,
        "votes_per_s": round(len(seen.votes) / seconds, 1),
        "cpu_ms_per_battle": round(1000 * used / len(seen.acknowledged), 2),
        **{f"p{share}_ms": seen.at(share) for share in (50, 95, 99)},
    }  # fmt: skip


async def _all(address: str, people: list[tuple[str, str]], seconds: float, pace: float) -> Seen:
    seen, together = Seen(), asyncio.Barrier(len(people))
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(
            person(address, name, token, seed, until, pace, together, seen)
            for seed, (name, token) in enumerate(people)
        )
    )
    return seen
