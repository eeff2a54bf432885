"""Files of keys, alike for whoever asks for a key and whoever sends one."""

from __future__ import annotations

from pathlib import Path

from whorl.base.errors import InputError


def read_keys(path: str | None, option: str) -> tuple[str, ...]:
    """The keys in the file that `option` names: one a line; empty lines and lines that begin with # are left
    out. None where no file is given; InputError where it cannot be read or has no key."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {path} cannot be read: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise InputError(f"{option} {path} holds no key; write one a line")
    return keys


def read_key(path: str | None, option: str) -> str:
    """The first key of such a file; "" where no file is given."""
    return next(iter(read_keys(path, option)), "")
