"""`whorl judge MODEL|URL|ANSWERS.jsonl… --questions FILE --judge URL [--score] [--battles FILE.csv]`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.places import Place, check_writable, is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whorl.evals.judge_questions import Question

    Given = dict[str, dict[str, tuple[str, ...]]]  # model → question → answers


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL|URL[#SERVED]|ANSWERS.jsonl…")
@click.option(
    "--questions",
    required=True,
    metavar="FILE",
    help="One JSON object per line, with turns (as in MT-Bench) or prompt.",
)
@click.option(
    "--judge", required=True, metavar="URL|MODEL", help="The judge: a server, or a model directory."
)
@click.option(
    "--judge-name", default="", help="The judge's name on its server; default: the first one served."
)
@click.option(
    "--references",
    metavar="FILE",
    help="Reference answers to show the judge, in the same format as answer files.",
)
@click.option("--score", is_flag=True, help="Score each answer from 1 to 10 (one model alone: always).")
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of questions.")
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(min=1),
              help="Maximum tokens per answer.")  # fmt: skip
@click.option(
    "--temperature",
    default=0.0,
    show_default=True,
    help="Sampling temperature of the answers; the judge is greedy.",
)
@click.option("--judge-tokens", default=1024, show_default=True, type=click.IntRange(min=1),
              help="Maximum tokens per judgement.")  # fmt: skip
@click.option(
    "--api-key-file", metavar="FILE", help="File whose first line is the API key for the models' URLs."
)
@click.option(
    "--judge-key-file", metavar="FILE", help="File whose first line is the API key for the judge's URL."
)
@click.option(
    "--at-once",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of questions processed concurrently.",
)
@click.option("--verdicts", metavar="FILE.jsonl",
              help="Store the judge's verdicts here; verdicts already there are reused.")  # fmt: skip
@click.option(
    "--answers", metavar="FOLDER", help="Write each model's answers to this directory, for reuse next time."
)
@click.option("--battles", metavar="FILE.csv", help="Write the comparisons for whorl arena rank.")
@click.option("--out", metavar="FILE", help="Write the figures and every case as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Let a judge compare MODELS on the same questions, in both orders, or score each one by itself.

    A model is a directory (served for the duration), a server's URL (#SERVED picks one of its models), or a
    file of answers.
    """
    import asyncio

    from whorl.base.errors import FaultError, InputError
    from whorl.base.results import without_nan
    from whorl.evals.judge_questions import read_questions

    questions = read_questions(options["questions"], options["references"], options["limit"])
    answers = asyncio.run(collect(models, questions, options))
    if options["battles"] and (len(answers) < 2 or options["score"]):
        raise InputError("--battles needs at least two models and no --score: battles are comparisons")
    try:
        report = asyncio.run(judged(questions, answers, options))
    except FaultError as error:
        kept = (
            "run the same command to continue"
            if options["verdicts"]
            else "--verdicts FILE would have kept its verdicts"
        )
        raise FaultError(f"{error} ({kept})") from error
    if as_json:
        click.echo(json.dumps(without_nan(report)))
    else:
        show(report)
    scores = report["kind"] == "scores"
    judgements = report["answers"] if scores else report["comparisons"] - report["identical"]
    if judgements and report["unreadable"] == judgements:
        raise InputError(
            f"no verdict of {report['judge']} could be read, so nothing was judged; give a judge that follows"
            " instructions, or more --judge-tokens"
        )


async def collect(words: Sequence[str], questions: list[Question], options: dict[str, Any]) -> Given:
    """Every model's answers, asked for or read; written where `--answers` says."""
    from pathlib import Path

    from whorl.base.errors import InputError
    from whorl.evals.judge_questions import check_answers, read_answers, write_answers

    for option in ("battles", "out"):
        check_writable(options[option], f"--{option}")
    live = [place for _, place in map(split_name, words) if not is_answers(place)]
    for one in [*(model_at(place, options) for place in live), *([judge_of(options)] if live else [])]:
        await one.check()  # all of them, before the first is asked for hours
    given: Given = {}
    for word in words:
        name, place = split_name(word)
        if is_answers(place):
            found: Given = dict(read_answers(place))
            if name and len(found) > 1:
                raise InputError(f"{place} has the answers of {', '.join(found)}; remove {name}=")
            found = {name or model: answers for model, answers in found.items()}
        else:
            found = await asked(name, model_at(place, options), questions, options)
            if options["answers"]:
                for model, answers in found.items():
                    file = Path(options["answers"]) / f"{model.replace('/', '-')}.jsonl"
                    write_answers(file, model, answers)
        for model, answers in found.items():
            check_answers(model, answers, questions)
            if model in given:
                raise InputError(f"two models are named {model}; name one of them: NAME={word}")
            given[model] = answers
    return given


def is_answers(place: str) -> bool:
    return place.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst"))


def model_at(place: str, options: dict[str, Any]) -> Place:
    return Place.of(place, key_file=options["api_key_file"], option="--api-key-file")


def split_name(word: str) -> tuple[str, str]:
    """NAME=PLACE, where a name has no slash; "" where none is given."""
    name, sign, place = word.partition("=")
    return (name, place) if sign and name and "/" not in name and place else ("", word)


async def asked(name: str, place: Place, questions: list[Question], options: dict[str, Any]) -> Given:
    from whorl.base.nouns import SamplingParams
    from whorl.evals.judge_questions import ask_questions

    params = SamplingParams(max_tokens=options["max_tokens"], temperature=options["temperature"])
    async with place.open() as client:
        name = name or (client.model if is_url(place.where) else place.where)
        answers = await ask_questions(client, questions, params, model=name, at_once=options["at_once"])
    return {name: answers}


def judge_of(options: dict[str, Any]) -> Place:
    return Place.of(
        options["judge"], name=options["judge_name"], key_file=options["judge_key_file"],
        option="--judge-key-file",
    )  # fmt: skip


async def judged(questions: list[Question], answers: Given, options: dict[str, Any]) -> dict[str, Any]:
    """The judge's figures; battles and cases are written where asked for."""
    from contextlib import ExitStack

    from whorl.base.results import without_nan
    from whorl.evals.judge import JudgeClient, KeptJudge
    from whorl.evals.judge_report import (
        cases,
        compare_answers,
        pair_figures,
        score_answers,
        score_figures,
        write_battles,
    )

    place = judge_of(options)
    with ExitStack() as stack:
        async with place.open() as client:
            name = client.model if is_url(place.where) else place.where
            judge: JudgeClient = client
            if options["verdicts"]:
                judge = KeptJudge(client, options["verdicts"], name)
                stack.callback(judge.close)
            how = {"max_tokens": options["judge_tokens"], "at_once": options["at_once"]}
            if options["score"] or len(answers) == 1:
                scores = await score_answers(judge, questions, answers, **how)
                figures, rows = score_figures(scores), cases(scores)
            else:
                comparisons = await compare_answers(judge, questions, answers, **how)
                figures, rows = pair_figures(comparisons), cases(comparisons)
                if options["battles"]:
                    write_battles(options["battles"], comparisons, name)
    report = {"judge": name, "questions": len(questions), **figures}
    if options["out"]:
        from whorl.base.files import write_json

        write_json(options["out"], without_nan({"format": 1, **report, "cases": rows}))
    return report


def figure(row: dict[str, Any], scale: float = 1.0, unit: str = "") -> str:
    """`12.3 ± 1.0 unit`, or a dash where nothing was counted."""
    if not row["cases"] or math.isnan(row["value"]):
        return "—"
    error = "" if math.isnan(row["error"]) else f" ± {scale * row['error']:.1f}"
    return f"{scale * row['value']:.1f}{error}{unit}"


def show(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    draw: Callable[[dict[str, Any]], Any] = pair_table if report["kind"] == "pairs" else score_table
    console.print(draw(report))
    for line in pair_notes(report) if report["kind"] == "pairs" else score_notes(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def pair_table(report: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(
        "model", "win rate ± s.e.", "won", "tied", "lost", "characters", title=f"judge: {report['judge']}"
    )
    for row in report["models"]:
        rate = {"value": row["win_rate"], "error": row["error"], "cases": row["questions"]}
        length = "—" if math.isnan(row["length"]) else f"{row['length']:,.0f}"
        counts = (f"{row[name]:,}" for name in ("won", "tied", "lost"))
        table.add_row(row["model"], figure(rate, 100, " %"), *counts, length)
    return table


def pair_notes(report: dict[str, Any]) -> list[str]:
    asked = report["comparisons"] - report["identical"]
    notes = [
        f"{report['comparisons']:,} comparisons over {report['questions']:,} questions, {asked:,} judged in"
        f" both orders, {report['identical']:,} between equal answers (ties)",
        f"the two orders agree: {figure(report['agreement'], 100, ' %')}; disagreements count as ties",
        f"the answer shown first won: {figure(report['first_shown_won'], 100, ' %')} of verdicts"
        " (a fair judge: 50)",
        f"the longer answer won: {figure(report['longer_won'], 100, ' %')} of decided comparisons",
    ]
    return notes + unreadable_notes(report, "comparisons")


def score_table(report: dict[str, Any]) -> Any:
    from rich.table import Table

    turns = max(len(row["turns"]) for row in report["models"])
    names = [f"turn {turn + 1}" for turn in range(turns)] if turns > 1 else []
    table = Table(
        "model", "points ± s.e.", *names, "unreadable", "characters", title=f"judge: {report['judge']}"
    )
    for row in report["models"]:
        total = {"value": row["score"], "error": row["error"], "cases": row["questions"]}
        cells = [figure(turn) for turn in row["turns"]] if turns > 1 else []
        table.add_row(row["model"], figure(total), *cells, f"{row['unreadable']:,}", f"{row['length']:,.0f}")
    return table


def score_notes(report: dict[str, Any]) -> list[str]:
    slope = report["points_a_doubling"]
    said = "—" if math.isnan(slope["value"]) else f"{slope['value']:+.2f} ± {slope['error']:.2f} points"
    return [
        f"{report['answers']:,} answers to {report['questions']:,} questions, from 1 to 10",
        f"an answer twice as long from the same model: {said}",
        *unreadable_notes(report, "answers"),
    ]


def unreadable_notes(report: dict[str, Any], what: str) -> list[str]:
    if not report["unreadable"]:
        return []
    example = report["unreadable_example"]
    return [
        f"no verdict could be read for {report['unreadable']:,} {what}, which no figure counts; the judge"
        f" said: {example or 'nothing'}"
    ]
