"""Where a model is: a directory of this machine or a server's address, in one form, and what it is called."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from whorl.base.errors import InputError
from whorl.evals.serving import is_address
from whorl.studio.models.discovery import is_model, way_of


@dataclass(frozen=True)
class Wanted:
    """A model as the command line names it: NAME=DIR, NAME=ADDRESS, ADDRESS#SERVED, or a place alone."""

    place: str
    name: str = ""
    served_as: str = ""


def read_wanted(word: str, workspace: Path) -> Wanted:
    """InputError for what is neither a directory's path nor a server's address."""
    name, sign, rest = word.partition("=")
    if not (sign and name and rest) or "/" in name:  # an address or a path may have a "=" of its own
        name, rest = "", word
    address, _, served_as = rest.partition("#") if is_address(rest) else (rest, "", "")
    return Wanted(find_place(address, workspace), name.strip(), served_as)


def find_place(address: str, workspace: Path) -> str:
    """The one form of a place that is compared and kept. A relative path begins at the current directory,
    and where no model is there, at the workspace."""
    if is_address(address):
        return _address(address)
    if "://" in address:
        raise InputError(f"{address} is not a server URL (must start with http:// or https://)")
    try:
        folder = Path(address).expanduser()
        if not folder.is_absolute() and not is_model(folder) and is_model(workspace / folder):
            folder = workspace / folder
        return str(folder.resolve())
    except (ValueError, RuntimeError, OSError) as error:  # a NUL in it, no such user, a loop of links
        raise InputError(f"{address!r} is not a path: {error}") from error


def _address(address: str) -> str:
    import httpx

    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise InputError(f"{address!r} is not a server URL: {error}") from error
    if not url.host or "%" in url.host or (url.port or 0) > 65535:
        raise InputError(f"{address!r} is not a server URL; write http://HOST:PORT")
    if url.query or url.fragment:
        raise InputError(f"{address!r} is more than a server URL; write it without ? and #")
    return address.rstrip("/").removesuffix("/v1").rstrip("/")


def check_key(key: str) -> str:
    """A key that can stand in a request's header."""
    if not key.isascii() or not key.isprintable():
        raise InputError("the server's key has invalid characters; copy it again")
    return key


def default_name(place: str, workspace: Path, served_as: str = "") -> str:
    """What a model is called when nobody says: a server's by what it serves, else by its host; a directory
    by its run, as it is when the workspace is looked through."""
    if is_address(place):
        return served_as or place.partition("://")[2]
    folder = Path(place)
    return way_of(folder, workspace) or (folder.parent.name if folder.name == "model" else folder.name)


def free_name(name: str, taken: Container[str]) -> str:
    """The name, or with a number behind where it is another model's."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in taken)


def check_model(place: str) -> None:
    if not is_address(place) and not is_model(Path(place)):
        raise InputError(f"{place} contains no model: it needs config.json, tokenizer.json, *.safetensors")
