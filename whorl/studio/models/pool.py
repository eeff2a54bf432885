"""The models of a studio: directories served on demand by processes of their own, and servers elsewhere.

A directory starts to be served when someone first asks for it, and stops when `running` others were
asked since. Whether each is well is looked at every few seconds: a dead one says so on the models' page,
is left out of battles, and is tried again when it is next asked. One that is slow is not dead: who is
being answered goes on, whatever is known of the model's health.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from starlette.concurrency import run_in_threadpool

from whorl.base.client import Delta, OpenAIClient
from whorl.base.errors import FaultError, InputError, WhorlError
from whorl.base.nouns import Conversation, SamplingParams
from whorl.base.progress import say
from whorl.evals.serving import is_address, served

State = Literal["idle", "starting", "ready", "down"]
WATCH_SECONDS = 5.0
PATIENCE_SECONDS = 4.0  # for an answer about its health
CONNECT_SECONDS = 30.0  # for an answer about what it serves
MISSES = 2  # unanswered looks, one after the other, after which a model is down
HEARD_SECONDS = 15.0  # since a piece of a reply: a server that is busy answering may be slow to say so


class Listened(OpenAIClient):
    """A client that knows when it last heard of its model: replies show that a server lives."""

    heard = 0.0

    async def chat(
        self, conversation: Conversation, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[Delta, None]:
        async with aclosing(super().chat(conversation, params, **more)) as deltas:
            async for delta in deltas:
                self.heard = time.monotonic()
                yield delta


@dataclass
class PooledModel:
    """A model by its name. `address` is a directory or a server's URL; `served_as` its name there."""

    name: str
    address: str
    served_as: str = ""
    api_key: str = field(default="", repr=False)
    state: State = "idle"
    why: str = ""  # it is down
    barred: bool = False  # for a reason that no further try mends
    card: dict[str, Any] = field(default_factory=dict)  # what its server says of it
    used: float = 0.0
    busy: int = 0  # who is using it, or waits for its start
    answering: int = 0  # who has its client in use
    misses: int = 0
    client: Listened | None = None
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

    def fall(self, why: str) -> None:
        self.state, self.why = "down", why

    def recover(self) -> None:
        self.state, self.why, self.misses = "ready" if self.client is not None else "idle", "", 0


class ModelPool:
    """`open` it once; then `using(name)` gives a client of a model that is there. `met` is told, in a
    thread, of each model whose server has said what it serves."""

    def __init__(self, running: int, met: Callable[[PooledModel], None] = lambda model: None) -> None:
        self._running, self.met = running, met
        self._models: dict[str, PooledModel] = {}
        self._watching: asyncio.Task[None] | None = None

    def add(self, name: str, address: str, *, served_as: str = "", api_key: str = "") -> PooledModel:
        if name in self._models and self._models[name].address != address:
            raise InputError(f"two models are named {name}; rename one")
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
            raise InputError(f"there is no model {name!r}; see the Models page")
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
            # A start goes on when who asked for it has left: cut in its midst it would leave a process.
            client = await asyncio.shield(self.start(model))
            model.answering += 1
            try:
                yield client
            finally:
                model.answering -= 1
        finally:
            model.busy -= 1
            model.used = time.monotonic()

    async def start(self, model: PooledModel) -> OpenAIClient:
        """InputError or FaultError where it cannot be had; the model is down then, and says why. One that
        is answering somebody is never stopped for it."""
        if model.barred:
            raise InputError(model.why)
        async with model.lock:
            if model.client is not None:
                if model.state == "ready" or await self._is_back(model, model.client):
                    return model.client
                if model.answering:
                    raise FaultError(f"{model.name} does not answer at the moment; try again shortly")
            await self._stop(model)
            model.state, model.why, model.misses = "starting", "", 0
            try:
                client = await self._open(model)
            except BaseException as error:  # whatever it was: what began is ended, and the state is told
                await self._stop(model)
                told = str(error) if isinstance(error, WhorlError) else f"its start failed ({error!r})"
                model.fall(told)
                raise
            model.state = "ready"
            return client

    async def _open(self, model: PooledModel) -> OpenAIClient:
        if model.is_directory:
            await self._make_room(model)
            model.stack = ExitStack()
            address = await run_in_threadpool(model.stack.enter_context, served(model.address))
        else:
            address = model.address
        model.client = Listened(address, model=model.served_as, api_key=model.api_key)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                model.card = await model.client.connect()
        except TimeoutError:
            raise FaultError(f"{address} has not answered for {CONNECT_SECONDS:g} s") from None
        if not model.is_directory:
            model.served_as = model.client.model
            await run_in_threadpool(self.met, model)
        return model.client

    @staticmethod
    async def _is_back(model: PooledModel, client: OpenAIClient) -> bool:
        """Whether one that was down answers again, after all."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                model.card = await client.connect()
        except (WhorlError, TimeoutError):
            return False
        model.recover()
        return True

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

    # -- health --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http:
            while True:
                # Of a directory that is not served there is nothing to look at.
                looked_at = [one for one in self.all() if one.client is not None or not one.is_directory]
                looked_at = [one for one in looked_at if not one.barred]
                await asyncio.gather(*(self._look(http, model) for model in looked_at))
                await asyncio.sleep(WATCH_SECONDS)

    async def _look(self, http: httpx.AsyncClient, model: PooledModel) -> None:
        client = model.client
        try:
            why, certain = await self._ask(http, model)
        except Exception as error:  # noqa: BLE001  a fault boundary: one model must not end the watch over all
            if not model.why:
                say(f"the health of {model.name} could not be checked: {error!r}")
            why, certain = model.why or f"it cannot be reached ({type(error).__name__})", True
        if model.state == "starting" or model.client is not client:
            return  # someone was at it meanwhile
        if not why:
            if model.state in ("idle", "down"):
                model.recover()
            model.misses = 0
            return
        model.misses += 1
        alive = client is not None and model.answering > 0 and _since(client.heard) < HEARD_SECONDS
        if certain or (model.misses >= MISSES and not alive):
            model.fall(why)
        if certain and model.stack is not None and not model.answering and not model.lock.locked():
            async with model.lock:
                await self._stop(model)  # its process has ended: it is seen off

    @staticmethod
    async def _ask(http: httpx.AsyncClient, model: PooledModel) -> tuple[str, bool]:
        """Why it is not well, "" where it is; and whether that is certain, or may be no more than haste."""
        url = (model.client.url if model.client is not None else model.address).rstrip("/")
        # Every server of this protocol has /v1/models; ours tells by /health too whether it can answer.
        url = f"{url}/health" if model.is_directory else f"{url.removesuffix('/v1')}/v1/models"
        key = {"Authorization": f"Bearer {model.api_key}"} if model.api_key else {}
        try:
            answer = await http.get(url, headers=key)
        except httpx.ConnectError as error:
            ended = "its process has ended" if model.stack is not None else "its server does not answer"
            return f"{ended} ({type(error).__name__})", True
        except httpx.TransportError as error:
            return f"its server does not answer ({type(error).__name__})", False
        return ("" if answer.is_success else f"its server answers {answer.status_code}"), False


def _since(when: float) -> float:
    return time.monotonic() - when
