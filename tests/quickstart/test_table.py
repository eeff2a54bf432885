"""The table and the stages behind it: met, missed or not to be had; time and memory that are kept."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from whorl.base.files import read_json, write_json
from whorl.base.logbook import Logbook
from whorl.quickstart.figures import Figure
from whorl.quickstart.plan import ROUND_TRIP, plan_round_trip
from whorl.quickstart.stages import FILE, FORMAT, MemoryWatch, Stages
from whorl.quickstart.table import LEFT_OUT, run_rows, stage_lines, table_lines


def test_a_row_says_met_missed_or_why_it_does_not_apply() -> None:
    rows = [
        Figure("digits", 98.61, 0.6, cases=360, floor=96.0),
        Figure("arithmetic", 97.0, 1.0, cases=300, floor=98.0),
        Figure(
            "bits per byte", 1.7412, 0.0594, cases=1234, floor=2.05, lower_is_better=True, unit="bits/byte"
        ),
        Figure("look-ups", math.nan, floor=95.0, note="does not apply: no titles"),
    ]
    lines = table_lines(rows)
    assert lines[0].split() == ["figure", "measured", "±", "s.e.", "cases", "target"]
    assert set(lines[1]) == {"─"} and len(lines[1]) == max(map(len, lines))
    assert lines[2].split() == ["digits", "98.6", "%", "0.6", "360", "≥", "96", "%", "met"]
    assert lines[3].endswith("NOT MET")
    assert lines[4].split() == [
        "bits",
        "per",
        "byte",
        "1.74",
        "bits/byte",
        "0.059",
        "1,234",
        "<",
        "2.05",
        "met",
    ]
    assert lines[5].endswith("does not apply: no titles") and "—" in lines[5] and "nan" not in lines[5]
    points, lost, apart, even = table_lines(
        [
            Figure("above", 655.31, 40.2, cases=140, floor=118.49, unit="points"),
            Figure("votes lost", 0, cases=340, floor=1, lower_is_better=True, unit="votes"),
            Figure("not below", -20.4, 12.6, cases=140, floor=-50.4, unit="points"),
            Figure("even", -0.2, 12.6, cases=140, floor=-0.4, unit="points"),
        ]
    )[2:]
    assert points.split() == ["above", "655", "points", "40", "140", "≥", "118", "met"]
    assert lost.split() == ["votes", "lost", "0", "votes", "340", "<", "1", "met"]
    assert apart.split() == ["not", "below", "-20", "points", "13", "140", "≥", "-50", "met"]
    assert even.split() == ["even", "0", "points", "13", "140", "≥", "0", "met"]
    ends = {line.index(word) + len(word) for line, word in ((lines[2], "98.6 %"), (lines[3], "97.0 %"))}
    assert len(ends) == 1, "columns are aligned"


def test_a_stage_that_fails_counts_and_is_done_again(tmp_path: Path) -> None:
    logbook = Logbook.null()
    with MemoryWatch(0.01) as memory:
        stages = Stages(tmp_path, logbook, memory)
        with pytest.raises(RuntimeError, match="broken"), stages.stage("data", budget=5.0):
            time.sleep(0.05)
            raise RuntimeError("broken")
        first = stages.seconds()
        assert first >= 0.05 and not stages.done("data")
        again = Stages(tmp_path, logbook, memory)
        with again.stage("data", budget=5.0) as kept:
            held = bytearray(64 << 20)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(0.1)
            kept["value"] = {"documents": 7}
            del held
        assert again.seconds() > first + 0.1
        third = Stages(tmp_path, logbook, memory)
    assert third.done("data") and third.value("data") == {"documents": 7} and not third.done("other")
    assert third.peak >= 64 << 20
    assert read_json(tmp_path / "stages.json")["format"] == 1
    (line,) = stage_lines(third)
    assert line.startswith("data") and "of 5.0 s" in line and line.endswith("GB")
    first, whole, memory_row = run_rows(third, minutes=10.0)
    assert first.met and memory_row.met and first.value == pytest.approx(third.seconds() / 60)
    assert whole.met is None and whole.note == LEFT_OUT


def test_the_round_trip_comes_on_top_of_the_run_up_to_its_figures(tmp_path: Path) -> None:
    seconds = {"data": 120.0} | {name: 60.0 * number for number, name in enumerate(ROUND_TRIP, start=1)}
    kept = {
        name: {"done": True, "seconds": spent, "budget": 0.0, "memory": 1, "value": None}
        for name, spent in seconds.items()
    }
    write_json(tmp_path / FILE, {"format": FORMAT, "stages": kept})
    with MemoryWatch(0.01) as memory:
        first, whole, _ = run_rows(Stages(tmp_path, Logbook.null(), memory), minutes=10.0)
    assert first.value == pytest.approx(2.0) and first.floor == 10 and first.met
    assert whole.value == pytest.approx(sum(seconds.values()) / 60) and whole.value > 3 * first.value
    assert whole.floor == 15 and whole.met
    usual, short, long = plan_round_trip(10), plan_round_trip(0.1), plan_round_trip(60)
    assert sum(usual.budget.values()) <= 3 * 60 and usual.battles == long.battles
    assert set(usual.budget) == set(ROUND_TRIP) and set(short.battles.values()) == {6}


def test_a_stage_that_was_asked_to_leave_is_not_done(tmp_path: Path) -> None:
    with MemoryWatch(0.01) as memory:
        stages = Stages(tmp_path, Logbook.null(), memory)
        with stages.stage("chat") as kept:
            kept["left"] = "SIGTERM"
        assert not stages.done("chat") and not Stages(tmp_path, Logbook.null(), memory).done("chat")
