"""One record for every reply: what was sampled, by which weights, behind which prompt."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from whorl.base.errors import FaultError
from whorl.base.files import JsonLines
from whorl.base.nouns import Message, SamplingParams, Trace
from whorl.serve.requests import Token
from whorl.serve.wire import Prepared

LOG = logging.getLogger(__name__)
FORMAT = 1


class Traces:
    """An append-only file of traces, flushed a line at a time."""

    def __init__(self, path: str | Path, lost: Counter) -> None:
        self._path, self._lost = path, lost
        try:
            self._file = JsonLines(path)
        except OSError as error:
            raise FaultError(f"--traces {path} cannot be written: {error.strerror}") from error

    def add(
        self,
        request_id: str,
        model: str,
        message: Message,
        tokens: list[Token],
        finish: Any,
        params: SamplingParams,
        prompt: Prepared,
        weight_version: str,
        asked: dict[str, Any],
    ) -> None:
        """`asked` is the request's own prompt; images in it are known by their digests. What cannot be
        written is counted and logged: the reply is made, and its reader gets it."""
        trace = Trace(
            message=message, prompt_ids=prompt.ids, token_ids=tuple(token.id for token in tokens),
            logprobs=tuple(token.logprob for token in tokens),
            sampled_logprobs=tuple(token.drawn for token in tokens),
            kept=tuple(token.kept for token in tokens), finish=finish, sampling=params,
            weight_version=weight_version, template_hash=prompt.template_hash,
            tokenizer_hash=prompt.tokenizer_hash,
        )  # fmt: skip
        try:
            self._write(request_id, model, trace, prompt, asked)
        except OSError as error:
            self._lost.inc()
            LOG.error("the trace of %s is lost: %s cannot be written: %s", request_id, self._path, error)

    def _write(
        self, request_id: str, model: str, trace: Trace, prompt: Prepared, asked: dict[str, Any]
    ) -> None:
        self._file.append({
            "format": FORMAT, "id": request_id, "time": time.time(), "model": model,
            **_without_images(asked),
            "image_digests": list(prompt.image_digests), "spans": [list(span) for span in prompt.spans],
            "message": trace.message.to_openai(), "prompt_ids": list(trace.prompt_ids),
            "token_ids": list(trace.token_ids), "logprobs": list(trace.logprobs),
            "sampled_logprobs": list(trace.sampled_logprobs), "kept": list(trace.kept),
            "finish": trace.finish, "sampling": asdict(trace.sampling),
            "weight_version": trace.weight_version,
            "template_hash": trace.template_hash, "tokenizer_hash": trace.tokenizer_hash,
        })  # fmt: skip


def _without_images(message: Any) -> Any:
    """The message with its data URIs cut to their kind: pictures would fill the file."""
    if isinstance(message, dict):
        return {key: _without_images(value) for key, value in message.items()}
    if isinstance(message, list):
        return [_without_images(value) for value in message]
    if isinstance(message, str) and message.startswith("data:"):
        return message.partition(",")[0] + ",…"
    return message
