"""Chat training and preferences: conversations or pairs to samples, samples to an assistant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.post.config import DpoConfig, SftConfig
    from whorl.post.pairs import Pair, read_pairs
    from whorl.post.preference import Preference
    from whorl.post.samples import SampleReport, chat_samples

PUBLIC = {
    "DpoConfig": "config", "Pair": "pairs", "Preference": "preference", "SampleReport": "samples",
    "SftConfig": "config", "chat_samples": "samples", "read_pairs": "pairs",
}  # fmt: skip
__all__ = ["DpoConfig", "Pair", "Preference", "SampleReport", "SftConfig", "chat_samples", "read_pairs"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.post.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
