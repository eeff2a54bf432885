"""Where a model is asked that a command names: a directory, served meanwhile, or a server's URL."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whorl.base.errors import InputError
from whorl.base.keys import read_key

if TYPE_CHECKING:
    from whorl.base.client import OpenAIClient


@dataclass(frozen=True, kw_only=True)
class Place:
    """`where` is a directory or a URL; `served` the name on that server, "" for the first it serves. The key
    goes to this server and to no other."""

    word: str  # as it was typed
    where: str
    served: str = ""
    key: str = ""

    @classmethod
    def of(cls, word: str, *, name: str = "", key_file: str | None = None, option: str = "") -> Place:
        """URL#SERVED picks one of several that a server serves; so does `name`."""
        where, _, served = word.partition("#") if is_url(word) else (word, "", "")
        return cls(word=word, where=where, served=served or name, key=read_key(key_file, option))

    async def check(self) -> None:
        """See that it is there, before anything is asked of another one. InputError, FaultError where not."""
        if is_url(self.where):
            async with self._client(self.where) as client:
                await client.connect()
        elif not (Path(self.where) / "config.json").is_file():
            raise InputError(
                f"{self.where} is not a model directory: it has no config.json; give one that has,"
                " or a server's URL"
            )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenAIClient]:
        """A client of it; a directory is served for the time."""
        from whorl.evals.serving import served

        async with AsyncExitStack() as stack:
            address = self.where if is_url(self.where) else stack.enter_context(served(self.where))
            client = await stack.enter_async_context(self._client(address))
            await client.connect()
            yield client

    def _client(self, address: str) -> OpenAIClient:
        from whorl.base.client import OpenAIClient

        return OpenAIClient(address, model=self.served, api_key=self.key if is_url(self.where) else "")


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def check_writable(path: str | None, option: str) -> None:
    """That a file can be written there: before hours of work, not after."""
    if path is None:
        return
    place = Path(path)
    if place.is_dir():
        raise InputError(f"{option} {path} is a folder; give a file in it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from error
