"""Behind a real nginx that speaks HTTPS outside and shows the studio under a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.api.test_nginx import NGINX, nginx
from tests.studio.conftest import StudioProcess, studio_process

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
