"""The leaderboard of thirty models after sixty days, some with long names: what is drawn, what folded."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.studio.conftest import PHONE, serious_faults
from whorl.arena.store import Said, Store
from whorl.arena.store.store import default_store
from whorl.base.nouns import Message

MODELS, VOTES, DAYS = 30, 180, 60
NAMES = [
    f"model-{number:02d}{'-of-a-family-with-long-names' * (number % 4 == 0)}" for number in range(MODELS)
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many models")
    dice, began = random.Random(1), time.time() - DAYS * 86400
    with Store.open(default_store(folder), train_share=0.0) as store:
        judge = store.add_person("judge").id
        for name in NAMES:
            store.add_model(name)
        for number in range(VOTES):
            a, b = number % MODELS, (number % MODELS + dice.randint(1, 4)) % MODELS
            said = Said(message=Message(role="assistant", content=("So.",)), weight_version="v")
            store.add_battle(
                judge, [Message(role="user", content=(f"What is {number}?",))], model_a=NAMES[a],
                model_b=NAMES[b], probability=0.1, consent="rate", a=[said], b=[said],
                winner=dice.choice(["model_a", "model_b", "tie"]), at=began + DAYS * 86400 * number / VOTES,
            )  # fmt: skip
    return folder


def board(open_page: Any, **options: Any) -> Any:
    page = open_page("/board", **options)
    page.locator("line-plot .plot-line").nth(5).wait_for(state="attached")
    return page


def test_sixty_days_have_ticks_and_many_curves_are_folded(open_page: Any) -> None:
    page = board(open_page)
    ticks = page.locator("line-plot .plot-tick[text-anchor=middle]").all_text_contents()
    assert 3 <= len(ticks) <= 8, ticks
    key = page.locator("line-plot .plot-key")
    fold = key.get_by_role("button", name="24 more")
    assert key.get_by_role("button").count() == 7 and fold.get_attribute("aria-expanded") == "false"
    fold.click()
    assert key.get_by_role("button").count() == MODELS + 1
    while key.locator("button[aria-pressed=false]").count():
        key.locator("button[aria-pressed=false]").first.click()
    page.locator("line-plot .plot-line").nth(MODELS - 1).wait_for(state="attached")
    stage = page.locator("line-plot").get_by_role("slider")
    stage.scroll_into_view_if_needed()
    stage.hover()
    tip = page.locator("line-plot .plot-tip")
    assert tip.locator("p.curve").count() == 8 and "22 more" in tip.inner_text()
    box, room = tip.bounding_box(), page.viewport_size
    assert box["y"] >= 0 and box["y"] + box["height"] <= room["height"]
    # Other curves are near elsewhere in the picture.
    near = tip.inner_text()
    frame = stage.bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 4)
    assert tip.inner_text() != near
    stage.focus()
    page.keyboard.press("End")
    assert stage.get_attribute("aria-valuetext").endswith("22 more ")
    assert page.get_by_text("Intervals are drawn when at most three curves are shown.").is_visible()
    assert serious_faults(page) == []


def heading_levels(page: Any) -> list[int]:
    headings = "[...document.querySelectorAll('main :is(h1, h2, h3, h4)')]"
    return page.evaluate(f"{headings}.map((one) => Number(one.tagName[1]))")


def test_no_heading_skips_a_level(open_page: Any) -> None:
    levels = heading_levels(board(open_page))
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels


def test_a_phone_shows_names_and_intervals(open_page: Any) -> None:
    page = board(open_page, viewport=PHONE)
    plot = page.locator("dot-plot")
    names = plot.locator("text.plot-name").all_text_contents()
    assert max(len(name) for name in names) > 25
    length = "(one) => Math.abs(one.x2.baseVal.value - one.x1.baseVal.value)"
    widths = plot.locator("line.plot-whisker").evaluate_all(f"all => all.map({length})")
    dot = 2 * float(plot.locator("circle").first.get_attribute("r"))
    assert sorted(widths)[len(widths) // 2] > dot  # half an interval is longer than the dot on it
    for cut in page.locator(".matrix th").all():
        assert cut.get_attribute("title") in NAMES
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious_faults(page) == []
