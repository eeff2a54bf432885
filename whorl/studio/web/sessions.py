"""Who is asking: a signed cookie, and the key in the address that the terminal shows.

The cookie says person, end and stamp, and carries an HMAC-SHA-256 of them with a secret kept in the
workspace, so that a restart signs nobody out. The stamp is a digest of the person's token: a new token
ends the sessions that the old one opened.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from whorl.arena.store import Person, Store
from whorl.base.errors import InputError

COOKIE = "whorl_session"
SECRET_BYTES = 32
REMEMBERED_SECONDS = 5.0  # how long a person read from the store is believed


class Sessions:
    """Signs people in and recognises them. `key` is good for the first admin while this process lives."""

    def __init__(self, store: Store, secret_file: Path, days: int) -> None:
        self._store, self._seconds = store, days * 86400
        self._secret = read_secret(secret_file)
        self._known: dict[int, tuple[float, Person | None]] = {}
        self.key = secrets.token_urlsafe(24)

    def open(self, request: Request, response: Response, person: Person) -> None:
        """Put the cookie into the response. It is Secure where the page came by HTTPS."""
        held = f"{person.id}.{int(time.time()) + self._seconds}.{person.stamp}"
        response.set_cookie(
            COOKIE, f"{held}.{self._sign(held)}", max_age=self._seconds, path=cookie_path(request),
            httponly=True, samesite="lax", secure=request.url.scheme == "https",
        )  # fmt: skip

    def close(self, request: Request, response: Response) -> None:
        response.delete_cookie(COOKIE, path=cookie_path(request))

    def person(self, request: Request) -> Person | None:
        """Who the cookie says is asking; None without one, and for one that is forged, old or ended."""
        held, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        if not held or not hmac.compare_digest(signature.encode(), self._sign(held).encode()):
            return None
        number, ends, stamp = held.split(".")  # we wrote it: the signature says so
        if int(ends) < time.time():
            return None
        person = self._find(int(number))
        return person if person is not None and person.stamp == stamp else None

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
        raise InputError(f"{file} does not hold {SECRET_BYTES} bytes; remove it, and all sign in anew")
    return secret


def cookie_path(request: Request) -> str:
    return str(request.scope.get("root_path") or "/")
