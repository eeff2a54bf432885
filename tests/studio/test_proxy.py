"""Behind a real nginx that speaks HTTPS outside and shows the studio under a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.api.test_nginx import NGINX, free_port, nginx
from tests.studio.conftest import StudioProcess, studio_process
from tests.studio.stub_server import stub_model

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def behind(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudioProcess, str]]:
    """The studio, and the address under which nginx shows it: at /llm, without its prefix."""
    with studio_process(workspace, "--root-path", "/llm", "--trusted-proxy", "127.0.0.1") as studio:
        upstream = studio.address.removeprefix("http://").partition("/")[0]
        with nginx(upstream, tmp_path_factory.mktemp("nginx")) as address:
            yield studio, address


def key_of(studio: StudioProcess) -> str:
    return studio.entrance.partition("key=")[2]


def test_cookies_are_secure_and_stay_under_the_path(behind: tuple[StudioProcess, str]) -> None:
    studio, address = behind
    entered = httpx.get(f"{address}/llm/enter", params={"key": key_of(studio)}, trust_env=False)
    assert entered.status_code == 303 and entered.headers["location"] == "/llm/"
    cookie = entered.headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie and "Path=/llm" in cookie
    direct = httpx.get(studio.entrance, trust_env=False)
    assert "Secure" not in direct.headers["set-cookie"], "over plain HTTP the browser would drop it"


def test_a_page_and_what_it_asks_for(behind: tuple[StudioProcess, str]) -> None:
    studio, address = behind
    entered = httpx.get(f"{address}/llm/enter", params={"key": key_of(studio)}, trust_env=False)
    cookie = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
    with httpx.Client(base_url=address, headers=cookie, trust_env=False) as http:
        page = http.get("/llm/models")
        assert page.status_code == 200 and 'data-root="/llm"' in page.text
        assert 'href="/llm/models" aria-current="page"' in page.text
        assert http.get("/llm/static/studio.js").status_code == 200
        made = http.post("/llm/api/people", json={"name": "zoe"}, headers={"origin": address})
        assert made.status_code == 200
        stranger = httpx.get(f"{address}/llm/models", headers={"accept": "text/html"}, trust_env=False)
        assert stranger.headers["location"] == "/llm/sign-in?next=/models"


def test_pages_come_back_by_themselves_when_the_studio_is_started_anew(tmp_path: Path, browser: Any) -> None:
    """Meanwhile nginx answers 502 in its place. What was kept is shown, and the page is of use again."""
    with ExitStack() as stack:
        models = [stack.enter_context(stub_model(name, mode="slow")) for name in ("amber-1", "birch-2")]
        port, words = free_port(), ("--root-path", "/llm", "--trusted-proxy", "127.0.0.1")
        words = (*words, *(word for one in models for word in ("--model", one.address)))
        address = stack.enter_context(nginx(f"127.0.0.1:{port}", tmp_path))
        context = browser.new_context()
        stack.callback(context.close)
        pages = [context.new_page(), context.new_page()]
        with studio_process(tmp_path, *words, "--port", str(port)) as studio:
            for page, way, box in zip(pages, ("chat", "arena"), ("Message", "Message to both"), strict=True):
                page.goto(f"{address}/llm/enter?key={key_of(studio)}&next=/{way}")
                page.get_by_role("textbox", name=box, exact=True).fill("Go on")
                page.keyboard.press("Enter")
                page.get_by_text("word word").first.wait_for()
            studio.process.kill()
            studio.process.wait()
        for page in pages:
            page.wait_for_event("response", lambda answer: answer.status == 502)
        with studio_process(tmp_path, *words, "--port", str(port)):
            pages[0].get_by_text("This has no reply yet.").wait_for()
            pages[1].get_by_text("The studio stopped during this battle.").wait_for()
            for model in models:
                model.mode = "well"
            pages[0].get_by_role("button", name="Try again").click()
            pages[0].locator("#talk").get_by_text("Certainly.").wait_for()
            pages[1].get_by_role("button", name="Start again with another pair").click()
            pages[1].locator("#votes button:not([disabled])").first.wait_for()


def test_a_browser_signs_in_there(behind: tuple[StudioProcess, str], browser: Any) -> None:
    """Chromium takes Secure cookies from this machine's own addresses over HTTP too."""
    studio, address = behind
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}/llm/enter?key={key_of(studio)}&next=/models")
    page.get_by_role("heading", name="Models").wait_for()
    page.get_by_text("not started").first.wait_for()
    assert page.url == f"{address}/llm/models"
    context.close()
