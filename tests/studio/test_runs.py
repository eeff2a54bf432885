"""The runs' pages over real run directories, some of them written while they are looked at."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studio.conftest import PHONE, StudioProcess, eventually, serious_faults
from whorl.base.config import Config
from whorl.base.errors import DataError
from whorl.base.logbook import Logbook, read_metrics, series
from whorl.base.report import render_report, write_report
from whorl.base.runs import SILENT_AFTER, read_run
from whorl.serve.api.errors import ApiError
from whorl.studio.runs.feed import read_places, write_places
from whorl.studio.runs.reading import Runs

# Does what it is told a line at a time, as a training in another process would.
WRITER = """
import json, sys
from whorl.base.logbook import Logbook
with Logbook(sys.argv[1]) as book:
    print("ready", flush=True)
    for line in sys.stdin:
        what, step, fields = json.loads(line)
        if what == "metric": book.metric(step, **fields)
        elif what == "resume": book.resume(step)
        else: book.event(what, step=step, **fields)
        print("done", flush=True)
"""


class Settings(Config):
    rate: float = 1.0


class Writer:
    """Another process that writes a run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._wait()

    def tell(self, what: str, step: int = 0, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, step, fields]) + "\n")
        self.process.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the writer has ended"


@contextmanager
def writing(run: Path) -> Iterator[Writer]:
    command = [sys.executable, "-c", WRITER, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writer(process)
        process.stdin.close()  # type: ignore[union-attr]


def learn(book: Logbook, first: int, last: int) -> None:
    for step in range(first, last + 1):
        book.metric(step, loss=1 + 4 * math.exp(-step / 20), tokens_per_second=1000.0 + step % 7)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs in a workspace")
    runs = folder / "runs"
    with Logbook(runs / "done") as book:
        book.config(Settings(), {"data": "ab" * 32})
        learn(book, 1, 60)
        book.resume(40)
        book.metric(41, loss=float("nan"), tokens_per_second=1.0)
        learn(book, 42, 50)
        book.event("sample", step=50, prompt="Say <b>", reply="<script>document.title = 'taken'</script>")
        book.event("exported", path=str(runs / "done" / "model"), weights="ab" * 32, step=50)
        book.event("finish", step=50)
    write_report(runs / "done")
    with Logbook(runs / "two words") as book:
        book.config(Settings(rate=0.5))
        learn(book, 1, 30)
        book.event("finish", step=30)
    with Logbook(runs / "outer") as book:
        book.event("stage", name="pretrain", seconds=1.0, budget=2.0)
        book.event("result", name="arithmetic", value=0.9, cases=200, floor=0.6)
        with Logbook(runs / "outer" / "pretrain") as part:
            learn(part, 1, 20)  # says nothing of its end, as a part of the quickstart
        book.event("finish")
    with Logbook(runs / "damaged") as book:
        book.metric(1, loss=3.0)
    with open(runs / "damaged" / "metrics.jsonl", "a") as file:
        file.write("{oops\n")
        file.write('{"step": 2, "time": 0, "values": {"loss": 1}}\n')
    with Logbook(runs / "no recipe") as book:
        book.metric(1, loss=1.0)
    (runs / "no recipe" / "config.toml").write_text("rate = = 1")
    with Logbook(folder / "secret") as book:
        book.metric(1, loss=1.0)
    (runs / "link").symlink_to(folder / "secret")
    return folder


def curves(admin: httpx.Client, *ways: str) -> dict[str, Any]:
    answer = admin.get("/api/runs/curves", params=[("run", way) for way in ways])
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_list_has_every_run_with_its_state(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        listed = {one["way"]: one for one in admin.get("/api/runs").json()["runs"]}
        page = admin.get("/runs").text
    assert set(listed) == {"done", "two words", "outer", "outer/pretrain", "damaged", "no recipe"}
    assert listed["done"]["state"] == "done" and listed["done"]["steps"] == "50"
    inner = listed["outer/pretrain"]
    assert inner["above"] == "outer" and inner["state"] == "done"  # since the outer one is
    assert listed["damaged"]["state"] == "damaged" and "metrics.jsonl:2" in listed["damaged"]["trouble"]
    order = list(listed)
    assert order.index("outer/pretrain") == order.index("outer") + 1
    assert order.index("outer") < order.index("two words") < order.index("done")  # the newest first
    assert 'href="/runs/two%20words"' in page and "metrics.jsonl:2" in page


def test_curves_are_the_live_metrics(studio: StudioProcess, workspace: Path) -> None:
    """What a resume superseded is not among them; what is not finite is a gap."""
    with studio.admin() as admin:
        plots = curves(admin, "done")["sections"][0]["plots"]
    drawn = {one["metric"]: one for plot in plots for one in plot["series"]}
    steps, values = series(read_metrics(workspace / "runs" / "done"), "loss")
    assert drawn["loss"]["x"] == steps and max(steps) == 50
    expected = [pytest.approx(value, rel=1e-5) if math.isfinite(value) else None for value in values]
    assert drawn["loss"]["y"] == expected and None in expected
    kinds = {(mark["kind"], mark["x"]) for mark in plots[0]["marks"]}
    assert {("resume", 40), ("sample", 50), ("exported", 50)} <= kinds


def test_a_run_shows_the_runs_inside_it(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        whole = curves(admin, "outer")
        page = admin.get("/runs/outer").text
    assert whole["ways"] == ["outer", "outer/pretrain"]
    assert [section["name"] for section in whole["sections"] if section["plots"]] == ["pretrain"]
    assert "arithmetic" in page and "met" in page and "of 2.0 s" in page


def test_only_runs_of_the_workspace_can_be_seen(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        for way in (
            "../secret",
            "%2e%2e/secret",
            "..%2fsecret",
            "link",
            "/etc",
            "%2Fetc",
            "done/../../secret",
            "x%00",
        ):
            for path in (f"/runs/{way}", f"/api/runs/curves?run={way}", f"/api/runs/stream?run={way}"):
                assert admin.get(path).status_code == 404, path
        missing = admin.get("/runs/none", headers={"accept": "text/html"})
        assert missing.status_code == 404 and "There is no run none" in missing.text
        assert admin.get("/api/runs/curves").status_code == 400
    with httpx.Client(base_url=studio.address, trust_env=False) as stranger:
        for path in (
            "/runs",
            "/runs/done",
            "/api/runs",
            "/api/runs/stream?run=done",
            "/runs/report?run=done",
        ):
            assert stranger.get(path).status_code == 401, path


def test_a_damaged_run_is_said_plainly(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        page = admin.get("/runs/damaged")
        assert page.status_code == 200 and "metrics.jsonl:2: not valid JSON" in page.text
        recipe = admin.get("/runs/no%20recipe", headers={"accept": "text/html"})
        assert recipe.status_code == 200 and "config.toml" in recipe.text and "damaged" in recipe.text
        refused = admin.get("/api/runs/curves?run=damaged")
        assert refused.status_code == 400 and "metrics.jsonl:2" in refused.json()["error"]["message"]


def test_what_a_model_said_is_shown_as_text(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        page = admin.get("/runs/done").text
    assert "&lt;script&gt;document.title" in page and "<script>document.title" not in page


def test_the_report_runs_as_a_page_of_no_origin(studio: StudioProcess, workspace: Path) -> None:
    with studio.admin() as admin:
        report = admin.get("/runs/report?run=done")
        assert report.text == (workspace / "runs" / "done" / "report.html").read_text()
        policy = report.headers["content-security-policy"]
        assert "sandbox allow-scripts;" in policy and "allow-same-origin" not in policy
        # What nobody has written yet is written for who asks, as it is now.
        page = admin.get("/runs/outer").text
        assert 'href="/runs/report?run=outer"' in page
        outer = admin.get("/runs/report?run=outer").text
        assert outer == render_report(read_run(workspace / "runs" / "outer"))
        assert not (workspace / "runs" / "outer" / "report.html").exists()
        assert admin.get("/runs/report?run=nothing").status_code == 404


def test_comparing(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        both = curves(admin, "done", "two words")
        loss = both["sections"][0]["plots"][0]
        assert loss["title"] == "loss" and [one["name"] for one in loss["series"]] == ["done", "two words"]
        assert both["configs"] == [["rate", ["1.0", "0.5"]]]
        page = admin.get("/runs/compare?run=done&run=two+words").text
        assert "2 runs compared" in page and "0.5" in page
        many = admin.get("/api/runs/curves", params=[("run", str(number)) for number in range(9)])
        assert many.status_code == 400 and "at most 8" in many.json()["error"]["message"]


def read_events(admin: httpx.Client, path: str, enough: Any, last_id: str = "") -> list[tuple[str, str, Any]]:
    """(id, name, data) of a stream until `enough(events)`."""
    found: list[tuple[str, str, Any]] = []
    headers = {"last-event-id": last_id} if last_id else {}
    with admin.stream("GET", path, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        number, name = "", ""
        for line in answer.iter_lines():
            key, _, value = line.partition(": ")
            if key == "id":
                number = value
            elif key == "event":
                name = value
            elif key == "data":
                found.append((number, name, json.loads(value)))
                if enough(found):
                    return found
    return found


def points(events: list[tuple[str, str, Any]]) -> list[tuple[int, float]]:
    return [
        (step, each and each["loss"])
        for _, name, data in events
        if name == "points"
        for step, each in data["points"]
    ]


def test_a_stream_goes_on_where_it_broke_off(studio: StudioProcess, workspace: Path) -> None:
    run = workspace / "runs" / "streamed"
    with studio.admin() as admin, writing(run) as writer:
        writer.tell("metric", 1, loss=3.0)
        after = curves(admin, "streamed")["after"]
        for step in (2, 3):
            writer.tell("metric", step, loss=3.0 - step)
        path = f"/api/runs/stream?run=streamed&after={after}"
        first = read_events(admin, path, lambda events: len(points(events)) == 2)
        assert points(first) == [(2, 1.0), (3, 0.0)]
        writer.tell("resume", 2)
        writer.tell("metric", 3, loss=0.5)
        writer.tell("sample", 3, prompt="a", reply="b")
        again = read_events(admin, path, lambda events: points(events), first[-1][0])
        assert points(again) == [(2, None), (3, 0.5)]
        writer.tell("finish", 3)
        rest = read_events(admin, path, lambda events: False, again[-1][0])  # to its end
        assert not points(rest) and "happened" in [name for _, name, _ in rest]
        assert ("state", {"run": "streamed", "state": "done"}) in [(name, data) for _, name, data in rest]
        assert rest[-1][1] == "end"


def test_a_line_that_is_damaged_meanwhile_ends_the_stream(studio: StudioProcess, workspace: Path) -> None:
    run = workspace / "runs" / "breaks"
    with Logbook(run) as book:
        book.metric(1, loss=1.0)
    with studio.admin() as admin:
        after = curves(admin, "breaks")["after"]
        with open(run / "metrics.jsonl", "a") as file:
            file.write("{oops\n")
        told = read_events(admin, f"/api/runs/stream?run=breaks&after={after}", lambda events: False)
    assert told[-2][1] == "trouble" and "not valid JSON" in told[-2][2]["message"]


def test_a_place_beyond_the_file_is_told_once(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        told = read_events(admin, "/api/runs/stream?run=done&after=99999999.9", lambda events: False)
    assert [name for _, name, _ in told] == ["anew", "end"]


def grow_old(run: Path, seconds: float) -> None:
    """As if the run had been written so long ago."""
    for file in run.glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [json.dumps(one | {"time": one["time"] - seconds}) + "\n" for one in records]
        file.write_text("".join(lines))


def test_a_stopped_run_is_followed_until_it_says_its_end(studio: StudioProcess, workspace: Path) -> None:
    run = workspace / "runs" / "paused"
    with writing(run) as writer:
        writer.tell("metric", 1, loss=3.0)
    grow_old(run, SILENT_AFTER + 60)
    with studio.admin() as admin:
        found = curves(admin, "paused")
        assert found["facts"]["state"] == "stopped" and found["live"]
        path = f"/api/runs/stream?run=paused&after={found['after']}"
        first = read_events(admin, path, lambda events: True)
        assert first[0][1:] == ("state", {"run": "paused", "state": "stopped"})
        with writing(run) as writer:
            writer.tell("metric", 2, loss=2.0)
            again = read_events(admin, path, lambda events: "going" in str(events))
            assert points(again) == [(2, 2.0)]
            writer.tell("finish", 2)
        assert read_events(admin, path, lambda events: False)[-1][1] == "end"
        assert not curves(admin, "paused")["live"]


STEP = st.one_of(
    st.tuples(st.just("metric"), st.integers(0, 9)), st.tuples(st.just("resume"), st.integers(0, 9)),
    st.tuples(st.just("note"), st.integers(0, 9)), st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("torn"), st.just(0)),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_reading_on_equals_reading_anew(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int]]
) -> None:
    """Whatever was written between two looks, a torn line at the end included."""
    workspace = tmp_path_factory.mktemp("read on")
    run = workspace / "runs" / "one"
    runs = Runs(workspace)
    book = Logbook(run)
    book.event("note", text="begun")
    for what, step in [*script, ("look", 0)]:
        if what == "metric":
            book.metric(step, loss=step / 3)
        elif what == "resume":
            book.resume(step)
        elif what == "note":
            book.event("note", text="x", step=step)
        elif what == "torn":
            with open(run / "metrics.jsonl", "ab") as file:
                file.write(b'{"step": 1, "ti')
            runs.record("one")
            book.close()
            book = Logbook(run)  # cuts it
        else:
            record, expected = runs.record("one")[0], read_run(run)
            assert (record.metrics, record.events, record.run) == (
                expected.metrics,
                expected.events,
                expected.run,
            )
    book.close()


def test_a_run_made_anew_is_read_anew(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    for name in ("first", "second"):
        run = tmp_path / "runs" / "one"
        with Logbook(run) as book:
            learn(book, 1, 30 if name == "first" else 3)
        assert runs.record("one")[0].run.steps == (30 if name == "first" else 3)
        for file in run.iterdir():
            file.unlink()
    with pytest.raises(ApiError, match="no run one"):
        runs.record("one")
    assert runs.listed() == []


def test_places_are_written_and_read() -> None:
    places = {"b": (3, 4), "a": (1, 2)}
    assert write_places(places) == "1.2,3.4" and read_places("1.2,3.4", ["b", "a"]) == places
    for text in ("", "1", "1.2", "1.2,3.x", "1.2,3.4,5.6", "-1.2,3.4"):
        assert read_places(text, ["a", "b"]) == {"a": (0, 0), "b": (0, 0)}


def test_a_broken_event_is_a_data_error(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text('{"kind": "note"}\n')
    with pytest.raises(DataError, match=r"events\.jsonl:1: not an event record"):
        Runs(tmp_path).record("one")
    [line] = Runs(tmp_path).listed()
    assert line.run is None and "events.jsonl:1" in line.trouble


# -- in a browser ------------------------------------------------------------------------------------


def test_curves_grow_while_they_are_looked_at(open_page: Any, workspace: Path) -> None:
    run = workspace / "runs" / "going"
    with writing(run) as writer:
        for step in range(1, 31):
            writer.tell("metric", step, loss=5 - step / 10)
        page = open_page("/runs/going")
        plot = page.locator("line-plot").first
        stage = plot.get_by_role("slider")
        stage.focus()
        page.keyboard.press("End")
        assert stage.get_attribute("aria-valuetext") == "step 30: loss 2"
        for step in range(31, 41):
            writer.tell("metric", step, loss=5 - step / 10)
        eventually(lambda: plot.evaluate("one => one.places"), 40)
        page.keyboard.press("End")
        assert stage.get_attribute("aria-valuetext") == "step 40: loss 1"
        writer.tell("resume", 35)  # what came after is superseded
        eventually(lambda: plot.evaluate("one => one.places"), 35)
        writer.tell("metric", 36, loss=9.0, validation_loss=8.5)  # a metric that nobody knew yet
        plot.get_by_role("button", name="validation loss").wait_for()
        writer.tell("sample", 36, prompt="Once", reply="upon a time <b>")
        page.get_by_text("upon a time <b>").first.wait_for()
        assert page.locator("#state").inner_text() == "running"
        with writing(run / "inside") as inner:
            inner.tell("metric", 1, loss=7.0)
            writer.tell("note", 36, text="a run begins inside")
            page.get_by_role("heading", name="inside by step").wait_for()
            inner.tell("metric", 2, loss=6.0)
            eventually(lambda: page.locator("line-plot").last.evaluate("one => one.places"), 2)
            inner.tell("finish", 2)
        writer.tell("finish", 36)
        page.locator("#state", has_text="done").wait_for()


def test_a_stopped_run_goes_live_where_its_page_is_open(open_page: Any, workspace: Path) -> None:
    run = workspace / "runs" / "slept"
    with writing(run) as writer:
        for step in range(1, 6):
            writer.tell("metric", step, loss=5 - step / 10)
    grow_old(run, SILENT_AFTER + 60)
    page = open_page("/runs/slept")
    page.locator("#state", has_text="stopped").wait_for()
    plot = page.locator("line-plot").first
    eventually(lambda: plot.evaluate("one => one.places"), 5)
    with writing(run) as writer:
        for step in range(6, 12):
            writer.tell("metric", step, loss=4.0)
        eventually(lambda: plot.evaluate("one => one.places"), 11)
        page.locator("#state", has_text="running").wait_for()
        writer.tell("finish", 11)
        page.locator("#state", has_text="done").wait_for()


@pytest.mark.parametrize("pattern", ["**/api/runs/pieces*", "**/api/runs/curves*"])
def test_what_a_run_s_page_cannot_get_is_said_and_asked_for_again(
    open_page: Any, workspace: Path, pattern: str
) -> None:
    run = workspace / "runs" / f"away {len(pattern)} {pattern[12:14]}"
    with writing(run) as writer:
        writer.tell("metric", 1, loss=5.0)
        page = open_page(f"/runs/{quote(run.name)}")
        page.locator("line-plot").first.wait_for()
        page.route(pattern, lambda route: route.fulfill(status=404, json={"error": {"message": "Away."}}))
        writer.tell("metric", 2, accuracy=0.5)  # a curve that is new, and figures
        told = page.locator("#trouble")
        told.get_by_text("Away.").wait_for()
        page.unroute(pattern)
        told.get_by_role("button", name="Try again").click()
        told.wait_for(state="hidden")
        if "curves" in pattern:
            page.locator("line-plot").nth(1).wait_for()
        writer.tell("finish", 2)


def test_values_are_read_by_pointer_and_keys(open_page: Any) -> None:
    page = open_page("/runs/done")
    plot = page.locator("line-plot").first
    stage = plot.get_by_role("slider")
    box = stage.locator("svg").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + box["height"] / 2)
    tip = plot.locator(".plot-tip")
    assert "step 50" in tip.inner_text() and "sample" in tip.inner_text()
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    stage.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert stage.get_attribute("aria-valuetext") == "step 2: loss 4.619"
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    line = plot.locator("path.plot-line")
    linear = line.get_attribute("d")
    plot.get_by_role("button", name="Log scale").press("Enter")
    eventually(lambda: line.get_attribute("d") != linear, True)
    plot.get_by_role("button", name="Table").press("Enter")
    assert "4.619" in plot.get_by_role("region", name="loss, as a table").inner_text()
    assert serious_faults(page) == []
    page.get_by_label("Kind of event").select_option("resume")
    assert page.locator("#piece-timeline tr[data-kind]:visible").count() == 1
    assert page.title().startswith("done")  # the sample's script did not run


def test_ticks_of_an_axis_are_written_alike_and_are_enough(open_page: Any, workspace: Path) -> None:
    with Logbook(workspace / "runs" / "tiny steps") as book:
        for step in range(1, 8):
            book.metric(step, lr=0.0016 * step / 7)
        book.event("finish", step=7)
    page = open_page("/runs/tiny%20steps")
    page.locator("line-plot .plot-tick").first.wait_for()
    across = page.locator("line-plot .plot-tick[text-anchor=end]").all_text_contents()
    assert "5e-4" in across and "1e-3" in across and not [tick for tick in across if "0.00" in tick]
    along = page.locator("line-plot .plot-tick[text-anchor=middle]").all_text_contents()
    assert len(along) >= 3 and all(tick.isdecimal() for tick in along)


def test_runs_are_chosen_and_compared(open_page: Any) -> None:
    page = open_page("/runs")
    button = page.get_by_role("button", name="Compare")
    assert button.is_disabled() and serious_faults(page) == []
    page.get_by_label("Compare done").check()
    page.get_by_label("Compare two words").press("Space")
    page.get_by_role("button", name="Compare 2").click()
    plot = page.locator("line-plot").first
    plot.get_by_role("button", name="two words").click()
    stage = plot.get_by_role("slider")
    stage.focus()
    page.keyboard.press("End")
    assert stage.get_attribute("aria-valuetext").startswith("step 50: done ")
    assert "two words" not in stage.get_attribute("aria-valuetext")
    assert serious_faults(page) == []


def test_a_comparison_grows_too_and_says_what_goes_wrong(open_page: Any, workspace: Path) -> None:
    run = workspace / "runs" / "beside"
    with writing(run) as writer:
        writer.tell("metric", 61, loss=2.0)
        page = open_page("/runs/compare%3Frun=done%26run=beside")
        plot = page.locator("line-plot").first
        stage = plot.get_by_role("slider")
        writer.tell("metric", 62, loss=1.5)
        stage.focus()
        page.keyboard.press("End")
        eventually(lambda: plot.evaluate("one => one.places"), 52)
        page.keyboard.press("End")
        assert stage.get_attribute("aria-valuetext").endswith("beside 1.5")
        with open(run / "metrics.jsonl", "a") as file:
            file.write("{oops\n")
        page.get_by_role("alert").get_by_text("not valid JSON").wait_for()


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"color_scheme": "dark"}], ids=["phone", "dark"])
def test_pages_at_other_sizes_and_colours(open_page: Any, options: dict[str, Any]) -> None:
    for way in ("/runs", "/runs/outer", "/runs/damaged", "/runs/compare%3Frun=done%26run=outer/pretrain"):
        page = open_page(way, **options)
        assert serious_faults(page) == [], way
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), way
        for name in ("Timeline", "Where it came from"):  # nothing of a text is beside the card
            for card in page.get_by_role("region", name=name).all():
                assert card.evaluate("one => one.scrollWidth <= one.clientWidth"), name


def test_a_new_run_appears_in_the_list(open_page: Any, workspace: Path) -> None:
    page = open_page("/runs")
    page.get_by_label("Compare done").check()
    threading.Thread(target=lambda: Logbook(workspace / "runs" / "late").event("note", text="x")).start()
    page.get_by_role("link", name="late").wait_for()
    assert page.get_by_label("Compare done").is_checked()
