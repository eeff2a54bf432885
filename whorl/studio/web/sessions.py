"""Who is asking: a signed cookie, and the key in the address that the terminal shows.

The cookie says person, end and mark, and carries an HMAC-SHA-256 of them with a secret kept in the
workspace, so that a restart signs nobody out. The mark is a digest of the person's token, so that a new
token ends the sessions that the old one opened, and the session's own number: one that was signed out of
is written down until it would have ended by itself, and a copy of its cookie is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from whorl.arena.store import Person, Store
from whorl.arena.store.people import ERASED_NAME
from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, write_json

COOKIE = "whorl_session"
SECRET_BYTES = 32
REMEMBERED_SECONDS = 5.0  # how long a person read from the store is believed


class _Held(NamedTuple):
    """What a cookie says."""

    person: int
    ends: int
    mark: str


class Sessions:
    """Signs people in and recognises them. `key` is good for the first admin while this process lives."""

    def __init__(self, store: Store, secret_file: Path, days: int) -> None:
        self._store, self._seconds = store, days * 86400
        self._secret = read_secret(secret_file)
        self._left = LeftSessions(secret_file.with_name("signed_out.json"))
        self._known: dict[int, tuple[float, Person | None]] = {}
        self.key = secrets.token_urlsafe(24)

    def open(self, request: Request, response: Response, person: Person) -> None:
        """Put the cookie into the response. It is Secure where the page came by HTTPS."""
        mark = f"{person.stamp}-{secrets.token_hex(8)}"
        held = f"{person.id}.{int(time.time()) + self._seconds}.{mark}"
        response.set_cookie(
            COOKIE, f"{held}.{self._sign(held)}", max_age=self._seconds, path=cookie_path(request),
            httponly=True, samesite="lax", secure=request.url.scheme == "https",
        )  # fmt: skip

    def close(self, request: Request, response: Response) -> None:
        """End this session, here and wherever else its cookie is. Writes a file: call it from a thread."""
        if (found := self._read(request)) is not None:
            self._left.add(found.mark, found.ends)
        response.delete_cookie(COOKIE, path=cookie_path(request))

    def person(self, request: Request) -> Person | None:
        """Who the cookie says is asking; None without one, and for one that is forged, old or ended."""
        found = self._read(request)
        if found is None or found.ends < time.time() or found.mark in self._left:
            return None
        person = self._find(found.person)
        stamp, dash, _ = found.mark.partition("-")
        if person is None or not dash or person.stamp != stamp or is_removed(person):
            return None
        return person

    def _read(self, request: Request) -> _Held | None:
        held, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        if not held or not hmac.compare_digest(signature.encode(), self._sign(held).encode()):
            return None
        number, ends, mark = held.split(".")  # we wrote it: the signature says so
        return _Held(int(number), int(ends), mark)

    def number(self, purpose: str) -> int:
        """A number that is this workspace's for good and that nobody can guess."""
        digest = hmac.new(self._secret, purpose.encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:7], "big")

    def forget(self, person: int) -> None:
        """What is kept of a person is read again: role or token have changed."""
        self._known.pop(person, None)

    def admin(self) -> Person:
        """The first admin, made with the name of this machine's user where there is none."""
        found = next((person for person in self._store.people() if person.role == "admin"), None)
        if found is not None:
            return self._store.person(found.id) or found
        name = os.environ.get("USER") or os.environ.get("USERNAME") or "admin"
        if any(person.name == name for person in self._store.people()):
            name = f"{name} (admin)"
        made = self._store.add_person(name, role="admin")
        return self._store.person(made.id) or made

    def fits(self, key: str) -> bool:
        return hmac.compare_digest(key.encode("utf-8", "replace"), self.key.encode())

    def _find(self, number: int) -> Person | None:
        when, person = self._known.get(number, (0.0, None))
        if time.monotonic() - when > REMEMBERED_SECONDS or not when:
            person = self._store.person(number)
            self._known[number] = (time.monotonic(), person)
        return person

    def _sign(self, held: str) -> str:
        return hmac.new(self._secret, held.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class LeftSessions:
    """Sessions that were signed out of, kept until they would have ended."""

    def __init__(self, file: Path) -> None:
        self._file, self._guard = file, threading.Lock()
        self._ends: dict[str, int] = {}
        try:
            if file.is_file():
                self._ends = {str(mark): int(ends) for mark, ends in read_json(file)["ended"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file} is not a list of sessions ({error}); remove it") from error

    def __contains__(self, mark: str) -> bool:
        return mark in self._ends

    def add(self, mark: str, ends: int) -> None:
        with self._guard:
            now = time.time()
            self._ends = {one: end for one, end in self._ends.items() if end > now} | {mark: ends}
            write_json(self._file, {"format": 1, "ended": self._ends})


def is_removed(person: Person) -> bool:
    """Whether the name is the one that an erasure leaves."""
    return person.name == ERASED_NAME.format(person.id)


def read_secret(file: Path) -> bytes:
    """The secret in `file`, made there, for this user's eyes alone, when it is missing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as made:
            made.write(secrets.token_bytes(SECRET_BYTES))
            made.flush()
            os.fsync(made.fileno())
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); give another --workspace") from error
    secret = file.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise InputError(f"{file} is not {SECRET_BYTES} bytes long; delete it (everyone must sign in again)")
    return secret


def cookie_path(request: Request) -> str:
    return str(request.scope.get("root_path") or "/")
