"""A whole server: workers started, the application behind uvicorn, everything closed at the end."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from whorl.base.errors import InputError
from whorl.base.posix import end_with_stdin
from whorl.base.progress import say
from whorl.serve.api.application import app
from whorl.serve.api.listening import address_of, check_proxying, http_settings, listen
from whorl.serve.api.served import ServedModel, stated_defaults
from whorl.serve.clients import OutOfProcess
from whorl.serve.config import ServeConfig
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
            client = await OutOfProcess.start(path, engine)
            try:
                limits = config.limits
                preparers = await Preparers.start(
                    path, count=limits.preparers, timeout=limits.prepare_seconds
                )
            except BaseException:
                await client.close()
                raise
            defaults = stated_defaults(Path(path))
            started.append(ServedModel(name, client, preparers, defaults, created=int(time.time())))
    except BaseException:
        await close_models(started)
        raise
    return started


async def close_models(models: list[ServedModel]) -> None:
    for model in models:
        await model.client.close()
        await model.preparers.close()


def serve(config: ServeConfig, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the address when requests are taken."""
    check(config)
    if config.end_with_stdin:
        end_with_stdin()
    asyncio.run(_serve(config, ready))


def check(config: ServeConfig) -> None:
    """Mistakes that need no model to be seen, before one is loaded."""
    if not config.models:
        raise InputError("give at least one model directory")
    check_proxying(config.trusted_proxy, config.root_path)


async def _serve(config: ServeConfig, ready: Callable[[str], None] | None) -> None:
    listener = listen(config.host, config.port)
    models = await start_models(config)
    try:
        host, address = address_of(listener, config.root_path)
        if not ipaddress.ip_address(host).is_loopback and config.api_key_file is None:
            say(f"{host} can be reached from outside and no key is set; see --api-key-file")
        say(f"serving {', '.join(model.name for model in models)} at {address}/v1")
        if ready is not None:
            ready(address)
        settings = http_settings(
            app(models, config), trusted_proxy=config.trusted_proxy, drain_seconds=config.limits.drain_seconds
        )
        await uvicorn.Server(settings).serve(sockets=[listener])
    finally:
        await close_models(models)
        listener.close()
