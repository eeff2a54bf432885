"""Text and images to what a model reads: tokenizer, chat template, conversation forms, image patches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.text.bpe import SPECIALS, train_bpe
    from whorl.text.forms import read_conversation, read_conversations, write_openai
    from whorl.text.images import ImageConfig, Patches, preprocess
    from whorl.text.reply import parse_reply
    from whorl.text.samples import TrainSample, train_samples
    from whorl.text.template import ChatTemplate, Rendered, Span
    from whorl.text.tokenizer import StreamDecoder, Tokenizer

PUBLIC = {
    "Tokenizer": "tokenizer",
    "StreamDecoder": "tokenizer",
    "train_bpe": "bpe",
    "SPECIALS": "bpe",
    "ChatTemplate": "template",
    "Rendered": "template",
    "Span": "template",
    "TrainSample": "samples",
    "train_samples": "samples",
    "parse_reply": "reply",
    "read_conversation": "forms",
    "read_conversations": "forms",
    "write_openai": "forms",
    "ImageConfig": "images",
    "Patches": "images",
    "preprocess": "images",
}
__all__ = [
    "SPECIALS",
    "ChatTemplate",
    "ImageConfig",
    "Patches",
    "Rendered",
    "Span",
    "StreamDecoder",
    "Tokenizer",
    "TrainSample",
    "parse_reply",
    "preprocess",
    "read_conversation",
    "read_conversations",
    "train_bpe",
    "train_samples",
    "write_openai",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
