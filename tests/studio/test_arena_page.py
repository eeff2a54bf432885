"""The arena's page in Chromium: a battle, the vote and what comes after, by mouse, keyboard and thumb."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import pytest

from tests.studio.conftest import PHONE, StudioProcess, eventually, serious_faults
from tests.studio.stub_server import StubModel, stub_model
from tests.studio.test_battles import arena
from whorl.arena.store import Store

RUN = "document.title='run'"
SCRIPT = f'<img src=x onerror="{RUN}"><script>{RUN}</script> [x](javascript:alert(1))'
MODELS: list[StubModel] = []
# No two are similar: one judged alike twice would end the quest for a second look.
QUESTIONS = cycle(
    [
        "What is a whorl?", "Who invented the spindle?", "Why does flax need retting?",
        "Name three breeds of sheep.", "How heavy may yarn be?", "When was cotton first grown?",
        "Where do silkworms live?", "Which dyes fade?", "Explain carding to a child.",
        "Do looms wear out?", "Describe felt.", "Sum up the history of linen in one line.",
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    """In place of the shared one: two models whose replies this file decides."""
    blank = tmp_path_factory.mktemp("blank") / "arena"
    blank.mkdir()
    Store.open(blank / "arena.sqlite", train_share=0.0).close()
    with ExitStack() as stack:
        MODELS[:] = [
            stack.enter_context(stub_model(name, answer=f"A **{word}**.", weight_version=weights))
            for name, word, weights in (("amber-1", "weight", "aa11"), ("birch-2", "disc", "bb22"))
        ]
        yield stack.enter_context(arena(tmp_path_factory.mktemp("arena"), blank, *MODELS))


@pytest.fixture(autouse=True)
def well() -> Iterator[None]:
    yield
    for model, word in zip(MODELS, ("weight", "disc"), strict=True):
        model.mode, model.answer = "well", f"A **{word}**."


def ask(page: Any, text: str = "") -> None:
    page.get_by_label("Message to both").fill(text or next(QUESTIONS))
    page.keyboard.press("Enter")


def ready(page: Any) -> None:
    page.locator("#votes button:not([disabled])").first.wait_for()


def to_the_vote(page: Any) -> None:
    """By Tab, as a person at the keyboard gets there."""
    while not page.evaluate("document.querySelector('#votes').contains(document.activeElement)"):
        page.keyboard.press("Shift+Tab")


def test_a_battle_and_its_vote(open_page: Any) -> None:
    page = open_page("/arena")
    assert serious_faults(page) == []
    page.get_by_text("Cast the day's first vote").wait_for()
    ask(page)
    ready(page)
    assert "amber" not in page.content() and "birch" not in page.content()
    ask(page, "And what else?")
    page.locator(".exchange").nth(1).locator(".answer strong").nth(1).wait_for()
    ready(page)
    assert serious_faults(page) == []
    page.get_by_role("button", name="Left is better").click()
    page.get_by_text("You preferred the left model.").wait_for()
    page.get_by_text("Your vote counts on the board.").wait_for()
    assert sorted(page.locator(".exchange").first.locator(".named").all_text_contents()) == [
        "amber-1",
        "birch-2",
    ]
    page.locator(".move .now").nth(1).wait_for()  # the board has moved
    ratings = [int(text) for text in page.locator(".move .now").all_text_contents()]
    assert ratings[0] > ratings[1]
    page.get_by_text("today's quest: cast the day's first vote").wait_for()
    assert serious_faults(page) == []
    page.reload()
    page.locator(".move .now").first.wait_for()
    page.get_by_role("button", name="New battle").click()
    page.get_by_text("What may be done with this conversation").wait_for()
    page.locator("#quests li.whole", has_text="Cast the day's first vote").wait_for()
    page.goto(page.url + "/me")
    page.get_by_role("heading", name="Latest battles").wait_for()
    assert serious_faults(page) == []


def test_by_keyboard_alone(open_page: Any) -> None:
    page = open_page("/arena", color_scheme="dark")
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.name") != "consent":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")  # count and train
    while page.evaluate("document.activeElement.tagName") != "TEXTAREA":
        page.keyboard.press("Tab")
    page.keyboard.type("3 is a digit, and here it is no vote")
    page.keyboard.press("Enter")
    ready(page)
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    to_the_vote(page)
    page.keyboard.press("3")
    page.get_by_text("You called it a tie.").wait_for()
    assert page.evaluate("document.activeElement.id") == "outcome"
    page.locator(".move .now").first.wait_for()
    assert serious_faults(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # a new battle; what was chosen is remembered
    assert page.locator("input[value=train]").is_checked()
    ask(page)
    ready(page)
    to_the_vote(page)
    page.keyboard.press("ArrowRight")
    page.get_by_text("You preferred the right model.").wait_for()


def test_writing_more_is_no_vote(open_page: Any) -> None:
    """Whoever has sent a message and writes on, with whatever keys, votes for nothing."""
    page = open_page("/arena")
    ask(page)
    ready(page)
    page.keyboard.type("2 more examples please, 1 or 3 or 4")
    page.keyboard.press("ArrowLeft")
    page.evaluate("document.activeElement.blur()")
    for key in ("1", "2", "3", "4", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    assert page.get_by_label("Message to both").input_value() == "2 more examples please, 1 or 3 or 4"
    page.get_by_label("Message to both").press("Enter")
    page.locator(".exchange").nth(1).locator(".answer strong").nth(1).wait_for()
    ready(page)
    assert page.locator("#outcome").is_hidden()


def test_a_second_look_from_ones_own_page(open_page: Any) -> None:
    page = open_page("/arena")
    for _ in range(4):
        ask(page)
        ready(page)
        page.get_by_role("button", name="Both bad").click()
        page.get_by_role("button", name="New battle").click()
        page.get_by_text("What may be done with this conversation").wait_for()
    page.goto(f"{page.url.partition('/arena')[0]}/arena/me")
    page.get_by_role("button", name="Take a second look").click()
    ready(page)
    assert set(page.locator(".answer strong").all_text_contents()) == {"weight", "disc"}
    assert page.get_by_label("Message to both").is_hidden()
    page.get_by_role("button", name="Both bad").click()
    page.get_by_text("repeat votes do not affect the board").wait_for()


def test_on_a_phone(open_page: Any) -> None:
    page = open_page("/arena", viewport=PHONE, has_touch=True, is_mobile=True)
    assert serious_faults(page) == []
    ask(page, "What? " * 200)
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("scrollTo(0, 0)")
    bar = page.locator("#votes").bounding_box()
    assert bar["y"] + bar["height"] <= PHONE["height"]  # stays in sight, however long the talk is
    sides = page.locator(".sides").first
    sides.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
    assert serious_faults(page) == []
    page.get_by_role("button", name="Both bad").tap()
    page.get_by_text("You found both bad.").wait_for()
    page.locator(".move .now").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious_faults(page) == []


def test_a_side_that_fails_is_said_and_another_pair_is_a_click(open_page: Any) -> None:
    for model in MODELS:
        model.mode = "breaks"
    page = open_page("/arena")
    ask(page, "Will it hold?")
    button = page.get_by_role("button", name="Start again with another pair")
    button.wait_for()
    assert page.get_by_role("alert").first.text_content().endswith(("model failed.", "models failed."))
    assert page.locator("#votes").is_hidden() and "amber" not in page.content()
    assert serious_faults(page) == []
    for model in MODELS:
        model.mode = "well"
    button.click()
    ready(page)
    assert page.locator(".words").text_content() == "Will it hold?"


def test_a_reload_in_mid_answer_goes_on_and_stop_stops(open_page: Any) -> None:
    for model in MODELS:
        model.mode = "slow"
    page = open_page("/arena")
    ask(page)
    page.get_by_text("word word").nth(1).wait_for()
    assert page.locator("#votes button").first.is_disabled()
    page.reload()
    page.get_by_text("word word word").nth(1).wait_for()
    page.get_by_role("button", name="Stop").click()
    ready(page)
    assert page.locator(".cut", has_text="stopped").count() == 2
    page.get_by_text("your vote is stored but does not count").wait_for()
    assert serious_faults(page) == []
    page.reload()
    page.get_by_text("your vote is stored but does not count").wait_for()
    page.get_by_role("button", name="Tie").click()
    page.get_by_text("You called it a tie.").wait_for()
    page.get_by_text("was stopped early").wait_for()


def test_scripts_do_not_run(open_page: Any) -> None:
    for model in MODELS:
        model.answer = SCRIPT.replace("img src", "img  src")
    page = open_page("/arena")
    ask(page, SCRIPT)
    ready(page)
    page.reload()
    ready(page)
    page.get_by_role("button", name="Both bad").press("4")
    page.locator(".move .now").first.wait_for()
    assert page.title() == "Battle · Whorl" and page.locator("#talk img, #talk script").count() == 0
    assert page.locator(".words").text_content() == SCRIPT


HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_nobody_sees_gives_its_connection_back(open_page: Any) -> None:
    """Seven tabs and more: a browser has six connections to a place. What came meanwhile is shown later."""
    for model in MODELS:
        model.mode = "slow"
    page = open_page("/arena")
    ask(page)
    page.get_by_text("word word").nth(1).wait_for()
    with page.expect_event("requestfailed", lambda one: "/stream" in one.url):
        page.evaluate(HIDE, True)
    page.evaluate("fetch(location.origin + '/api' + location.pathname + '/stop', { method: 'POST' })")
    state = "async () => (await (await fetch('/api' + location.pathname)).json()).state"
    eventually(lambda: page.evaluate(state), "open")
    assert page.locator("#votes button").first.is_disabled(), "it has not heard of it"
    page.evaluate(HIDE, False)
    ready(page)


def test_an_image_dropped_anywhere(open_page: Any) -> None:
    from tests.models.learnt import DARK

    page = open_page("/arena")
    page.evaluate(
        """base64 => {
            const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
            const held = new DataTransfer();
            held.items.add(new File([bytes], "a.png", { type: "image/png" }));
            const over = new DragEvent("dragover", { bubbles: true, cancelable: true, dataTransfer: held });
            document.querySelector(".head h1").dispatchEvent(over);
            if (!over.defaultPrevented) throw new Error("the browser would open the picture");
            document.querySelector(".head h1").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: held }));
        }""",
        base64.b64encode(DARK.data).decode(),
    )
    page.get_by_role("button", name="Remove a.png").wait_for()
    assert page.locator(".over").count() == 0


def test_an_image_by_paste(open_page: Any) -> None:
    from tests.models.learnt import DARK

    page = open_page("/arena")
    page.locator("input[type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": DARK.data}
    )
    page.get_by_role("button", name="Remove a.png").wait_for()
    ask(page, "Shade?")
    ready(page)
    assert page.locator(".pictures img").count() == 1
    sent = MODELS[0].asked[-1]["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["image_url", "text"]
