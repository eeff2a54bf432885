"""Several processes as one: the group, what wraps a model, and starting torchrun."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.parallel.group import Group
    from whorl.parallel.wrap import gradient_sync, wrap

PUBLIC = {"Group": "group", "gradient_sync": "wrap", "wrap": "wrap"}
__all__ = ["Group", "gradient_sync", "wrap"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.parallel.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
