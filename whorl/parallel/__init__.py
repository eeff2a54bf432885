"""Several processes as one: the group, what wraps a model, and starting torchrun.

`launch` and `wrap` are named as their modules are, which Python would put in their place here: import
them from `whorl.parallel.launch` and `whorl.parallel.wrap`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.parallel.group import Group
    from whorl.parallel.launch import EXIT_RESUME
    from whorl.parallel.wrap import gather_state, gradient_sync

PUBLIC = {"EXIT_RESUME": "launch", "Group": "group", "gather_state": "wrap", "gradient_sync": "wrap"}
__all__ = ["EXIT_RESUME", "Group", "gather_state", "gradient_sync"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.parallel.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
