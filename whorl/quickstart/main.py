"""`whorl quickstart`: documents → tokens → pre-training → chat training → figures, in the time given; then
the round trip through the arena."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from whorl.arena.store.store import Store, default_store
from whorl.base.files import write_json
from whorl.base.logbook import Logbook
from whorl.base.posix import keep_freed_memory
from whorl.base.progress import duration, say
from whorl.base.report import write_report
from whorl.models.weights import weight_version
from whorl.quickstart.arena_rows import left_out_rows
from whorl.quickstart.config import QuickstartConfig
from whorl.quickstart.corpus import Corpus, build_corpus, check_paths
from whorl.quickstart.ending import stay
from whorl.quickstart.figures import Figure, Figures, measure_figures
from whorl.quickstart.learning import learn_chat, pretrain, reached_rate
from whorl.quickstart.lessons import plan_course
from whorl.quickstart.plan import ROUND_TRIP, Plan, make_plan, plan_chat, plan_round_trip
from whorl.quickstart.round_trip import RoundTrip, move_models
from whorl.quickstart.stages import MemoryWatch, Stages
from whorl.quickstart.table import LEFT_OUT, run_rows, stage_lines, table_lines
from whorl.train.loop import TrainState


def quickstart(config: QuickstartConfig) -> Figures:
    """Run what is not done yet of `runs/<name>` and print its table; see `QuickstartConfig`."""
    check_paths(config.data)
    keep_freed_memory()
    workspace = Path(config.workspace or os.environ.get("WHORL_WORKSPACE", "") or ".")
    run = workspace / "runs" / config.name
    votes = default_store(workspace)
    if config.fresh and run.exists():
        _put_aside(run, votes)
    with MemoryWatch() as memory, Logbook(run) as logbook:
        stages = Stages(run, logbook, memory)
        if all(stages.done(name) for name in ("figures", *([] if config.no_round_trip else ROUND_TRIP))):
            say(f"{run} is finished; --fresh starts over")
        else:
            logbook.config(config)
            if not _train(config, run, votes, stages, logbook):
                return Figures([], [])
        figures = _figures(stages)
        _show(run_rows(stages, config.minutes) + figures.rows, figures, stages, run, workspace)
    if sys.stdout.isatty() and not config.no_serve:
        stay(workspace, run / "model")
    return figures


def _train(config: QuickstartConfig, run: Path, votes: Path, stages: Stages, logbook: Logbook) -> bool:
    """Every stage that is not done, the store of votes being `votes`; False where a signal asked to leave."""
    if not stages.done("plan"):
        with stages.stage("plan") as kept:
            plan = make_plan(config, logbook)
            kept["value"] = plan.to_json()
    plan = Plan(**stages.value("plan"))
    trip = None if config.no_round_trip else plan_round_trip(plan.minutes)
    for line in [*plan.lines(), *([trip.line()] if trip else [])]:
        say(line)
    with stages.stage("data", plan.budget["data"]):
        corpus = build_corpus(config, run / "data")
        course = plan_course(corpus, config.seed, config.cases)
        for place, hash in inputs_of(corpus).items():
            logbook.event("data", name=place, hash=hash)
        say(f"{len(course.entries):,} names to look up; left out: {dict(course.left_out)}")
    works: dict[str, Callable[[Plan, Logbook], TrainState]] = {
        "pretrain": lambda plan, book: pretrain(config, plan, corpus, run, book),
        "chat": lambda plan, book: learn_chat(config, plan, corpus, course, run, book),
    }
    for name, work in works.items():
        if stages.done(name):
            continue
        if name == "chat":
            planned = plan.chat_steps
            plan = plan_chat(
                plan, stages.seconds("chat", "figures", *ROUND_TRIP), reached_rate(run / "pretrain")
            )
            say(f"{plan.chat_steps} chat steps fit into the time that is left; {planned} were planned")
        began = time.monotonic()
        with stages.stage(name, plan.budget[name]) as kept, Logbook(run / name) as book:
            book.config(config, inputs_of(corpus, run if name == "chat" else None))
            state = work(plan, book)
            reason = {"reason": "signal"} if state.left else {}
            book.event("finish", step=state.step, seconds=time.monotonic() - began, **reason)
            kept["value"], kept["left"] = state.loss, state.left
        if state.left:
            return False
    if not stages.done("figures"):
        with stages.stage("figures", plan.budget["figures"]) as kept:
            figures = measure_figures(run / "model", run / "base", corpus, course, logbook, config.cases)
            kept["value"] = figures.to_json()
    if trip is not None:
        asked, dtype = course.arena_tasks, plan.dtype
        with (
            Store.open(votes, backups=votes.parent / "backups") as store,
            closing(RoundTrip(run, store, trip, asked, stages, logbook, config.seed, dtype)) as back,
        ):
            if not back.go():
                return False
    logbook.event("finish", seconds=stages.seconds())
    return True


def inputs_of(corpus: Corpus, run: Path | None = None) -> dict[str, str]:
    """What a training reads, with the hash of each: the tokens; in the chat's, base weights too."""
    inputs = {str(corpus.tokens.directory): corpus.tokens.fingerprint}
    return inputs if run is None else inputs | {"model": weight_version(run / "base")}


def _put_aside(run: Path, votes: Path) -> None:
    """Give the run's folder another name; the store is told where its models are now."""
    number = 1
    while (aside := run.with_name(f"{run.name}-{number}")).exists():
        number += 1
    before = run.resolve()
    run.rename(aside)
    if votes.exists():
        with Store.open(votes, backups=votes.parent / "backups") as store:
            move_models(store, before, aside.resolve())
    say(f"the earlier run is now {aside}")


def _figures(stages: Stages) -> Figures:
    """All that was measured, and the rows of a round trip that was left out."""
    known = {field.name for field in fields(Figure)}
    stored = stages.value("figures")
    back = stages.value("rematch")["rows"] if stages.done("rematch") else []
    rows = [
        Figure(**{key: value for key, value in row.items() if key in known})
        for row in [*stored["rows"], *back]
    ]
    if not back:
        rows += left_out_rows(LEFT_OUT)
    return Figures(rows, [(question, reply) for question, reply in stored["samples"]])


def _show(rows: list[Figure], figures: Figures, stages: Stages, run: Path, workspace: Path) -> None:
    say("")
    for line in stage_lines(stages):
        say(line)
    say("")
    for line in table_lines(rows):
        print(line)
    print()
    for question, reply in figures.samples:
        print(f"  {question}\n    → {reply}")
    write_json(run / "figures.json", figures.to_json())
    report = write_report(run)
    learnt = run / "dpo" / "model"
    if learnt.exists():
        print(f"\nmodel   {run / 'model'}\nby DPO  {learnt}\nreport  {report}")
    else:
        print(f"\nmodel   {run / 'model'}\nreport  {report}")
    print(f"studio  whorl studio --workspace {shlex.quote(str(workspace))}")
    print(f"whole run {duration(stages.seconds())}")
