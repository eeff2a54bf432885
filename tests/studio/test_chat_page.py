"""The chat's page in Chromium: as a person uses it, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.models.learnt import DARK, LIGHT
from tests.serve.api.test_nginx import NGINX, nginx
from tests.studio.conftest import PHONE, StudioProcess, eventually, serious_faults, studio_process
from tests.studio.obeying import Obeying, obeying

WIDTH = "one => one.decode().then(() => one.naturalWidth)"
EVIL = '<script>window.ran = 1</script><img src=x onerror="window.ran = 1">[x](javascript:window.ran=1)'


@pytest.fixture(scope="module")
def model() -> Iterator[Obeying]:
    with obeying() as server:
        yield server


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, learnt: Path, model: Obeying) -> Iterator[StudioProcess]:
    folder = tmp_path_factory.mktemp("chat pages")
    shutil.copytree(learnt, folder / "models" / "tiny")
    blind = shutil.copytree(learnt, folder / "models" / "blind")
    (blind / "preprocessor_config.json").unlink()
    with studio_process(folder, "--model", model.address, "--limits.messages", "1000") as process:
        yield process


@pytest.fixture
def chat(open_page: Callable[..., Any], model: Obeying) -> Callable[..., Any]:
    """A new chat's page with the obeying model chosen."""

    def opened(name: str = "", **options: Any) -> Any:
        page = open_page("/chat", **options)
        page.get_by_label("Model", exact=True).select_option(name or model.address.partition("://")[2])
        return page

    return opened


def say(page: Any, text: str) -> None:
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.fill(text)
    box.press("Enter")


def said(page: Any, text: str) -> Any:
    """It, in the talk; screen readers are told it elsewhere, too."""
    return page.locator("#talk").get_by_text(text)


def settle(page: Any, replies: int) -> None:
    """Wait until so many replies are there and none is being made."""
    page.locator(".said.model [data-action=retry]:enabled").nth(replies - 1).wait_for()


def test_a_picture_and_a_tool(chat: Callable[..., Any], tmp_path: Path) -> None:
    for number, image in enumerate((DARK, LIGHT)):
        (tmp_path / f"{number}.png").write_bytes(image.data)
    page = chat("tiny")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("calculator").check()
    page.keyboard.press("Escape")
    say(page, "2+3?")
    page.get_by_role("button", name="Allow once").wait_for()
    assert '{"expression":"2+3"}' in page.locator(".call").inner_text() and serious_faults(page) == []
    page.get_by_role("button", name="Allow once").click()
    said(page, "It is five.").wait_for()
    page.get_by_role("link", name="New chat").click()
    page.get_by_role("heading", name="New chat").wait_for()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("calculator").uncheck()
    assert page.get_by_label("Temperature").input_value() == "0", "what was set last is set for new ones"
    page.keyboard.press("Escape")
    page.locator("message-composer input[type=file]").set_input_files(
        [tmp_path / "1.png", tmp_path / "0.png"]
    )
    page.get_by_role("button", name="Remove 1.png").click()
    say(page, "Shade?")
    page.locator(".said.model", has_text="dark").wait_for()
    assert page.locator(".pictures img").evaluate(WIDTH) == 8


def test_pictures_by_paste_and_drop_and_for_the_blind(chat: Callable[..., Any]) -> None:
    page = chat("blind")
    put = """([kind, base64]) => {
        const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
        const held = new DataTransfer();
        held.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
        const more = kind === "paste" ? { clipboardData: held } : { dataTransfer: held };
        const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
        const area = document.querySelector("message-composer textarea");
        area.dispatchEvent(new Kind(kind, { bubbles: true, ...more }));
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(put, [kind, base64.b64encode(DARK.data).decode()])
        page.get_by_role("button", name=f"Remove {kind}.png").wait_for()
    page.get_by_text("blind does not support images").wait_for()
    page.get_by_role("textbox", name="Message", exact=True).fill("x")
    assert page.get_by_role("button", name="Send").is_disabled() and serious_faults(page) == []
    page.locator("message-composer input[type=file]").set_input_files(
        {"name": "big.png", "mimeType": "image/png", "buffer": b"x" * (5 << 20)}
    )
    page.get_by_text("the limit per image is 4 MB").wait_for()


def test_stop_reload_and_go_on(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, "slow 1500")
    said(page, "word5 ").wait_for()
    page.reload()
    said(page, "word20 ").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(".badge", has_text="stopped").wait_for()
    page.reload()
    page.locator(".badge", has_text="stopped").wait_for()
    assert "word20 " in page.locator(".said.model").inner_text()
    say(page, "echo **after**")
    page.locator(".said.model strong", has_text="after").wait_for()
    settle(page, 2)
    assert page.locator(".said").count() == 4


def test_thinking_is_folded_and_drafts_are_kept(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, "think done")
    settle(page, 1)
    thoughts = page.locator(".thinking em", has_text="see")
    assert not thoughts.is_visible() and page.locator(".answer").inner_text() == "done"
    page.get_by_text("Thinking", exact=True).click()
    thoughts.wait_for()
    page.get_by_role("textbox", name="Message", exact=True).fill("half a thou")
    page.reload()
    assert page.get_by_role("textbox", name="Message", exact=True).input_value() == "half a thou"
    assert page.locator(".thinking").count() == 1 and serious_faults(page) == []


def test_a_call_waits_through_a_reload(chat: Callable[..., Any]) -> None:
    page = chat()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("calculator").check()
    page.keyboard.press("Escape")
    say(page, 'call calculator {"expression": "9*9"}')
    page.get_by_role("button", name="Refuse").wait_for()
    page.reload()
    page.get_by_role("button", name="Allow all in this conversation").click()
    said(page, "It said 81").wait_for()


def test_edits_and_retries_are_branches_that_are_remembered(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, "echo first")
    settle(page, 1)
    page.get_by_role("button", name="Edit", exact=True).click()
    box = page.get_by_role("textbox", name="Edit the message")
    box.fill("echo second")
    box.press("Enter")
    page.locator(".answer", has_text="second").wait_for()
    settle(page, 1)
    page.get_by_role("button", name="Regenerate").click()
    page.locator(".said.model .branch", has_text="2/2").wait_for()
    settle(page, 1)
    page.locator(".said.person").get_by_role("button", name="Previous branch").press("Enter")
    page.locator(".answer", has_text="first").wait_for()
    page.reload()
    page.locator(".answer", has_text="first").wait_for()
    page.locator(".said.person").get_by_role("button", name="Next branch").click()
    page.locator(".answer", has_text="second").wait_for()
    assert page.locator(".branch .at").all_inner_texts() == ["2/2", "2/2"]


def test_searching_naming_and_erasing(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, "echo the quick brown fox")
    settle(page, 1)
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("About foxes")
    page.get_by_label("Title").press("Enter")
    page.get_by_role("heading", name="About foxes").wait_for()
    page.get_by_role("link", name="New chat").click()
    page.get_by_role("heading", name="New chat").wait_for()
    page.get_by_label("Search your chats").fill("BROWN fox")
    page.get_by_role("heading", name="1 conversation").wait_for()
    page.get_by_role("link", name="About foxes").click()
    page.locator(".said.found", has_text="brown fox").wait_for()
    page.get_by_role("button", name="Erase").click()
    page.get_by_text("Earlier backups still contain them").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    page.get_by_role("heading", name="New chat").wait_for()
    assert page.get_by_role("link", name="About foxes").count() == 0


def test_who_types_before_the_page_is_ready_goes_on_where_he_was(chat: Callable[..., Any]) -> None:
    """The page's script comes late and wants the keyboard for the message."""
    page = chat()
    say(page, "echo a slow page")
    settle(page, 1)
    late: list[Any] = []
    page.route("**/static/talk.js", lambda route: late.append(route))
    with page.expect_request("**/static/talk.js"):
        page.goto(page.url.partition("/chat")[0] + "/chat", wait_until="commit")
    page.get_by_label("Search your chats").press_sequentially("slow")
    late.pop().continue_()
    page.get_by_role("heading", name="What would you like to talk about?").wait_for()
    page.keyboard.type(" page")
    page.get_by_role("heading", name="1 conversation").wait_for()
    assert page.get_by_label("Search your chats").input_value() == "slow page"


def test_a_dead_model_is_said_and_the_message_stays(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, "refuse")
    said(page, "not today").wait_for()
    page.get_by_role("button", name="Try again").click()
    said(page, "not today").wait_for()
    page.reload()
    page.get_by_role("button", name="Try again").wait_for()
    say(page, "die")
    said(page, "It stopped early").wait_for()
    assert page.locator(".answer").inner_text() == "one two three"
    assert serious_faults(page) == []


def test_scripts_do_not_run(chat: Callable[..., Any]) -> None:
    page = chat()
    say(page, f"echo {EVIL}")
    settle(page, 1)
    assert EVIL in page.locator(".said.person").inner_text()
    assert "<script>" in page.locator(".said.model").inner_text()
    page.reload()
    settle(page, 1)
    assert page.evaluate("window.ran") is None
    assert page.locator(".said script, .said img, .answer a, .words a").count() == 0


def test_judging_a_reply_and_taking_ones_chats_along(chat: Callable[..., Any], tmp_path: Path) -> None:
    page = chat()
    say(page, "echo plain")
    settle(page, 1)
    page.get_by_role("button", name="Bad reply").click()
    page.get_by_label("Your reason").fill("too plain")
    page.get_by_label("Your reason").press("Enter")
    page.get_by_text("Your reason: too plain").wait_for()
    page.get_by_role("button", name="Write a better reply").click()
    page.get_by_label("The reply as it should have been").fill("A **richer** one")
    page.get_by_role("button", name="Save").click()
    page.locator(".better strong", has_text="richer").wait_for()
    page.get_by_label("What may be done").select_option("train")
    page.get_by_text("may be used to train the next model").wait_for()
    page.reload()
    assert page.get_by_role("button", name="Bad reply").get_attribute("aria-pressed") == "true"
    assert page.get_by_label("What may be done").input_value() == "train" and serious_faults(page) == []
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Export my chats").click()
    waiting.value.save_as(tmp_path / "chats.zip")
    assert "whorl-chats/preferences.jsonl" in zipfile.ZipFile(tmp_path / "chats.zip").namelist()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(chat: Callable[..., Any], scheme: str) -> None:
    page = chat(viewport=PHONE, color_scheme=scheme)
    say(page, "echo ```\n" + "long " * 60 + "\n```")
    settle(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "nothing sticks out"
    assert page.locator(".answer pre").evaluate("one => one.scrollWidth > one.clientWidth")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the code").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("long long")
    assert serious_faults(page) == []
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").wait_for()
    assert serious_faults(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Conversations").click()
    assert serious_faults(page) == []
    page.get_by_role("link", name="New chat").click()
    page.get_by_role("heading", name="New chat").wait_for()
    assert serious_faults(page) == []


def test_a_conversation_with_pictures_opens_at_its_end(chat: Callable[..., Any]) -> None:
    """They load after the text and make the talk longer: the end stays in sight until one scrolls."""
    page, held = chat(viewport=PHONE), io.BytesIO()
    Image.new("RGB", (300, 900), "teal").save(held, "PNG")
    tall = {"name": "a.png", "mimeType": "image/png", "buffer": held.getvalue()}
    for number in (1, 2):
        page.locator("#composer input[type=file]").set_input_files([tall] * 3)
        page.get_by_role("button", name="Remove a.png").nth(2).wait_for()
        say(page, f"echo {number}")
        settle(page, number)
    page.reload()
    settle(page, 2)
    width = "[...document.querySelectorAll('.pictures img')].at({}).naturalWidth"
    eventually(lambda: page.evaluate(width.format(-1)), 300)
    away = "[scroller].map((one) => one.scrollHeight - one.scrollTop - one.clientHeight)[0]"
    eventually(lambda: page.evaluate(f"{away} < 2"), True)
    page.evaluate("scroller.scrollTo(0, 100)")
    eventually(lambda: page.evaluate(width.format(0)), 300)
    assert page.evaluate(away) > 90, "who reads above stays there"


def test_by_keyboard_alone(chat: Callable[..., Any]) -> None:
    page = chat(color_scheme="dark")
    page.get_by_label("Model", exact=True).press("Shift+Tab")  # from the picker back to the message
    page.keyboard.type("echo a line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    settle(page, 1)
    assert page.locator(".words").inner_text() == "echo a line\nand another"
    page.keyboard.press("ArrowUp")  # the last message again
    page.keyboard.press("Escape")
    for _ in range(30):
        if page.evaluate("document.activeElement.dataset.action") == "up":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Your reason").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Good reply").get_attribute("aria-pressed") == "true"
    page.get_by_role("textbox", name="Message", exact=True).focus()
    page.keyboard.type("slow 1500")
    page.keyboard.press("Enter")
    said(page, "word5 ").wait_for()
    page.keyboard.press("Escape")
    page.locator(".badge", has_text="stopped").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"


def test_a_page_outlives_its_studio(browser: Any, model: Obeying, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ("--model", model.address, "--port", port)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(30_000)
    with studio_process(tmp_path, *words) as studio:
        page.goto(f"{studio.entrance}&next=/chat")
        say(page, "echo kept")
        settle(page, 1)
        say(page, "slow 1500")
        said(page, "word5 ").wait_for()
        studio.process.kill()
        studio.process.wait()
    page.get_by_role("textbox", name="Message", exact=True).fill("echo a draft")
    with studio_process(tmp_path, *words):
        page.get_by_text("This has no reply yet.").wait_for()
        page.get_by_role("button", name="Send").click()
        said(page, "a draft").nth(1).wait_for()
        assert page.locator(".answer").all_inner_texts()[0] == "kept"
    context.close()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_behind_a_proxys_path(browser: Any, model: Obeying, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    words = ("--root-path", "/llm", "--trusted-proxy", "127.0.0.1", "--model", model.address)
    with studio_process(tmp_path, *words) as studio:
        upstream = studio.address.removeprefix("http://").partition("/")[0]
        with nginx(upstream, tmp_path) as address:
            key = studio.entrance.partition("key=")[2]
            page.goto(f"{address}/llm/enter?key={key}")
            page.locator("message-composer input[type=file]").set_input_files(
                {"name": "dark.png", "mimeType": "image/png", "buffer": DARK.data}
            )
            page.get_by_role("button", name="Remove dark.png").wait_for()
            say(page, "slow 1500")
            said(page, "word5 ").wait_for()
            assert page.url.startswith(f"{address}/llm/chat/")
            page.reload()
            page.get_by_role("button", name="Stop").click()
            page.locator(".badge", has_text="stopped").wait_for()
            assert page.locator(".pictures img").evaluate(WIDTH) == 8
    context.close()
