"""Chat training: conversations to samples, samples to an assistant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.post.config import SftConfig
    from whorl.post.samples import SampleReport, chat_samples

PUBLIC = {"SampleReport": "samples", "SftConfig": "config", "chat_samples": "samples"}
__all__ = ["SampleReport", "SftConfig", "chat_samples"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.post.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
