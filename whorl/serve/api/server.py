"""A whole server: workers started, the application behind uvicorn, everything closed at the end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from whorl.base.collector import keep_loaded
from whorl.base.errors import InputError
from whorl.base.posix import end_with_stdin
from whorl.base.progress import say
from whorl.models.place import model_directory
from whorl.serve.api.application import app
from whorl.serve.api.errors import ApiError, error_response
from whorl.serve.api.guards import KeyRing, Linger
from whorl.serve.api.listening import Server, address_of, check_proxying, http_settings, listen
from whorl.serve.api.served import ServedModel, stated_defaults
from whorl.serve.clients import OutOfProcess
from whorl.serve.config import LimitsConfig, ServeConfig
from whorl.serve.engine_config import EngineConfig
from whorl.serve.preparation import Preparers


async def start_models(config: ServeConfig) -> list[ServedModel]:
    """A worker and preparers for every model; those already started are closed where one fails."""
    started: list[ServedModel] = []
    try:
        for number, path in enumerate(config.models):
            name = config.name if number == 0 and config.name else Path(path).resolve().name
            if any(model.name == name for model in started):
                raise InputError(f"two models are called {name}; rename a folder or give --name")
            engine = config.engine if number == 0 else config.engine.model_copy(update={"adapters": {}})
            client, preparers = await _start_processes(path, engine, config.limits)
            defaults = stated_defaults(Path(path))
            started.append(ServedModel(name, client, preparers, defaults, created=int(time.time())))
    except BaseException:
        await close_models(started)
        raise
    return started


async def _start_processes(
    path: str, engine: EngineConfig, limits: LimitsConfig
) -> tuple[OutOfProcess, Preparers]:
    """Both at once; where one fails or is no longer wanted, neither stays."""
    client = asyncio.create_task(OutOfProcess.start(path, engine))
    preparers = asyncio.create_task(
        Preparers.start(path, count=limits.preparers, timeout=limits.prepare_seconds)
    )
    try:
        return await asyncio.gather(client, preparers)
    except BaseException:
        client.cancel()
        preparers.cancel()
        for ended in await asyncio.gather(client, preparers, return_exceptions=True):
            if not isinstance(ended, BaseException):
                await ended.close()
        raise


async def close_models(models: list[ServedModel]) -> None:
    await asyncio.gather(*(part.close() for model in models for part in (model.client, model.preparers)))


def serve(config: ServeConfig, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let what runs end; `ready` is told the address when requests are
    taken. KeyboardInterrupt, when all is closed, where it was SIGINT."""
    check(config)
    keys = KeyRing.read(config)  # once: it may come from a pipe
    if config.end_with_stdin:
        end_with_stdin()
    asyncio.run(_serve(config, keys, ready)).check_interrupted()


def check(config: ServeConfig) -> None:
    """Mistakes that need no model to be seen, before one is loaded."""
    if not config.models:
        raise InputError("give at least one model directory")
    check_proxying(config.trusted_proxy, config.root_path)
    for path in config.models:
        model_directory(path)


class Door:
    """The application, once there is one; until then everybody is told to come back. A port that takes
    connections and says nothing would hold up who asks whether the server is well."""

    def __init__(self) -> None:
        self._behind: ASGIApp = Linger(_starting)

    def open(self, application: ASGIApp) -> None:
        self._behind = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._behind(scope, receive, send)


async def _starting(scope: Scope, receive: Receive, send: Send) -> None:
    message = "the models are still loading; retry shortly"
    error = ApiError(503, message, code="starting", headers={"Retry-After": "1"})
    await error_response(error)(scope, receive, send)


async def _serve(config: ServeConfig, keys: KeyRing, ready: Callable[[str], None] | None) -> Server:
    listener, door = listen(config.host, config.port), Door()
    server = Server(
        http_settings(door, trusted_proxy=config.trusted_proxy, drain_seconds=config.limits.drain_seconds)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loading = asyncio.create_task(start_models(config))
    models: list[ServedModel] = []
    try:
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():  # and not asked to leave before
            models = loading.result()
            door.open(app(models, config, keys))
            keep_loaded()
            _say_address(config, models, listener, ready)
            await serving
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await close_models(models)
        listener.close()
    return server


def _say_address(
    config: ServeConfig,
    models: list[ServedModel],
    listener: socket.socket,
    ready: Callable[[str], None] | None,
) -> None:
    host, address = address_of(listener, config.root_path)
    if not ipaddress.ip_address(host).is_loopback and config.api_key_file is None:
        say(f"{host} is reachable from other machines and no API key is set; see --api-key-file")
    say(f"serving {', '.join(model.name for model in models)} at {address}/v1")
    if ready is not None:
        ready(address)
