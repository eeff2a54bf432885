"""One record for every chat reply: what was sampled, by which weights, behind which prompt."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whorl.base.errors import FaultError
from whorl.base.files import JsonLines
from whorl.base.nouns import Message, SamplingParams, Trace
from whorl.serve.requests import Token
from whorl.serve.wire import Prepared

FORMAT = 1


class Traces:
    """An append-only file of traces, flushed a line at a time."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._file = JsonLines(path)
        except OSError as error:
            raise FaultError(f"--traces {path} cannot be written: {error.strerror}") from error

    def add(self, request_id: str, model: str, trace: Trace, prompt: Prepared, messages: list[Any]) -> None:
        """`messages` are the request's own; images in them are known by their digests."""
        self._file.append({
            "format": FORMAT, "id": request_id, "time": time.time(), "model": model,
            "messages": [_without_images(message) for message in messages],
            "image_digests": list(prompt.image_digests), "spans": [list(span) for span in prompt.spans],
            "message": trace.message.to_openai(), "prompt_ids": list(trace.prompt_ids),
            "token_ids": list(trace.token_ids), "logprobs": list(trace.logprobs), "finish": trace.finish,
            "sampling": asdict(trace.sampling), "weight_version": trace.weight_version,
            "template_hash": trace.template_hash,
        })  # fmt: skip


def trace_of(
    message: Message,
    tokens: list[Token],
    finish: Any,
    params: SamplingParams,
    prompt: Prepared,
    weight_version: str,
) -> Trace:
    return Trace(
        message=message, prompt_ids=prompt.ids, token_ids=tuple(token.id for token in tokens),
        logprobs=tuple(token.logprob for token in tokens), finish=finish, sampling=params,
        weight_version=weight_version, template_hash=prompt.template_hash,
    )  # fmt: skip


def _without_images(message: Any) -> Any:
    """The message with its data URIs cut to their kind: pictures would fill the file."""
    if isinstance(message, dict):
        return {key: _without_images(value) for key, value in message.items()}
    if isinstance(message, list):
        return [_without_images(value) for value in message]
    if isinstance(message, str) and message.startswith("data:"):
        return message.partition(",")[0] + ",…"
    return message
