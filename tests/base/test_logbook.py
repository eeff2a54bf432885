"""The logbook: append-only, superseded on resume, checked events, provenance, runs summed up."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.config import Config, load_config
from whorl.base.errors import DataError, InputError
from whorl.base.events import KINDS
from whorl.base.files import read_jsonl, sha256_json
from whorl.base.logbook import Logbook, read_events, read_metrics, series
from whorl.base.runs import list_runs, read_run


class Recipe(Config):
    steps: int = 3


# A run as a list of what happens to it: so many steps, or a restart from an earlier step.
histories = st.lists(st.one_of(st.integers(1, 5), st.floats(0, 1).map(lambda share: -share)), max_size=8)


@given(history=histories)
def test_live_metrics_are_those_of_the_last_pass_over_each_step(
    tmp_path_factory: pytest.TempPathFactory, history: list[float]
) -> None:
    run = tmp_path_factory.mktemp("run")
    at, value, expected, written = 0, 0, {}, 0
    logbook = Logbook(run)
    for happening in history:
        if happening > 0:
            for _ in range(int(happening)):
                at, value = at + 1, value + 1
                logbook.metric(at, loss=value)
                expected[at] = float(value)
                written += 1
        else:
            at = int(-happening * at)
            expected = {step: loss for step, loss in expected.items() if step <= at}
            logbook.close()  # a resumed run is another process: the file is opened anew
            logbook = Logbook(run)
            logbook.resume(at, f"checkpoints/step-{at}")
    logbook.close()
    steps, losses = series(read_metrics(run), "loss")
    assert dict(zip(steps, losses, strict=True)) == expected
    assert steps == sorted(set(steps))
    assert sum("values" in record for record in read_jsonl(run / "metrics.jsonl")) == written


def test_a_value_that_is_not_finite_survives_as_strict_json(tmp_path: Path) -> None:
    with Logbook(tmp_path) as logbook:
        logbook.metric(1, loss=math.nan, norm=math.inf, count=3)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    [metric] = read_metrics(tmp_path)
    assert math.isnan(metric.values["loss"])
    assert metric.values["norm"] == math.inf
    assert metric.values["count"] == 3


def test_a_torn_line_is_cut_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logbook(tmp_path) as logbook:
        logbook.metric(1, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "ti')
    with Logbook(tmp_path) as logbook:
        logbook.metric(2, loss=2.0)
    assert series(read_metrics(tmp_path), "loss") == ([1, 2], [1.0, 2.0])
    assert "removed 15 bytes" in capsys.readouterr().err
    assert [(event["kind"], event["bytes"]) for event in read_events(tmp_path)] == [("torn", 15)]


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("chekpoint", {}, "no event kind 'chekpoint'"),
        ("checkpoint", {"step": 1}, "path"),
        ("checkpoint", {"step": 1, "path": "x", "stepp": 2}, "stepp"),
        ("checkpoint", {"step": "one", "path": "x"}, "step"),
    ],
)
def test_only_known_events_with_known_fields_are_written(
    tmp_path: Path, kind: str, fields: dict[str, object], said: str
) -> None:
    with Logbook(tmp_path) as logbook:
        with pytest.raises(TypeError, match=said):
            logbook.event(kind, **fields)
        with pytest.raises(TypeError, match=said):
            Logbook.null().event(kind, **fields)
    assert read_events(tmp_path) == []


def test_every_kind_of_event_is_documented() -> None:
    for kind, model in KINDS.items():
        assert model.__doc__, kind
        assert model.__name__.lower() == kind


def test_the_null_logbook_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Logbook.null() as logbook:
        logbook.config(Recipe())
        logbook.metric(1, loss=2.0)
        logbook.event("note", text="hello")
        logbook.resume(1)
    assert list(tmp_path.iterdir()) == []


def test_config_is_runnable_and_provenance_is_true(tmp_path: Path) -> None:
    with Logbook(tmp_path) as logbook:
        logbook.config(Recipe(steps=7), data={"corpus": "abc"})
    assert load_config(Recipe, tmp_path / "config.toml") == Recipe(steps=7)
    [start] = read_events(tmp_path)
    assert start["data"] == {"corpus": "abc"}
    assert start["versions"]["pydantic"] == metadata.version("pydantic")
    assert start["dependencies"] == sha256_json(start["versions"])
    assert len(start["code"]) == 64
    assert start["command"] == sys.argv


def test_code_hash_follows_the_code(tmp_path: Path) -> None:
    """Two processes agree; one changed byte of the package does not."""
    import shutil

    import whorl

    copy = tmp_path / "whorl"
    shutil.copytree(Path(whorl.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from whorl.base.provenance import code_hash, git_state; print(code_hash(), git_state())"

    def ask() -> list[str]:
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return found.stdout.split(maxsplit=1)

    first = ask()
    assert ask() == first
    assert first[1].strip() == "('', False)"  # no repository there
    (copy / "base" / "errors.py").write_bytes((copy / "base" / "errors.py").read_bytes() + b"\n")
    assert ask()[0] != first[0]


def test_a_changed_config_keeps_the_old_one(tmp_path: Path) -> None:
    with Logbook(tmp_path) as logbook:
        for steps in (1, 1, 2, 3):
            logbook.config(Recipe(steps=steps))
    names = sorted(path.name for path in tmp_path.glob("config*.toml"))
    assert names == ["config-1.toml", "config-2.toml", "config.toml"]
    assert [load_config(Recipe, tmp_path / name).steps for name in names] == [1, 2, 3]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "start", "time": 1, "format": 99}\n')
    with pytest.raises(DataError, match="newer Whorl"):
        read_events(tmp_path)


def test_a_damaged_metric_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 1, "values": {"loss": 1}}\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


def test_runs_are_found_and_summed_up(tmp_path: Path) -> None:
    for name, reason in (("a", "done"), ("deep/b", "signal")):
        with Logbook(tmp_path / name) as logbook:
            logbook.config(Recipe())
            logbook.metric(1, loss=3.0)
            logbook.metric(2, loss=2.0, val_loss=2.5)
            logbook.event("finish", reason=reason, step=2)
    with Logbook(tmp_path / "c") as logbook:
        logbook.metric(5, loss=1.0)
    runs = {Path(run.path).name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in runs.items()} == {"a": "done", "b": "left", "c": "going"}
    assert runs["a"].last == {"loss": 2.0, "val_loss": 2.5}
    assert (runs["a"].steps, runs["c"].steps) == (2, 5)
    with pytest.raises(InputError, match="is not a run"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="is not a directory"):
        list_runs(tmp_path / "nowhere")


def test_a_run_that_is_picked_up_again_is_going_again(tmp_path: Path) -> None:
    with Logbook(tmp_path) as logbook:
        logbook.event("signal", step=1, signal="SIGTERM")
        assert read_run(tmp_path).run.state == "left"
        logbook.config(Recipe())
        assert read_run(tmp_path).run.state == "going"
