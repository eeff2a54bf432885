"""A reply's tokens back to a message: its thinking, its text and its tool calls.

The inverse of what templates write for an assistant: `<think>…</think>` before the text and
`<tool_call>{"name":…, "arguments":{…}}</tool_call>` after it (Whorl's own, Qwen's, Hermes's), or
`[TOOL_CALLS][{…}]` (Mistral's). Where these are control tokens of the tokenizer only the tokens
count; text that merely spells them stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whorl.base.nouns import Message, ToolCall
from whorl.text.tokenizer import Tokenizer

THINK, THOUGHT, CALL, CALLED, CALLS = "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
MARKERS = (THINK, THOUGHT, CALL, CALLED, CALLS)


@dataclass(frozen=True)
class ReplyPart:
    """A piece of a reply as it streams: text of its content or its thinking, the name of tool call
    number `index`, or a piece of that call's arguments as JSON."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str
    index: int = 0


def parse_reply(ids: Sequence[int], tokenizer: Tokenizer, *, thinking: bool = False) -> Message:
    """The assistant's message in `ids`, which may end with an end token.

    A call that is no valid JSON stays in the text, markers and all: the model's mistake is the
    model's to see. `thinking` says that the prompt had already opened `<think>`.
    """
    state = _State(thinking)
    for marker, text in _pieces(ids, tokenizer):
        if marker:
            state.marker(text)
        else:
            state.text(text)
    return state.finish()


def _pieces(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[bool, str]]:
    """(is a marker, text), up to the first token that ends the turn."""
    spelled = [marker for marker in MARKERS if marker not in tokenizer.controls]
    pattern = re.compile(f"({'|'.join(map(re.escape, spelled))})") if spelled else None
    markers = {tokenizer.controls[marker]: marker for marker in MARKERS if marker in tokenizer.controls}
    run: list[int] = []

    def text_of() -> Iterator[tuple[bool, str]]:
        text = tokenizer.decode(run)
        for piece in pattern.split(text) if pattern else [text]:
            if piece:
                yield piece in spelled, piece
        run.clear()

    for number in ids:
        if number in tokenizer.end_ids:
            break
        if number in markers:
            yield from text_of()
            yield True, markers[number]
        else:
            run.append(number)
    yield from text_of()


class _State:
    """What has been read so far; `pending` is the text after an open marker."""

    def __init__(self, thinking: bool) -> None:
        self.opened = thinking  # by the prompt
        self.content = ""
        self.reasoning: str | None = None
        self.calls: list[ToolCall] = []
        self.open = THINK if thinking else ""
        self.spaced = False  # thinking stood on lines of its own, as Qwen writes it
        self.pending = ""

    def text(self, text: str) -> None:
        if self.open:
            self.pending += text
        elif self.calls and not text.strip():
            pass  # line breaks that templates put between and after calls
        else:
            self.content += text

    def marker(self, marker: str) -> None:
        if marker == THOUGHT and self.open == THINK:
            self._close_thinking()
        elif marker == CALLED and self.open == CALL:
            self._close_calls(CALLED)
        elif marker in (THINK, CALL, CALLS):
            self._give_up()
            self.open = marker
        else:
            self.text(marker)  # a closing marker that closes nothing

    def _close_thinking(self) -> None:
        spaced = self.opened or self.pending.startswith("\n")
        self.spaced |= spaced and self.pending.endswith("\n") and not self.content
        inner = self.pending.removeprefix("\n").removesuffix("\n") if spaced else self.pending
        self.reasoning = (self.reasoning or "") + inner
        self.open, self.pending = "", ""

    def _close_calls(self, closing: str) -> None:
        calls = read_calls(self.pending)
        if not calls:
            self.content += self.open + self.pending + closing
        elif self.pending.startswith("\n") and not self.calls:
            self.content = self.content.removesuffix("\n")  # the break before a call on its own line
        self.calls += calls
        self.open, self.pending = "", ""

    def _give_up(self) -> None:
        """Another marker, or the end, before the open one was closed."""
        if self.open == CALLS:
            self._close_calls("")
        elif self.open == THINK:
            self._close_thinking()
        elif self.open:
            self.content += self.open + self.pending
        self.open, self.pending = "", ""

    def finish(self) -> Message:
        self._give_up()
        content = self.content
        if self.spaced:
            content = content.removeprefix("\n\n")
        return Message(
            role="assistant",
            content=(content,) if content else (),
            tool_calls=tuple(self.calls),
            reasoning=self.reasoning or None,
        )


def read_calls(text: str) -> list[ToolCall]:
    """The calls in a JSON object or list; none where it is not one."""
    try:
        value: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return []
    calls = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            return []
        arguments = entry.get("arguments", entry.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (json.JSONDecodeError, RecursionError):
                return []
        if not isinstance(arguments, dict):
            return []
        identifier = entry.get("id")
        calls.append(
            ToolCall(
                name=entry["name"],
                arguments=arguments,
                id=identifier if isinstance(identifier, str) else "",
            )
        )
    return calls
