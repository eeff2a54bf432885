"""The one decoder, its families, weights, adapters and the reference `generate`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.models.config import ModelConfig, RopeConfig, VisionConfig
    from whorl.models.context import Context, Packed, PackedContext
    from whorl.models.decoder import Decoder, Projection
    from whorl.models.vision import Images

PUBLIC = {
    "Context": "context", "Decoder": "decoder", "Images": "vision", "ModelConfig": "config", "Packed": "context",
    "PackedContext": "context", "Projection": "decoder", "RopeConfig": "config", "VisionConfig": "config",
}  # fmt: skip
__all__ = [
    "Context", "Decoder", "Images", "ModelConfig", "Packed", "PackedContext", "Projection", "RopeConfig", "VisionConfig",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.models.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
