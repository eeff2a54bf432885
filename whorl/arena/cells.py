"""What the columns of a battle may be called, and what their cells mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from whorl.arena.battles import BOTH_BAD, MODEL_A, MODEL_B, TIE

# What may be called what: FastChat's files, Kaggle's and ours.
COLUMNS: dict[str, tuple[str, ...]] = {
    "time": ("time", "tstamp", "timestamp", "created_at"),
    "probability": ("probability", "propensity"),
    "voter": ("voter", "user", "judge"),
    "category": ("category",),
    "prompt": ("prompt", "prompt_hash", "question_id"),
}
ONE_LINE = {"model_a", "model_b", "winner", *(word for name in ("time", "probability", "voter", "category")
                                              for word in COLUMNS[name])}  # fmt: skip
"""Columns whose cells have no line break."""
ONE_HOT = {"winner_model_a": MODEL_A, "winner_model_b": MODEL_B, "winner_tie": TIE}  # Kaggle's
WORDS: dict[str, int] = {
    "model_a": MODEL_A,
    "a": MODEL_A,
    "left": MODEL_A,
    "model_b": MODEL_B,
    "b": MODEL_B,
    "right": MODEL_B,
    "tie": TIE,
    "draw": TIE,
    "tie (bothbad)": BOTH_BAD,
    "bothbad": BOTH_BAD,
    "both_bad": BOTH_BAD,
}
# FastChat's jsonl keeps the counts of replies in `conv_metadata`, some by kind: {"h1": 2, "h2": 1, …}.
METADATA = {
    "tokens": "sum_assistant_{}_tokens",
    "headers": "header_count_{}",
    "lists": "list_count_{}",
    "bold": "bold_count_{}",
}


SHORT = 60  # characters of a cell that are named


class BadRowError(Exception):
    """Why a row is no battle: it is caught where rows are read, and counted."""


def first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return value
    return None


def text(value: str, what: str) -> str:
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRowError(f"{what} is not valid UTF-8")
    return value


def model_name(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        empty = value is None or isinstance(value, str)
        raise BadRowError(f"{column} is {'empty' if empty else 'not text'}")
    return text(value.strip(), column)


def saw_names(row: Mapping[str, Any]) -> bool:
    """Whether the voter knew who answered: FastChat's files have such battles too, marked by `anony`."""
    value = row.get("anony")
    return value is not None and str(value).strip().casefold() in ("false", "0")


def winner_code(row: Mapping[str, Any], model_a: str, model_b: str) -> int:
    value = row.get("winner")
    if value is None and "winner_tie" in row:
        chosen = [
            code for column, code in ONE_HOT.items() if str(row.get(column)).strip() in ("1", "1.0", "True")
        ]
        if len(chosen) != 1:
            raise BadRowError("not exactly one of winner_model_a, winner_model_b and winner_tie is 1")
        return chosen[0]
    if not isinstance(value, str) or not value.strip():
        raise BadRowError("winner is empty")
    word = value.strip()
    if word == model_a:
        return MODEL_A
    if word == model_b:
        return MODEL_B
    code = WORDS.get(word.casefold())
    if code is None:
        raise BadRowError(
            f"winner {text(word, 'winner')[:SHORT]!r} is not model_a, model_b, tie, tie (bothbad) or"
            " one of the two names"
        )
    return code


def read_cell(name: str, value: Any) -> Any:
    """A cell of one of `COLUMNS` as what it is; None stays None."""
    if value is None:
        return None
    if name == "time":
        return seconds(value)
    if name == "probability":
        number = number_of(value, name)
        if not 0 < number <= 1:
            raise BadRowError(f"probability {str(value)[:SHORT]} is not in (0, 1]")
        return number
    return text(value if isinstance(value, str) else json.dumps(value, sort_keys=True), name)


def seconds(value: Any) -> float:
    """Seconds since 1970, from a number or an ISO 8601 date (without a zone: UTC)."""
    try:
        return number_of(value, "time")
    except BadRowError:
        pass
    try:
        when = datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        raise BadRowError(f"time {short(value)} is neither seconds since 1970 nor an ISO 8601 date") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def short(value: Any) -> str:
    """A cell as a line of text can name it."""
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def number_of(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRowError(f"{what} {short(value)} is not a number")
    return number


def has_count(row: Mapping[str, Any], name: str) -> bool:
    return all(_cell(row, name, side) is not None for side in "ab")


def _cell(row: Mapping[str, Any], name: str, side: str) -> Any:
    value = row.get(f"{name}_{side}")
    if value is None and isinstance(row.get("conv_metadata"), dict) and name in METADATA:
        value = row["conv_metadata"].get(METADATA[name].format(side))
    return value


def count_of(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    pair = []
    for side in "ab":
        value = _cell(row, name, side)
        if value is None:
            raise BadRowError(f"no {name}_{side}, which style control needs")
        parts = list(value.values()) if isinstance(value, dict) else [value]
        number = sum(number_of(part, f"{name}_{side}") for part in parts)
        if number < 0:
            raise BadRowError(f"{name}_{side} {number:g} is below 0")
        pair.append(number)
    return pair[0], pair[1]
