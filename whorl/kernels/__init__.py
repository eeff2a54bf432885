"""Each op once: its reference, its fast versions, their tolerance, and inputs to compare them on.

`attention` is `whorl.kernels.attention.attention`: the module has its name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.kernels.catalogue import KERNELS, Kernel, compare
    from whorl.kernels.cross_entropy import linear_cross_entropy, token_losses
    from whorl.kernels.spec import AttentionSpec

PUBLIC = {
    "AttentionSpec": "spec", "KERNELS": "catalogue", "Kernel": "catalogue", "compare": "catalogue",
    "linear_cross_entropy": "cross_entropy", "token_losses": "cross_entropy",
}  # fmt: skip
__all__ = ["KERNELS", "AttentionSpec", "Kernel", "compare", "linear_cross_entropy", "token_losses"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.kernels.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
