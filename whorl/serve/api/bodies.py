"""What no field of a body may hold, found once before any field is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, model_validator

from whorl.serve.api.errors import ApiError

MAX_DEPTH = 100  # of objects and lists in each other; a JSON schema may have 64 of its own
MAX_VALUES = 200_000  # in objects and lists, token ids left out: some tenths of a second to look at
SMALLEST, LARGEST = -(2**63), 2**63 - 1
# A place in a body: the place it is in, and the key or number there.
Place = tuple["Place | None", str | int]


class Body(BaseModel):
    """The base of every request's body."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        check_json(value)
        return value


def check_json(body: Any) -> None:
    """ApiError, with the field, for what JSON can spell and nothing behind it takes: half of a surrogate
    pair, which no UTF-8 has, whole numbers over 64 bits, infinities, bottomless nesting and countless
    values: this runs where every request waits for it."""
    stack: list[tuple[Any, Place | None, int]] = [(body, None, 1)]
    seen = 0
    while stack:
        value, place, depth = stack.pop()
        if _are_ids(value):
            continue
        seen += len(value) if isinstance(value, dict | list) else 0
        if seen > MAX_VALUES:
            raise ApiError(400, f"the body has more than {MAX_VALUES} values; send fewer")
        if depth > MAX_DEPTH:
            raise _refused(place, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        for key, one in _items(value):
            problem = _problem(key) or _problem(one)
            if problem:
                raise _refused((place, key), problem)
            if isinstance(one, dict | list):
                stack.append((one, (place, key), depth + 1))


def _are_ids(value: Any) -> bool:
    """Whether this is a list of fair whole numbers, seen at the speed of the library: prompts are."""
    return (
        isinstance(value, list)
        and set(map(type, value)) == {int}
        and min(value) >= SMALLEST
        and max(value) <= LARGEST
    )


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _problem(value: Any) -> str:
    if isinstance(value, int):
        return "" if SMALLEST <= value <= LARGEST else "a whole number has at most 64 bits"
    if isinstance(value, str):
        return "" if value.isascii() or _is_text(value) else "half of a surrogate pair is not a character"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "a number must be finite"
    return ""


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(place: Place | None, problem: str) -> ApiError:
    keys: list[str | int] = []
    while place is not None:
        place, key = place
        keys.append(key)
    keys.reverse()
    words = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys]
    # A key may be the one with the half pair in it, or as long as the body.
    shown = "".join(words).lstrip(".").encode("ascii", "backslashreplace").decode()
    named = str(keys[0]).encode("ascii", "backslashreplace").decode()[:64] if keys else None
    return ApiError(400, f"{shown[:200] or 'body'}: {problem}", param=named)
