"""Battles as a csv file that `read_battles` reads back."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from whorl.arena.battles import WINNERS, Battles, Labels
from whorl.base.files import atomic_write


def write_battles(battles: Battles, path: str | Path) -> None:
    """One row a battle; columns that hold nothing are left out."""
    columns: dict[str, list[Any]] = {
        "model_a": [battles.models[place] for place in battles.a],
        "model_b": [battles.models[place] for place in battles.b],
        "winner": [WINNERS[code] for code in battles.winner],
    }
    for name, numbers in (("time", battles.time), ("probability", battles.probability)):
        columns[name] = ["" if math.isnan(value) else repr(float(value)) for value in numbers]
    for name, labels in (
        ("voter", battles.voter),
        ("category", battles.category),
        ("prompt", battles.prompt),
    ):
        columns[name] = _words(labels)
    for place, name in enumerate(battles.style_names):
        for side, letter in enumerate("ab"):
            columns[f"{name}_{letter}"] = [f"{value:.15g}" for value in battles.style[:, place, side]]
    used = {name: column for name, column in columns.items() if any(value != "" for value in column)}
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(used)
        writer.writerows(zip(*used.values(), strict=True))


def _words(labels: Labels) -> list[str]:
    names = (*labels.names, "")  # -1 is none: the last
    return [names[code] for code in labels.codes]
