"""Heads of the chain, noted beside the store: so a tail that was cut is found without being asked for.

One JSON line a head: `{"seq": 12, "hash": "…", "time": …}`. Beside an SQLite file it is `NAME.heads`; for a
PostgreSQL database it lies in the workspace. Who may write the store may write this too, so it finds what
went wrong and who did not know of it; against the rest a head is written down elsewhere (`--head`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from whorl.arena.store.database import Database
from whorl.arena.store.records import Head
from whorl.base.errors import DataError, InputError
from whorl.base.progress import say


class HeadNotes:
    """The heads that were noted of one store. `path` is None where there is no place for them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._last: Head | None = None

    @classmethod
    def of(cls, database: Database, workspace: Path, *, known: bool = False) -> HeadNotes:
        """`workspace` is the folder `arena` in it: for a PostgreSQL database, where there is a workspace, or
        where it is `known` to be one. A command that looks into a database from just any folder leaves
        nothing there."""
        if database.path is not None:
            return cls(database.path.with_name(f"{database.path.name}.heads"))
        known = known or workspace.is_dir() or (workspace.parent / "studio").is_dir()
        if not known and not os.environ.get("WHORL_WORKSPACE"):
            return cls(None)
        url = database.url.set(username=None, password=None).render_as_string()
        return cls(workspace / f"postgresql-{hashlib.sha256(url.encode()).hexdigest()[:12]}.heads")

    def read(self) -> list[Head]:
        """All of them, oldest first; a torn last line is left out."""
        if self.path is None or not self.path.is_file():
            return []
        found = []
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
                found.append(Head.parse(f"{record['seq']}:{record['hash']}"))
            except (ValueError, KeyError, TypeError, InputError) as error:
                raise DataError(
                    f"{self.path}:{number} is not a valid head; move the file away if you changed it"
                ) from error
        return found

    def add(self, head: Head) -> None:
        """Note a head that is on disk. A folder that may not be written gets none: reading goes on."""
        if self.path is None or head.seq == 0 or head == self._last:
            return
        try:
            line = json.dumps({"seq": head.seq, "hash": head.hash, "time": time.time()}) + "\n"
            self.path.parent.mkdir(exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                last = self._last_line()
                if f'"{head.hash}"' not in last:
                    torn = "\n" if last and not last.endswith("\n") else ""
                    os.write(file, (torn + line).encode("ascii"))
                    os.fsync(file)
            finally:
                os.close(file)
        except OSError:
            return
        self._last = head

    def _last_line(self) -> str:
        """As far as it was written: a kill may have torn it off."""
        assert self.path is not None  # else there is nothing to write to
        with open(self.path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            lines = file.read().decode("ascii", "replace").splitlines(keepends=True)
        return lines[-1] if lines else ""

    def set_aside(self) -> None:
        """Begin anew with a new store: what was noted of the one before goes under another name."""
        if self.path is None or not self.path.is_file():
            return
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(old)
        self._last = None
        say(f"there was a store here before; its noted heads are now in {old}")
