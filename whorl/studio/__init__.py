"""The web over all of it: chat, arena, leaderboard, runs, data, models.

    whorl studio [--workspace DIR] [--model [NAME=]DIR|ADDRESS[#SERVED] …]

Pages are standards alone: templates rendered here, ES modules and CSS as they lie in `static/`; there
is nothing to build and nothing is fetched from elsewhere. Models run in processes of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.studio.application import app
    from whorl.studio.config import StudioConfig
    from whorl.studio.server import run_studio

# What is public, and the module each lives in.
PUBLIC = {
    "StudioConfig": "whorl.studio.config",
    "app": "whorl.studio.application",
    "run_studio": "whorl.studio.server",
}
__all__ = ["StudioConfig", "app", "run_studio"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
