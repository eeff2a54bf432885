"""The whole loop on one machine: `quickstart(QuickstartConfig())`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.quickstart.config import QuickstartConfig
    from whorl.quickstart.main import quickstart

PUBLIC = {"QuickstartConfig": "config", "quickstart": "main"}
__all__ = ["QuickstartConfig", "quickstart"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.quickstart.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
