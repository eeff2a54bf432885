"""The models of a studio: directories served on demand by processes of their own, and servers elsewhere.

A directory starts to be served when someone first asks for it, and stops when `running` others were
asked since. Whether each is well is looked at every few seconds: a dead one says so on the models' page,
is left out of battles, and is tried again when it is next asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from starlette.concurrency import run_in_threadpool

from whorl.base.client import OpenAIClient
from whorl.base.errors import FaultError, InputError, WhorlError
from whorl.evals.serving import is_address, served

State = Literal["idle", "starting", "ready", "down"]
WATCH_SECONDS = 5.0
PATIENCE_SECONDS = 4.0  # for an answer about its health


@dataclass
class PooledModel:
    """A model by its name. `address` is a directory or a server's URL; `served_as` its name there."""

    name: str
    address: str
    served_as: str = ""
    api_key: str = field(default="", repr=False)
    state: State = "idle"
    why: str = ""  # it is down
    card: dict[str, Any] = field(default_factory=dict)  # what its server says of it
    used: float = 0.0
    busy: int = 0
    client: OpenAIClient | None = None
    stack: ExitStack | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_directory(self) -> bool:
        return not is_address(self.address)

    @property
    def images(self) -> bool:
        """Whether it sees images, as far as is known: servers other than ours do not tell."""
        if not self.card and self.is_directory:
            return (Path(self.address) / "preprocessor_config.json").is_file()
        return bool(self.card.get("images", not self.is_directory))


class ModelPool:
    """`open` it once; then `using(name)` gives a client of a model that is there."""

    def __init__(self, running: int) -> None:
        self._running = running
        self._models: dict[str, PooledModel] = {}
        self._watching: asyncio.Task[None] | None = None

    def add(self, name: str, address: str, *, served_as: str = "", api_key: str = "") -> PooledModel:
        if name in self._models and self._models[name].address != address:
            raise InputError(f"two models are called {name}; give one another name")
        model = self._models.get(name) or PooledModel(name, address, served_as, api_key)
        model.served_as, model.api_key = served_as or model.served_as, api_key or model.api_key
        self._models[name] = model
        return model

    def names(self) -> list[str]:
        return list(self._models)

    def all(self) -> list[PooledModel]:
        return list(self._models.values())

    def find(self, name: str) -> PooledModel:
        if name not in self._models:
            raise InputError(f"there is no model {name!r}; see the models' page")
        return self._models[name]

    def well(self) -> list[str]:
        """The names that may be put into a battle: all but those known to be down."""
        return [model.name for model in self._models.values() if model.state != "down"]

    def watch(self) -> None:
        """Begin to look after the models' health; needs a running event loop."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(self._stop(model) for model in self._models.values()))

    async def remove(self, name: str) -> None:
        model = self.find(name)
        del self._models[name]
        await self._stop(model)

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[OpenAIClient]:
        """A client of the model, started where it is not; it is not stopped meanwhile."""
        model = self.find(name)
        model.busy += 1
        model.used = time.monotonic()
        try:
            yield await self.start(model)
        finally:
            model.busy -= 1
            model.used = time.monotonic()

    async def start(self, model: PooledModel) -> OpenAIClient:
        """InputError or FaultError where it cannot be had; the model is down then, and says why."""
        async with model.lock:
            if model.client is not None and model.state == "ready":
                return model.client
            await self._stop(model)
            model.state, model.why = "starting", ""
            try:
                if model.is_directory:
                    await self._make_room(model)
                    model.stack = ExitStack()
                    address = await run_in_threadpool(model.stack.enter_context, served(model.address))
                else:
                    address = model.address
                model.client = OpenAIClient(address, model=model.served_as, api_key=model.api_key)
                model.card = await model.client.connect()
            except WhorlError as error:
                await self._stop(model)
                model.state, model.why = "down", str(error)
                raise
            model.state = "ready"
            return model.client

    async def _make_room(self, wanted: PooledModel) -> None:
        """Stop the directories that nobody has asked for the longest."""
        idle = [one for one in self._models.values() if one.stack is not None and one is not wanted]
        spare = sorted((one for one in idle if not one.busy), key=lambda one: one.used)
        for model in spare[: max(0, len(idle) - self._running + 1)]:
            await self._stop(model)

    async def _stop(self, model: PooledModel) -> None:
        client, model.client = model.client, None
        stack, model.stack = model.stack, None
        model.state = "idle" if model.state != "down" else "down"
        if client is not None:
            await client.close()
        if stack is not None:
            await run_in_threadpool(stack.close)

    async def _watch(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http:
            while True:
                looked_at = [one for one in self._models.values() if self._worth_a_look(one)]
                await asyncio.gather(*(self._look(http, model) for model in looked_at))
                await asyncio.sleep(WATCH_SECONDS)

    @staticmethod
    def _worth_a_look(model: PooledModel) -> bool:
        """A directory that is not served has no health to look at."""
        return model.state == "ready" or (not model.is_directory and model.state in ("idle", "down"))

    async def _look(self, http: httpx.AsyncClient, model: PooledModel) -> None:
        url = model.client.url if model.client is not None else model.address
        url = url.rstrip("/").removesuffix("/v1")
        key = {"Authorization": f"Bearer {model.api_key}"} if model.api_key else {}
        try:
            # Every server of this protocol has /v1/models; ours tells by /health too whether it can answer.
            answer = await http.get(
                f"{url}/health" if model.is_directory else f"{url}/v1/models", headers=key
            )
            why = "" if answer.is_success else f"its server answers {answer.status_code}"
        except httpx.HTTPError as error:
            why = f"its server does not answer ({type(error).__name__})"
        if model.state == "starting":
            return  # someone is at it already
        if why:
            model.state, model.why = "down", why
        elif model.state in ("idle", "down") and not model.is_directory:
            model.state, model.why = "ready" if model.client is not None else "idle", ""


def fault(error: BaseException) -> str:
    """What to tell a person of a model's failure; raises what is none."""
    if isinstance(error, InputError | FaultError):
        return str(error)
    raise error
