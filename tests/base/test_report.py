"""The report: one file, well formed, offline, escaped, true to the numbers."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.config import Config
from whorl.base.logbook import Logbook
from whorl.base.plot import MOST_POINTS, Chart, Series, round_ticks, running_mean, thin
from whorl.base.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.urls: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<line/>` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


class Recipe(Config):
    steps: int = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Logbook(tmp_path / "a <run>") as logbook:
        logbook.config(Recipe())
        for step in range(1, 3000):
            logbook.metric(
                step, loss=9 / step, lr=1e-3, **({"validation_loss": 9.5 / step} if step % 100 == 0 else {})
            )
        logbook.metric(3000, loss=math.nan, some_other=4.0)
        logbook.resume(2000)
        logbook.metric(2001, loss=0.125)
        logbook.event("sample", step=2001, prompt="</script><script>alert(1)</script>", reply="<b>")
        logbook.event("result", name="digits", value=97.5, unit="%", error=0.8, cases=360, floor=96.0)
        logbook.event("result", name="bits", value=2.5, floor=2.0, lower_is_better=True)
        logbook.event(
            "result", name="not below", value=-3.9e-14, unit="points", error=83.4, cases=379, floor=-312.475
        )
        logbook.event("result", name="lost", value=1, unit="votes", floor=1, lower_is_better=True)
        logbook.event("stage", name="train", seconds=9.0, budget=10.0)
        logbook.event("finish", step=2001)
    return tmp_path / "a <run>"


def test_the_page_is_whole_offline_and_escaped(run: Path) -> None:
    path = write_report(run)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert path == run / "report.html"
    assert page.urls == []
    assert not re.search(r"url\(|@import|https?://", source)
    assert "<script>alert" not in source
    text = " ".join("".join(page.text).split())
    for words in (
        "a <run>",
        "alert(1)",
        "97.5 % ± 0.8 (n = 360)",
        "≥ 96 %",
        "0 points ± 83 (n = 379)",
        "≥ -312 points",
        "< 1 votes",
        "missed",
        "9.0 s of 10 s",
        "steps = 3",
    ):
        assert words in text
    assert len(source) < 500_000


def test_the_page_shows_live_values_and_can_name_them(run: Path) -> None:
    source = write_report(run).read_text(encoding="utf-8")
    [points] = re.findall(r'id="points">(.*?)</script>', source, re.S)
    loss, val_loss = json.loads(points)[0]["series"]
    assert (loss["steps"][-1], loss["values"][-1]) == (2001, 0.125)
    assert val_loss["steps"] == list(range(100, 2001, 100))  # what the resume superseded is gone
    assert "some other" not in source


def test_the_runs_inside_a_run_are_on_its_page(tmp_path: Path) -> None:
    """As the quickstart has them: stages and results outside, a training in each folder inside."""
    with Logbook(tmp_path) as logbook:
        logbook.event("stage", name="chat", seconds=1.0)
        for name in ("pretrain", "chat"):
            with Logbook(tmp_path / name) as inner:
                inner.metric(1, loss=2.0 if name == "chat" else 3.0)
                inner.event("sample", step=1, prompt="to " + name, reply="yes")
    source = write_report(tmp_path).read_text()
    text = " ".join("".join(Page(source).text).split())
    for words in ("pretrain, by step", "chat, by step", "to pretrain", "to chat"):
        assert words in text
    assert text.index("pretrain, by step") < text.index("chat, by step")
    [points] = re.findall(r'id="points">(.*?)</script>', source, re.S)
    assert [chart["series"][0]["values"] for chart in json.loads(points)] == [[3.0], [2.0]]
    assert source.count("<svg") == 2


def test_an_empty_run_has_a_page_too(tmp_path: Path) -> None:
    with Logbook(tmp_path / "run") as logbook:
        logbook.event("note", text="nothing yet")
    Page(write_report(tmp_path / "run").read_text())


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(values=st.lists(numbers, max_size=60))
def test_any_series_makes_a_well_formed_plot_inside_its_frame(values: list[float]) -> None:
    chart = Chart("a & b", [Series("x<y", range(len(values)), values, smooth=True)], marks=[1])
    svg = ElementTree.fromstring(chart.svg())
    json.dumps(chart.points(), allow_nan=False)
    for path in svg.iter("path"):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.attrib["d"]):
            assert 0 <= float(x) <= 640
            assert 0 <= float(y) <= 250


@given(low=st.floats(-1e12, 1e12), size=st.floats(1e-6, 1e12))
def test_ticks_are_round_and_cover_the_range(low: float, size: float) -> None:
    high = low + max(size, abs(low) * 1e-9)
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + (high - low) * 1e-3
    assert ticks[-1] >= high - (high - low) * 1e-3
    assert 2 <= len(ticks) <= 12


@given(seed=st.integers(0, 1000), count=st.integers(MOST_POINTS + 1, 3 * MOST_POINTS))
def test_thinning_keeps_ends_and_extremes(seed: int, count: int) -> None:
    random = Random(seed)
    values = [random.gauss(0, 1) for _ in range(count)]
    thinned = thin(Series("x", list(range(len(values))), values))
    assert len(thinned.steps) <= MOST_POINTS + 2
    assert (thinned.steps[0], thinned.steps[-1]) == (0, len(values) - 1)
    assert (min(thinned.values), max(thinned.values)) == (min(values), max(values))
    assert all(values[step] == value for step, value in zip(thinned.steps, thinned.values, strict=True))


def test_the_running_mean_has_no_lag_on_a_line() -> None:
    line = [3.0 * n - 7 for n in range(600)]
    assert running_mean(line) == pytest.approx(line)
