"""A real `whorl studio` process over a workspace with small models, and the system's Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.models.learnt import save_learnt

VIEWPORT = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 780}


class StudioProcess:
    """A running studio: `entrance` signs the admin in, `address` is its root."""

    def __init__(self, process: subprocess.Popen[str], patience: float = 90.0) -> None:
        self.process, self.said, self.entrance = process, [], ""
        self._known = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        self._known.wait(patience)
        assert self.entrance, "".join(self.said)
        self.address = self.entrance.partition("/enter?")[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"open (http://\S+)", line):
                self.entrance = found[1]
                self._known.set()
        self._known.set()

    @contextmanager
    def admin(self) -> Iterator[httpx.Client]:
        """A client that the entrance has signed in."""
        with self._client() as client:
            assert client.get(self.entrance).status_code == 200
            yield client

    @contextmanager
    def voter(self, name: str) -> Iterator[httpx.Client]:
        """A new person's client, signed in by name and token."""
        with self.admin() as admin:
            token = admin.post("/api/people", json={"name": name}).json()["token"]
        with self._client() as client:
            assert client.post("/sign-in", data={"name": name, "token": token}).status_code == 200
            yield client

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, follow_redirects=True, trust_env=False)


@contextmanager
def studio_process(
    workspace: Path, *words: str, whorl: tuple[str, ...] = ("-m", "whorl")
) -> Iterator[StudioProcess]:
    """`whorl` is what Python runs. The studio ends with the pipe that it reads, also where pytest
    is killed."""
    command = [
        sys.executable, *whorl, "studio", "--workspace", str(workspace), "--port", "0",
        "--end_with_stdin=true", *words,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield StudioProcess(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows a few conversations by heart: see tests/models/learnt.py."""
    return save_learnt(tmp_path_factory.mktemp("learnt") / "tiny")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, learnt: Path) -> Path:
    """A workspace with two models, `tiny` and `other`."""
    folder = tmp_path_factory.mktemp("workspace with a space")
    for name in ("tiny", "other"):
        shutil.copytree(learnt, folder / "models" / name)
    return folder


@pytest.fixture(scope="module")
def studio(workspace: Path) -> Iterator[StudioProcess]:
    with studio_process(workspace) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium through Playwright; skipped by name where there is none. A file's own, since
    Playwright keeps an event loop running, and no other test of the process could begin one."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, studio: StudioProcess) -> Iterator[Callable[..., Any]]:
    """`open_page("/models")`: a page of the studio, signed in as admin. Options go to the browser's
    context: viewport=PHONE, color_scheme="dark". Whatever a page writes as an error fails the test."""
    contexts, complaints = [], []

    def opened(way: str, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": VIEWPORT} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
        page.goto(f"{studio.entrance}&next={way}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, complaints


def _is_complaint(said: Any) -> bool:
    """Chromium writes every 4xx there too: a refusal that a test asked for is no fault."""
    return said.type == "error" and "the server responded with a status of 4" not in said.text


def serious_faults(page: Any) -> list[str]:
    """What axe-core finds that is serious or critical, in a line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def eventually(look: Callable[[], Any], wanted: Any) -> None:
    """Not page.wait_for_function: it would evaluate text in the page, which the studio's policy forbids."""
    deadline = time.monotonic() + 20
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == wanted
