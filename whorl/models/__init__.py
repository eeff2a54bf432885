"""The one decoder, its families, weights, adapters and the reference `generate`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.models.chat import Assistant
    from whorl.models.config import LoraConfig, ModelConfig, RopeConfig, VisionConfig
    from whorl.models.context import Context, Packed, PackedContext
    from whorl.models.decoder import Decoder, Projection
    from whorl.models.directory import load, read_config, save, save_state
    from whorl.models.export import export_model
    from whorl.models.generation import Generated, Prompt, generate
    from whorl.models.hub import pull
    from whorl.models.info import describe
    from whorl.models.init import init_weights
    from whorl.models.likelihood import log_probs
    from whorl.models.lora import inject, load_adapter, merge, save_adapter
    from whorl.models.place import model_directory
    from whorl.models.vision import Features, Images
    from whorl.models.weights import weight_manifest, weight_version

PUBLIC = {
    "Assistant": "chat", "Context": "context", "Decoder": "decoder", "Generated": "generation",
    "Images": "vision", "LoraConfig": "config", "ModelConfig": "config", "Packed": "context",
    "PackedContext": "context", "Projection": "decoder", "Prompt": "generation", "RopeConfig": "config",
    "VisionConfig": "config", "generate": "generation", "inject": "lora", "load": "directory",
    "load_adapter": "adapter", "merge": "lora", "model_directory": "place", "read_config": "directory",
    "save": "directory", "save_adapter": "adapter", "save_state": "directory",
    "weight_manifest": "weights", "weight_version": "weights",
    "describe": "info", "export_model": "export", "pull": "hub", "Features": "vision",
    "init_weights": "init", "log_probs": "likelihood",
}  # fmt: skip
__all__ = [
    "Assistant", "Context", "Decoder", "Generated", "Images", "LoraConfig", "ModelConfig", "Packed",
    "PackedContext", "Projection", "Prompt", "RopeConfig", "VisionConfig", "generate", "inject", "load",
    "load_adapter", "merge", "model_directory", "read_config", "save", "save_adapter", "save_state",
    "weight_manifest", "weight_version", "describe", "export_model", "pull", "Features", "init_weights",
    "log_probs",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.models.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
