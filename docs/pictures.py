"""The README's pictures, made from a real workspace: `python docs/pictures.py WORKSPACE` writes docs/*.png.

WORKSPACE is one that `whorl quickstart` has finished in. Its report and the studio's pages are opened in
Chromium (or Chrome): someone sends the assistant a digit and a sum, judges a battle, looks at the board and
at the run. The tests go the same way over a tiny model.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.base.report import write_report
from whorl.evals.serving import staying
from whorl.tasks import Digits

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE = {"width": 1240, "height": 820}
STUDIO = r"open (http://\S+)$"
BATTLES, SHORT = 8, 500  # tries; characters of an answer
PATIENCE = 120_000  # milliseconds for a model to be started and to answer


@dataclass(frozen=True)
class Asked:
    """What is asked. `offered`: the model is told of the calculator, where it does not know it by itself."""

    model: str
    digit: bytes  # a PNG
    about_it: str
    sum: str
    battle: str
    offered: bool = False


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures.py WORKSPACE")
    workspace = Path(sys.argv[1])
    example = next(iter(Digits().examples("test")))
    asked = Asked(
        model="quickstart-chat", digit=example.conversation.images[0].data,
        about_it="Which number is in the picture?", sum="The difference of 399 and 25 = ?",
        battle="Explain `pathlib.Path.glob` in one sentence.",
    )  # fmt: skip
    for path in picture(workspace, workspace / "runs" / "quickstart", asked, DOCS):
        print(path)


def picture(workspace: Path, run: Path, asked: Asked, out: Path) -> Iterator[Path]:
    """Each picture's path when it is there."""
    with browser() as chromium:
        with tempfile.TemporaryDirectory() as folder:
            page = chromium.new_page(viewport={"width": 1240, "height": 1180})
            for name, scheme in (("report.png", "light"), ("report-dark.png", "dark")):
                page.emulate_media(color_scheme=scheme)
                page.goto(write_report(run, Path(folder) / "report.html").as_uri())
                page.screenshot(path=out / name)
                yield out / name
        with staying("studio", "--workspace", str(workspace), "--port", "0", address=STUDIO) as entrance:
            page = chromium.new_page(viewport=SIZE)
            page.set_default_timeout(PATIENCE)
            page.goto(entrance)
            way = f"runs/{run.relative_to(workspace / 'runs')}"
            for name, take in (("chat", chat), ("arena", arena), ("board", board), ("run", look)):
                page.goto(f"{entrance.partition('/enter?')[0]}/{way if name == 'run' else name}")
                take(page, asked)
                page.screenshot(path=out / f"studio-{name}.png")
                yield out / f"studio-{name}.png"


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if path is None:
        sys.exit("no Chromium or Chrome on the path; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def chat(page: Any, asked: Asked) -> None:
    """A digit; then, in another chat, a sum through the calculator, which is asked about before it acts."""
    page.get_by_label("Model", exact=True).select_option(asked.model)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    if asked.offered:
        page.get_by_label("calculator").check()
    page.keyboard.press("Escape")
    page.locator("message-composer input[type=file]").set_input_files(
        {"name": "digit.png", "mimeType": "image/png", "buffer": asked.digit}
    )
    _send(page, "Message", asked.about_it)
    _replies(page, 1)
    page.get_by_role("link", name="New chat").click()
    page.get_by_role("heading", name="New chat").wait_for()
    _send(page, "Message", asked.sum)
    page.get_by_role("button", name="Allow once").click()
    _replies(page, 2)


def arena(page: Any, asked: Asked) -> None:
    """A battle whose answers fit into a picture, its vote, and how the board moved."""
    for _ in range(BATTLES):
        _send(page, "Message to both", asked.battle)
        page.locator("#votes button:not([disabled])").first.wait_for()
        if max(map(len, page.locator(".answer").all_inner_texts())) < SHORT:
            break
        page.goto(f"{page.url.partition('/arena')[0]}/arena")
    looked_up = {side: page.locator(f"[data-side={side}] pre").count() for side in ("left", "right")}
    vote = "tie" if len({*looked_up.values()}) == 1 else max(looked_up, key=lambda side: looked_up[side])
    page.locator(f"#votes [data-vote={vote}]").click()  # who looks it up is the better one
    page.locator("#outcome-title").wait_for()
    page.locator(".move .now, .notice").first.wait_for()


def board(page: Any, _: Asked) -> None:
    page.get_by_role("heading", name="Leaderboard").wait_for()
    page.locator("dot-plot svg, .empty").first.wait_for()


def look(page: Any, _: Asked) -> None:
    page.locator("line-plot svg, .empty").first.wait_for()


def _send(page: Any, label: str, text: str) -> None:
    box = page.get_by_role("textbox", name=label, exact=True)
    box.fill(text)
    box.press("Enter")


def _replies(page: Any, count: int) -> None:
    """So many replies are there, and none is being made."""
    page.locator(".said.model [data-action=retry]:enabled").nth(count - 1).wait_for()


if __name__ == "__main__":
    main()
