"""The leaderboard over a real store of scripted votes, against `whorl arena rank` of the same votes."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.studio.conftest import PHONE, StudioProcess, serious_faults, studio_process
from whorl.arena.battles import Battles
from whorl.arena.flips import votes_to_flip
from whorl.arena.store import Store
from whorl.arena.store.store import default_store
from whorl.arena.views import ratings_over_time, win_matrix
from whorl.arena.writing import write_battles
from whorl.base.nouns import Message
from whorl.studio.battles.live_board import LiveBoard
from whorl.studio.board.figures import Figures, View

STRENGTH = {
    "strong": 1150.0,
    "middle": 1000.0,
    "weak<b>": 900.0,
    "model with a long name that a phone has no room for": 1020.0,
}
WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "indigo", "jasper")


def vote(store: Store, number: int, at: float, pair: tuple[str, str] | None = None, winner: str = "") -> None:
    """A battle over a prompt like no other, and its vote by the models' strengths."""
    dice = random.Random(number)
    a, b = pair or dice.sample(list(STRENGTH), 2)
    person = next(person for person in store.people() if person.name == "judge")
    text = " ".join(dice.choices(WORDS, k=14)) + f" {number}"
    battle = store.start_battle(
        person.id, [Message(role="user", content=(text,))], model_a=a, model_b=b, probability=0.2,
        consent="rate", category=dice.choice(["coding", "maths"]),
    )  # fmt: skip
    for side in ("a", "b"):
        reply = "a word " * dice.randint(1, 9) + "**bold** " * dice.randint(0, 3)
        store.say(battle.id, Message(role="assistant", content=(reply,)), side=side, weight_version="v")  # type: ignore[arg-type]
    chance = 1 / (1 + 10 ** ((STRENGTH[b] - STRENGTH[a]) / 400))
    drawn = dice.random()
    tie = "tie" if abs(drawn - 0.5) < 0.08 else ""
    store.vote(
        battle.id, winner or tie or ("model_a" if drawn < chance else "model_b"), person=person.id, at=at
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    with Store.open(default_store(folder), train_share=0.0) as store:
        store.add_person("judge")
        for name in STRENGTH:
            store.add_model(name)
        began = time.time() - 100_000
        for number in range(90):
            vote(store, number, began + 1000 * number)
    return folder


def votes_of(workspace: Path) -> Battles:
    with Store.open(default_store(workspace)) as store:
        return Battles.from_rows(store.battles(consent="none"))


def ranked(workspace: Path, file: Path, *words: str) -> str:
    """What `whorl arena rank --json` prints of the store's votes."""
    write_battles(votes_of(workspace), file)
    command = [sys.executable, "-m", "whorl", "arena", "rank", str(file), "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", []), ("?interval=bootstrap", ["--interval", "bootstrap"]),
        ("?category=coding&style=on", ["--category", "coding", "--style", "all"]),
    ],
)  # fmt: skip
def test_a_downloaded_board_is_what_arena_rank_prints(
    studio: StudioProcess, workspace: Path, tmp_path: Path, query: str, words: list[str]
) -> None:
    expected = ranked(workspace, tmp_path / "votes.csv", *words)
    with studio.admin() as admin:
        answer = admin.get(f"/board.json{query}")
        table = admin.get(f"/board.csv{query}")
    assert answer.text == expected
    assert answer.headers["content-disposition"] == 'attachment; filename="whorl-board.json"'
    rows = list(csv.DictReader(io.StringIO(table.text)))
    told = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in json.loads(expected)
    ]
    assert rows == told


def test_the_page_has_the_figures_before_any_script(studio: StudioProcess, workspace: Path) -> None:
    with studio.admin() as admin:
        page = admin.get("/board").text
        board = admin.get("/api/board").json()
        more, rows = admin.get("/api/board/more").json(), admin.get("/board.json").json()
    battles = votes_of(workspace)
    assert "90 votes count" in page and "weak&lt;b&gt;" in page and "weak<b>" not in page
    won = win_matrix(battles)
    for i, first in enumerate(won.models):
        for j, second in enumerate(won.models):
            if i != j:
                share = f"{100 * won.share[i, j]:.0f} % of the points in {won.battles[i, j]} battles"
                assert f"{first} against {second}: {share}".replace("<", "&lt;").replace(">", "&gt;") in page
    times = ratings_over_time(battles, 14)
    for one in more["timeline"]["series"]:
        column = times.rating[:, times.models.index(one["name"])]
        assert one["y"] == [round(float(value), 1) for value in column if value == value]
    for flip in votes_to_flip(battles):
        assert f"{flip.votes} vote" in more["flips"]
    assert board["rows"] == rows


def test_what_does_not_exist_is_refused(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        missing = admin.get("/board?category=cooking", headers={"accept": "text/html"})
        assert missing.status_code == 404 and "There are no votes in category cooking" in missing.text
        for path in ("/board?interval=wide", "/board.xml"):
            assert admin.get(path).status_code == 400, path
    with httpx.Client(base_url=studio.address, trust_env=False) as stranger:
        for path in (
            "/board",
            "/api/board",
            "/api/board/more",
            "/api/board/stream",
            "/board.json",
            "/board.csv",
        ):
            assert stranger.get(path).status_code == 401, path


def test_a_board_without_votes(tmp_path: Path) -> None:
    with studio_process(tmp_path) as studio, studio.admin() as admin:
        page = admin.get("/board")
        assert page.status_code == 200 and "No votes yet" in page.text
        assert admin.get("/board.json").status_code == 404
        assert admin.get("/api/board/more").json()["flips"] == ""


def test_each_figure_is_computed_once_for_a_state_of_the_log(workspace: Path) -> None:
    with Store.open(default_store(workspace)) as store:
        figures = Figures(LiveBoard(store))
        snapshot = figures.snapshot()
        assert figures.board(snapshot, View()) is snapshot.board  # the live board's own
        for view in (View(style=True), View(category="maths")):
            assert figures.board(snapshot, view) is figures.board(snapshot, view)
        assert figures.board(snapshot, View(style=True)).style and not snapshot.board.style  # type: ignore[union-attr]
        # Which votes decide is judged without style: it is asked once for both.
        assert figures.flips(snapshot, View()) is figures.flips(snapshot, View(style=True))


def test_the_page_does_not_wait_for_the_log(workspace: Path) -> None:
    """Before the board's thread has read it: that is never begun here."""
    from fastapi.testclient import TestClient

    from whorl.studio import StudioConfig, app
    from whorl.studio.studio import Studio

    studio = Studio.open(StudioConfig(workspace=str(workspace)))
    try:
        client = TestClient(app(studio), base_url="http://127.0.0.1")  # its lifespan is not entered
        assert client.get(f"/enter?key={studio.sessions.key}&next=/health").status_code == 200
        page = client.get("/board")
        assert page.status_code == 200 and "Reading the votes" in page.text
        assert 'id="none" hidden' in page.text and "votes count" not in page.text
        told = client.get("/api/board").json()  # what the page asks next waits for them
        assert told["counted"] >= 90 and "votes count" in told["pieces"]["table"]
        page = client.get("/board").text
        assert "votes count" in page and 'id="reading" role="status" hidden' in page
    finally:
        studio.store.close()


def test_the_first_board_of_a_studio_that_is_open_is_whole(workspace: Path) -> None:
    from fastapi.testclient import TestClient

    from whorl.studio import StudioConfig, app
    from whorl.studio.studio import Studio

    studio = Studio.open(StudioConfig(workspace=str(workspace)))
    with TestClient(app(studio), base_url="http://127.0.0.1") as client:  # started, as by its server
        client.get(f"/enter?key={studio.sessions.key}&next=/health")
        page = client.get("/board").text
    assert "votes count" in page and 'id="reading" role="status" hidden' in page


# -- in a browser ------------------------------------------------------------------------------------


def eventually(look: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 25
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == wanted


def test_the_board_is_read_by_pointer_and_keys(open_page: Any) -> None:
    page = open_page("/board")
    ratings = page.locator("dot-plot").get_by_role("slider")
    ratings.focus()
    page.keyboard.press("Home")
    assert ratings.get_attribute("aria-valuetext").startswith("1. strong: rating 1,")
    page.keyboard.press("End")
    assert "weak<b>" in page.locator("dot-plot .plot-tip").inner_text()
    timeline = page.locator("line-plot").get_by_role("slider")
    eventually(lambda: page.locator("line-plot").evaluate("one => one.places ?? 0") > 5, True)
    timeline.hover()
    assert "strong" in page.locator("line-plot .plot-tip").inner_text()
    page.get_by_text("points apart").first.wait_for()
    assert serious_faults(page) == []


def test_category_and_style_are_chosen(open_page: Any) -> None:
    page = open_page("/board")
    page.get_by_label("Category").select_option("maths")
    page.wait_for_url("**/board?category=maths")
    page.get_by_label("Style control").check()
    page.wait_for_url("**style=on**")
    page.get_by_text("At equal style.").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "category=maths&style=on" in download.value.url


def test_a_vote_of_another_process_moves_the_page(open_page: Any, workspace: Path) -> None:
    page = open_page("/board")
    page.get_by_text("90 votes count").wait_for()
    page.get_by_label("Ratings", exact=True).focus()
    with Store.open(default_store(workspace)) as store:
        for number in range(500, 510):
            vote(store, number, time.time(), ("weak<b>", "strong"), "model_a")
    page.get_by_text("100 votes count").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Ratings"


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"color_scheme": "dark"}], ids=["phone", "dark"])
def test_the_board_at_other_sizes_and_colours(open_page: Any, options: dict[str, Any]) -> None:
    page = open_page("/board", **options)
    page.get_by_text("points apart").first.wait_for()
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def refuse(page: Any, pattern: str) -> None:
    """What the page asks for there is refused from now on."""
    page.route(pattern, lambda route: route.fulfill(status=404, json={"error": {"message": "It is away."}}))


@pytest.mark.parametrize(
    ("pattern", "place"), [("**/api/board/more*", "#piece-flips"), ("**/api/board", "#reading")]
)
def test_what_cannot_be_counted_says_so_and_is_asked_for_again(
    open_page: Any, workspace: Path, pattern: str, place: str
) -> None:
    page = open_page("/board")
    page.locator(".flips").wait_for()
    refuse(page, pattern)
    if place == "#reading":
        with Store.open(workspace / "arena" / "arena.sqlite") as store:  # a vote: the page asks for the board
            vote(store, 0, time.time())
    else:
        page.reload()
    told = page.locator(place)
    told.get_by_role("alert").get_by_text("It is away.").wait_for()
    assert page.get_by_text("Counting…").count() == 0
    told.get_by_role("button", name="Try again").click()
    told.get_by_role("button", name="Try again", disabled=False).wait_for()
    page.unroute(pattern)
    told.get_by_role("button", name="Try again").click()
    page.locator(".flips").wait_for()
    eventually(lambda: told.get_by_role("alert").is_visible(), False)
