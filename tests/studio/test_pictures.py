"""The script of the README's pictures, over a model that knows what it is asked."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.models.learnt import DARK
from whorl.base.logbook import Logbook

SCRIPT = Path(__file__).parents[2] / "docs" / "pictures.py"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("playwright")
    spec = importlib.util.spec_from_file_location("pictures", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pictures", made)
    spec.loader.exec_module(made)
    if not any(map(shutil.which, made.BROWSERS)):
        pytest.skip("chromium is not installed; apt-get install chromium")
    return made


@pytest.mark.soak  # half a minute; each page has tests of its own
def test_the_readmes_pictures(tmp_path: Path, learnt: Path, pictures: Any) -> None:
    for name in ("one", "other"):
        shutil.copytree(learnt, tmp_path / "ws" / "models" / name)
    run = tmp_path / "ws" / "runs" / "short"
    with Logbook(run) as logbook:
        for step in range(20):
            logbook.metric(step, loss=2.0 / (step + 1))
    asked = pictures.Asked(
        model="one", digit=DARK.data, about_it="Shade?", sum="2+3?", battle="Shade?", offered=True
    )
    made = list(pictures.picture(tmp_path / "ws", run, asked, tmp_path))
    assert [path.name for path in made] == [
        "report.png", "report-dark.png", "studio-chat.png", "studio-arena.png", "studio-board.png",
        "studio-run.png",
    ]  # fmt: skip
    for path in made:
        with Image.open(path) as image:
            assert image.width == 1240 and len(image.convert("L").getcolors(256) or ()) > 20, path
