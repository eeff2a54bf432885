"""Models that joined from a page or the command line, kept beside the studio's secret.

Their servers' keys are in it: the folder is for this user's eyes alone, and no page shows a key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from whorl.base.errors import DataError
from whorl.base.files import read_json, write_json


@dataclass(frozen=True)
class Joined:
    name: str
    address: str
    served_as: str = ""
    api_key: str = field(default="", repr=False)


class JoinedModels:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._held = {one.name: one for one in _read(file)}

    def all(self) -> list[Joined]:
        return list(self._held.values())

    def keep(self, name: str, address: str, *, served_as: str, api_key: str) -> None:
        self._held[name] = Joined(name, address, served_as, api_key)
        self._write()

    def drop(self, name: str) -> None:
        if self._held.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        write_json(self._file, {"format": 1, "models": [asdict(one) for one in self._held.values()]})


def _read(file: Path) -> list[Joined]:
    if not file.is_file():
        return []
    held = read_json(file)
    try:
        return [Joined(**one) for one in held["models"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is not a list of models ({error}); mend it or remove it") from error
