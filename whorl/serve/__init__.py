"""The engine that serves a `Decoder` to many at once, and the OpenAI API in front of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.serve.api.application import app
    from whorl.serve.api.server import serve
    from whorl.serve.clients import InProcess, OutOfProcess
    from whorl.serve.config import ServeConfig
    from whorl.serve.engine import Engine
    from whorl.serve.engine_client import EngineClient
    from whorl.serve.engine_config import EngineConfig
    from whorl.serve.requests import EngineEvent, EngineRequest

PUBLIC = {
    "Engine": "engine", "EngineClient": "engine_client", "EngineConfig": "engine_config",
    "EngineEvent": "requests", "EngineRequest": "requests", "InProcess": "clients",
    "OutOfProcess": "clients", "ServeConfig": "config", "app": "api.application", "serve": "api.server",
}  # fmt: skip
__all__ = [
    "Engine", "EngineClient", "EngineConfig", "EngineEvent", "EngineRequest", "InProcess", "OutOfProcess",
    "ServeConfig", "app", "serve",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
