"""What fails in the studio itself: the page points to the terminal, and there it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.studio.conftest import StudioProcess
from tests.studio.stub_server import stub_model
from tests.studio.test_battles import arena, begin, blank  # noqa: F401  a fixture

BROKEN = """
from whorl.cli.main import main
from whorl.studio.battles.room import BattleRoom
from whorl.studio.chat.exchange import Exchange

async def broken(self, *given):
    raise ZeroDivisionError("the thread tore")

BattleRoom._settle = Exchange._talk = broken
main()
"""


def wait_for_line(studio: StudioProcess, text: str) -> str:
    deadline = time.monotonic() + 60
    while not any(text in line for line in list(studio.said)):
        assert time.monotonic() < deadline, "".join(studio.said)
        time.sleep(0.02)
    return "".join(studio.said)


@pytest.mark.parametrize("what", ["battle", "conversation"])
def test_the_terminal_says_how_the_studio_failed(tmp_path: Path, blank: Path, what: str) -> None:  # noqa: F811
    with (
        stub_model("amber-1") as amber,
        stub_model("birch-2") as birch,
        arena(tmp_path, blank, amber, birch, whorl=("-c", BROKEN)) as studio,
        studio.admin() as http,
    ):
        if what == "battle":
            battle = begin(http)
            number, told = battle["id"], str(battle)
        else:
            begun = http.post("/api/chat", json={"text": "Hello", "model": "amber-1"}).json()
            number = begun["id"]
            told = http.get(f"/api/chat/{number}/stream?exchange={begun['exchange']}").text
        assert "see its terminal for details" in told
        said = wait_for_line(studio, "ZeroDivisionError: the thread tore")
        assert f"{what} {number} failed" in said and "Traceback (most recent call last)" in said
        assert http.get("/models").status_code == 200, "the studio goes on"
