"""What a judge said of models' answers: comparisons in both orders, scores, and the judge's own biases."""

from __future__ import annotations

import asyncio
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from whorl.base.files import atomic_write
from whorl.base.progress import progress
from whorl.evals.judge import POINTS, SIDES, JudgeClient, Verdict, ask, pair_text, score_text, together
from whorl.evals.judge_questions import Answers, Question
from whorl.tasks.estimate import Estimate

Winner = Literal["model_a", "model_b", "tie"]
NAMED: dict[str, Winner] = {"A": "model_a", "B": "model_b", "tie": "tie"}
SWAPPED: dict[str, Winner] = {"A": "model_b", "B": "model_a", "tie": "tie"}
WORTH: dict[Winner, float] = {"model_a": 1.0, "tie": 0.5, "model_b": 0.0}  # to model_a


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models' answers to one turn. `first` is the verdict with model_a shown first, `second` with model_b
    shown first, either None where the judge gave none; both None with `said` "" where the answers are equal
    and nobody was asked."""

    question: Question
    turn: int
    model_a: str
    model_b: str
    first: Winner | None
    second: Winner | None
    lengths: tuple[int, int]  # of the answers, in characters
    said: tuple[str, ...] = ()

    @property
    def winner(self) -> Winner | None:
        """Who won in both orders; a tie where the orders disagree; None where a verdict is missing."""
        if not self.said:
            return "tie"
        if self.first is None or self.second is None:
            return None
        return self.first if self.first == self.second else "tie"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One answer's points from 1 to 10, None where the judge gave none."""

    question: Question
    turn: int
    model: str
    points: int | None
    length: int
    said: str = ""


async def compare_answers(
    judge: JudgeClient,
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    *,
    max_tokens: int = 1024,
    at_once: int = 32,
) -> list[Comparison]:
    """Every two models over every turn, asked in both orders. Equal answers are a tie without asking."""
    gate = asyncio.Semaphore(at_once)
    pairs = list(combinations(answers, 2))
    total = len(pairs) * sum(len(one.turns) for one in questions)
    with progress(total, "judging", "comparisons") as bar:

        async def verdict(question: Question, turn: int, a: Sequence[str], b: Sequence[str]) -> Verdict[Any]:
            text = pair_text(question.asked(turn), a, b, question.reference(turn))
            async with gate:
                return await ask(judge, text, SIDES, max_tokens=max_tokens)

        async def one(question: Question, turn: int, a: str, b: str) -> Comparison:
            mine, theirs = (answers[model][question.id][: turn + 1] for model in (a, b))
            first = second = None
            said: tuple[str, ...] = ()
            if mine != theirs:
                both = await together(
                    [verdict(question, turn, mine, theirs), verdict(question, turn, theirs, mine)]
                )
                said = (both[0].said, both[1].said)
                first = None if both[0].value is None else NAMED[both[0].value]
                second = None if both[1].value is None else SWAPPED[both[1].value]
            bar.advance(1)
            return Comparison(
                question=question, turn=turn, model_a=a, model_b=b, first=first, second=second,
                lengths=(len(mine[-1]), len(theirs[-1])), said=said,
            )  # fmt: skip

        return await together(
            one(q, turn, a, b) for q in questions for turn in range(len(q.turns)) for a, b in pairs
        )


async def score_answers(
    judge: JudgeClient,
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    *,
    max_tokens: int = 1024,
    at_once: int = 32,
) -> list[Score]:
    """Every model's answer to every turn by itself, from 1 to 10."""
    gate = asyncio.Semaphore(at_once)
    total = len(answers) * sum(len(one.turns) for one in questions)
    with progress(total, "judging", "answers") as bar:

        async def one(question: Question, turn: int, model: str) -> Score:
            given = answers[model][question.id][: turn + 1]
            text = score_text(question.asked(turn), given, question.reference(turn))
            async with gate:
                verdict = await ask(judge, text, POINTS, max_tokens=max_tokens)
            bar.advance(1)
            return Score(
                question=question, turn=turn, model=model, points=verdict.value, length=len(given[-1]),
                said=verdict.said,
            )  # fmt: skip

        return await together(
            one(q, turn, model) for q in questions for turn in range(len(q.turns)) for model in answers
        )


def pair_figures(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Rows a model, best first, and what the judge's verdicts look like; shares with standard errors.

    `win_rate` counts a tie half; its error is over questions, since the turns and battles of a question are
    not independent. Unreadable comparisons are in no rate.
    """
    read = [one for one in comparisons if one.winner is not None]
    asked = [one for one in read if one.said]
    models = dict.fromkeys(name for one in comparisons for name in (one.model_a, one.model_b))
    rows = [_pair_row(model, read) for model in models]
    verdicts = [value for one in comparisons for value in _orders(one)]
    longer = [
        float((one.winner == "model_a") == (one.lengths[0] > one.lengths[1]))
        for one in read
        if one.winner != "tie" and one.lengths[0] != one.lengths[1]
    ]
    unreadable = [one for one in comparisons if one.winner is None]
    return {
        "kind": "pairs",
        "models": sorted(
            rows, key=lambda row: -math.inf if math.isnan(row["win_rate"]) else -row["win_rate"]
        ),
        "comparisons": len(comparisons),
        "identical": sum(not one.said for one in comparisons),
        "unreadable": len(unreadable),
        "unreadable_example": _example(said for one in unreadable for said in _unread(one)),
        "agreement": _share([float(one.first == one.second) for one in asked]),
        "first_shown_won": _share(verdicts),
        "longer_won": _share(longer),
    }


def _pair_row(model: str, read: Sequence[Comparison]) -> dict[str, Any]:
    won: dict[str, list[float]] = {}
    by_category: dict[str, dict[str, list[float]]] = {}
    lengths = []
    for one in read:
        if model not in (one.model_a, one.model_b) or one.winner is None:
            continue
        mine = one.model_a == model
        worth = WORTH[one.winner] if mine else 1 - WORTH[one.winner]
        won.setdefault(one.question.id, []).append(worth)
        by_category.setdefault(one.question.category, {}).setdefault(one.question.id, []).append(worth)
        lengths.append(one.lengths[0] if mine else one.lengths[1])
    every = [worth for values in won.values() for worth in values]
    rate = _by_question(won)
    return {
        "model": model, "win_rate": rate["value"], "error": rate["error"], "questions": rate["cases"],
        "won": every.count(1.0), "tied": every.count(0.5), "lost": every.count(0.0), "length": _mean(lengths),
        "categories": {name: _by_question(values) for name, values in by_category.items() if name},
    }  # fmt: skip


def score_figures(scores: Sequence[Score]) -> dict[str, Any]:
    """Rows a model, best first: mean points with the error over questions, by turn, by category."""
    rows = []
    for model in dict.fromkeys(one.model for one in scores):
        own = [one for one in scores if one.model == model]
        read = [one for one in own if one.points is not None]
        total = _by_question(_points(read))
        turns = range(1 + max(one.turn for one in own))
        categories = dict.fromkeys(one.question.category for one in read if one.question.category)
        rows.append({
            "model": model, "score": total["value"], "error": total["error"], "questions": total["cases"],
            "turns": [_by_question(_points(one for one in read if one.turn == turn)) for turn in turns],
            "unreadable": len(own) - len(read), "length": _mean([one.length for one in own]),
            "categories": {
                name: _by_question(_points(one for one in read if one.question.category == name))
                for name in categories
            },
        })  # fmt: skip
    unread = [one for one in scores if one.points is None]
    return {
        "kind": "scores",
        "models": sorted(rows, key=lambda row: -math.inf if math.isnan(row["score"]) else -row["score"]),
        "answers": len(scores),
        "unreadable": len(unread),
        "unreadable_example": _example(one.said for one in unread),
        "points_a_doubling": _length_slope([one for one in scores if one.points is not None]),
    }


def write_battles(path: str | Path, comparisons: Sequence[Comparison], judge: str) -> int:
    """The readable comparisons as csv with the columns model_a, model_b, winner (model_a, model_b or tie),
    judge, category, question_id; returns how many."""
    rows = [one for one in comparisons if one.winner is not None]
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model_a", "model_b", "winner", "judge", "category", "question_id"])
        for one in rows:
            writer.writerow(
                [one.model_a, one.model_b, one.winner, judge, one.question.category, one.question.id]
            )
    return len(rows)


def _points(scores: Iterable[Score]) -> dict[str, list[float]]:
    by_question: dict[str, list[float]] = {}
    for one in scores:
        assert one.points is not None
        by_question.setdefault(one.question.id, []).append(float(one.points))
    return by_question


def _orders(one: Comparison) -> list[float]:
    """Of the readable verdicts that name a winner: 1 where it is the one shown first."""
    found = []
    if one.first in ("model_a", "model_b"):
        found.append(float(one.first == "model_a"))
    if one.second in ("model_a", "model_b"):
        found.append(float(one.second == "model_b"))
    return found


def _unread(one: Comparison) -> list[str]:
    return [said for value, said in zip((one.first, one.second), one.said, strict=True) if value is None]


def _example(said: Iterable[str]) -> str:
    return " ".join(next(iter(said), "").split())[-120:]


def _by_question(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The mean of the questions' means, with its standard error over questions."""
    return _share([math.fsum(each) / len(each) for each in values.values()])


def _share(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"value": math.nan, "error": math.nan, "cases": 0}
    found = Estimate.of(values)
    return {"value": found.mean, "error": found.standard_error, "cases": found.n}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _length_slope(scores: Sequence[Score]) -> dict[str, Any]:
    """How many points go with an answer twice as long: least squares of points on log2 of characters, within
    each model, so that a model that is both better and longer does not count as the judge's bias."""
    x = np.log2([one.length + 1 for one in scores])
    y = np.array([float(one.points or 0) for one in scores])
    models = [one.model for one in scores]
    for name in set(models):
        own = np.array([model == name for model in models])
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    free = len(scores) - len(set(models)) - 1
    if free < 1 or not (spread := float((x * x).sum())):
        return {"value": math.nan, "error": math.nan, "cases": len(scores)}
    slope = float((x * y).sum()) / spread
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / free / spread)
    return {"value": slope, "error": error, "cases": len(scores)}


def cases(judged: Sequence[Comparison] | Sequence[Score]) -> list[dict[str, Any]]:
    """Every comparison or score with what the judge said, for a file."""
    return [_case(one) for one in judged]


def _case(one: Comparison | Score) -> dict[str, Any]:
    where = {"question_id": one.question.id, "category": one.question.category, "turn": one.turn + 1}
    if isinstance(one, Score):
        return where | {"model": one.model, "points": one.points, "length": one.length, "said": one.said}
    return where | {
        "model_a": one.model_a, "model_b": one.model_b, "winner": one.winner, "first": one.first,
        "second": one.second, "lengths": list(one.lengths), "said": list(one.said),
    }  # fmt: skip
