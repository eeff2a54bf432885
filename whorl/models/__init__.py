"""The one decoder, its families, weights, adapters and the reference `generate`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.models.config import ModelConfig, RopeConfig, VisionConfig
    from whorl.models.context import Context, Packed, PackedContext
    from whorl.models.decoder import Decoder, Projection
    from whorl.models.generate import Generated
    from whorl.models.directory import load, model_directory, read_config, save, save_state
    from whorl.models.vision import Images
    from whorl.models.weights import weight_manifest, weight_version

PUBLIC = {
    "Context": "context", "Decoder": "decoder", "Generated": "generate", "Images": "vision",
    "ModelConfig": "config", "Packed": "context", "PackedContext": "context", "Projection": "decoder",
    "RopeConfig": "config", "VisionConfig": "config",
    "load": "directory", "model_directory": "directory", "read_config": "directory",
    "save": "directory", "save_state": "directory", "weight_manifest": "weights", "weight_version": "weights",
}  # fmt: skip
__all__ = [
    "Context", "Decoder", "Generated", "Images", "ModelConfig", "Packed", "PackedContext", "Projection",
    "RopeConfig", "VisionConfig", "load", "model_directory", "read_config", "save", "save_state",
    "weight_manifest", "weight_version",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.models.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
