"""Battles over HTTP: what a browser learns and when, votes that are kept, models that fail."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.studio.conftest import StudioProcess, studio_process
from tests.studio.stub_server import StubModel, stub_model
from whorl.arena.store import Store

PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJ"
    "RU5ErkJggg=="
)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace's store where every prompt rates."""
    path = tmp_path_factory.mktemp("blank") / "arena" / "arena.sqlite"
    path.parent.mkdir()
    Store.open(path, train_share=0.0).close()
    return path.parent


@contextmanager
def arena(folder: Path, blank: Path, *models: StubModel, words: tuple[str, ...] = ()) -> Iterator[StudioProcess]:
    """A studio over `folder` with these models, by their names."""
    (folder / "studio").mkdir(parents=True, exist_ok=True)
    if not (folder / "arena").exists():
        shutil.copytree(blank, folder / "arena")
    held = [{"name": one.name, "address": one.address, "served_as": "", "api_key": ""} for one in models]
    with Store.open(folder / "arena" / "arena.sqlite") as store:
        for one in models:
            store.add_model(one.name, address=one.address)
    (folder / "studio" / "models.json").write_text(json.dumps({"format": 1, "models": held}))
    with studio_process(folder, *words) as process:
        yield process


def settled(http: httpx.Client, number: str) -> dict[str, Any]:
    """The battle once both have answered, or one has failed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        shown = http.get(f"/api/arena/{number}").json()
        if shown["state"] != "answering":
            return dict(shown)
        time.sleep(0.03)
    raise AssertionError("the battle does not settle")


def begin(http: httpx.Client, text: str = "What is a whorl?", **more: Any) -> dict[str, Any]:
    answer = http.post("/api/arena", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    return settled(http, answer.json()["id"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[tuple[StudioProcess, StubModel, StubModel]]:
    with ExitStack() as stack:
        amber = stack.enter_context(stub_model("amber-1", answer="It spins.", weight_version="aa11"))
        birch = stack.enter_context(stub_model("birch-2", answer="A weight.", weight_version="bb22"))
        folder = tmp_path_factory.mktemp("arena")
        yield stack.enter_context(arena(folder, blank, amber, birch)), amber, birch


def test_a_battle_its_vote_and_what_comes_after(pair: Any) -> None:
    studio, *_ = pair
    with studio.voter("vera") as vera:
        battle = begin(vera, "Hello there")
        assert battle["state"] == "open" and battle["vote"] is None
        assert {battle["exchanges"][0][side]["html"] for side in ("left", "right")} == {
            "<p>It spins.</p>\n", "<p>A weight.</p>\n",
        }  # fmt: skip
        more = vera.post(f"/api/arena/{battle['id']}/say", json={"text": "And then?"})
        assert more.status_code == 200
        battle = settled(vera, battle["id"])
        assert [one["asked"]["text"] for one in battle["exchanges"]] == ["Hello there", "And then?"]
        voted = vera.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"}).json()
        assert voted["state"] == "voted" and voted["vote"]["rated"] and voted["vote"]["winner"] == "left"
        named = {voted["vote"][side]["model"]: voted["vote"][side]["weights"] for side in ("left", "right")}
        assert named == {"amber-1": ["aa11"], "birch-2": ["bb22"]}
        outcome = vera.get(f"/api/arena/{battle['id']}/outcome").json()
        assert outcome["rated"] and outcome["votes"] == 1
        assert outcome["left"]["before"] is None
        assert outcome["left"]["after"]["rating"] > outcome["right"]["after"]["rating"]
        whole = [quest["name"] for quest in outcome["standing"]["quests"] if quest["whole"]]
        assert {"first", "ground", "unsure"} == set(whole)
        assert outcome["standing"]["points"] == sum(gain["points"] for gain in outcome["gains"])
