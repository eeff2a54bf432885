"""Models that joined from a page or the command line, kept beside the studio's secret.

Their servers' keys are in it: the folder is for this user's eyes alone, and no page shows a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError
from whorl.base.files import read_json, write_json

FIELDS = ("name", "address", "served_as", "api_key")


@dataclass(frozen=True)
class Joined:
    name: str
    address: str
    served_as: str = ""
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Broken:
    """An entry that is none. It stays in the file as it is until its card leaves the studio."""

    name: str
    why: str
    entry: Any = field(repr=False)


class JoinedModels:
    def __init__(self, file: Path) -> None:
        self.file = file
        self._held = _read(file)

    def all(self) -> list[Joined | Broken]:
        return list(self._held)

    def keep(self, name: str, address: str, *, served_as: str, api_key: str) -> None:
        self._held = [one for one in self._held if one.name != name]
        self._held.append(Joined(name, address, served_as, api_key))
        self._write()

    def drop(self, gone: Callable[[Joined | Broken], bool]) -> None:
        left = [one for one in self._held if not gone(one)]
        if len(left) < len(self._held):
            self._held = left
            self._write()

    def _write(self) -> None:
        models = [asdict(one) if isinstance(one, Joined) else one.entry for one in self._held]
        write_json(self.file, {"format": 1, "models": models})


def _read(file: Path) -> list[Joined | Broken]:
    if not file.is_file():
        return []
    held = read_json(file)
    entries = held.get("models") if isinstance(held, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{file} is not a list of models; fix or delete it")
    found: dict[str, Joined | Broken] = {}
    for number, entry in enumerate(entries, start=1):
        one = _one(entry, number, file)
        found[one.name] = one  # the later one of a name is the newer
    return list(found.values())


def _one(entry: Any, number: int, file: Path) -> Joined | Broken:
    where = f"entry {number}"
    if not isinstance(entry, dict):
        return Broken(where, f"{where} of {file} is not a model", entry)
    name = entry.get("name")
    called = name if isinstance(name, str) and name else where
    if unknown := [key for key in entry if key not in FIELDS]:
        return Broken(called, f"{where} of {file} has an unknown field {unknown[0]}", entry)
    for key in FIELDS:
        value = entry.get(key, "")
        if not isinstance(value, str) or (key in ("name", "address") and not value):
            return Broken(called, f"{where} of {file} has no {key} that can be read", entry)
    return Joined(**entry)
