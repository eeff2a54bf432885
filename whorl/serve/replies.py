"""A request's tokens to what its reader sees: text, thinking and calls, up to a stop string."""

from __future__ import annotations

from collections.abc import Collection

from whorl.serve.requests import EngineRequest
from whorl.text.reply import ReplyPart
from whorl.text.reply_stream import ReplyStream, StopText, TextStream
from whorl.text.tokenizer import Tokenizer


class Reply:
    """One reply as it grows. Stop strings are looked for in its content, wherever tokens cut them."""

    def __init__(self, request: EngineRequest, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        chat = request.kind == "chat"
        self._stream = (
            ReplyStream(tokenizer, thinking=request.thinking, held_to_calls=request.calls)
            if chat
            else TextStream(tokenizer)
        )
        self._stop = StopText(request.params.stop)
        self._ends = end_ids

    def push(self, token: int, ended: bool) -> tuple[list[ReplyPart], str | None]:
        """What may be shown now that `token` has come, and the stop string that it has completed."""
        parts = [] if ended or token in self._ends else self._stream.push(token)
        return self._through(parts), self._stop.met

    def finish(self) -> list[ReplyPart]:
        """What was held back, when nothing comes any more."""
        parts = self._through(self._stream.finish())
        rest = "" if self._stop.met is not None else self._stop.finish()
        return [*parts, ReplyPart("content", rest)] if rest else parts

    def _through(self, parts: list[ReplyPart]) -> list[ReplyPart]:
        shown = []
        for part in parts:
            if self._stop.met is not None:
                break  # what follows a stop string is not shown, whatever it is
            if part.kind != "content":
                shown.append(part)
            elif text := self._stop.push(part.text):
                shown.append(ReplyPart("content", text))
        return shown
