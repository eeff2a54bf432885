"""A reply as it streams: its tokens to pieces that a reader may see at once and that are never taken back.

Whatever the tokens, the pieces joined are what `parse_reply` makes of them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from whorl.text.reply import CALL, CALLED, CALLS, MARKERS, THINK, THOUGHT, ReplyPart, read_calls
from whorl.text.tokenizer import Tokenizer

# How a grammar of a tool call spells it up to its arguments; see `whorl.serve.grammar`.
HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


def held(text: str, words: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `words`."""
    longest = max((len(word) for word in words), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-count:]) for word in words if len(word) > count):
            return count
    return 0


class StopText:
    """Lets text through up to the first stop string, holding back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.met: str | None = None

    def push(self, text: str) -> str:
        if self.met is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = min(((at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        if found is not None:
            at, self.met = found
            shown, self._held = self._held[:at], ""
            return shown
        keep = held(self._held, self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        shown, self._held = self._held, ""
        return shown


class TextStream:
    """A plain text's tokens; control tokens show nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.stream(skip_control=True)

    def push(self, number: int) -> list[ReplyPart]:
        return _content(self._decoder.push(number))

    def finish(self) -> list[ReplyPart]:
        return _content(self._decoder.finish())


class ReplyStream:
    """A chat reply's tokens, without the end token. `thinking`: the prompt has opened `<think>`.

    Content and thinking come as they are read; a tool call comes once it is whole and valid, its name
    first and then its arguments, since a malformed one is text. Where a grammar holds the reply to a call
    (`held_to_calls`) none is malformed, and its arguments come as they are read; one that the reply's length
    cuts off then stays cut off.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool = False, held_to_calls: bool = False) -> None:
        controls = tokenizer.controls
        self._markers = {controls[marker]: marker for marker in MARKERS if marker in controls}
        self._spelled = [marker for marker in MARKERS if marker not in controls]
        self._pattern = re.compile("|".join(map(re.escape, self._spelled))) if self._spelled else None
        self._decoder = tokenizer.stream(skip_control=False)
        self._tail = ""  # may be the beginning of a spelled marker
        self._open = THINK if thinking else ""
        self._opened = thinking
        self._pending = ""  # after an open marker
        self._thought = 0  # characters of it that were shown
        self._ready = ""  # content that is not shown yet
        self._wrote = False  # whether there has been any content
        self._skip = False  # two line breaks that belong to the thinking before are still to come
        self._blank = ""  # white space after a call: dropped unless text follows it in its run
        self._run = False  # whether it did
        self._calls = 0
        self._certain = held_to_calls
        self._told = 0  # characters of an open call that were shown, or stand for its name
        self._parts: list[ReplyPart] = []

    def push(self, number: int) -> list[ReplyPart]:
        if number in self._markers:
            self._end_run()
            self._marker(self._markers[number])
        else:
            self._feed(self._decoder.push(number))
        return self._take()

    def finish(self) -> list[ReplyPart]:
        """What was held back, when no more tokens come."""
        self._end_run()
        self._give_up()
        self._release(final=True)
        return self._take()

    def _take(self) -> list[ReplyPart]:
        parts, self._parts = self._parts, []
        return parts

    # -- text and markers -------------------------------------------------------------------------

    def _feed(self, text: str) -> None:
        self._tail += text
        while self._pattern is not None and (match := self._pattern.search(self._tail)):
            before, marker = self._tail[: match.start()], match.group()
            self._tail = self._tail[match.end() :]
            self._text(before)
            self._new_run()
            self._marker(marker)
        keep = held(self._tail, self._spelled)
        ready, self._tail = self._tail[: len(self._tail) - keep], self._tail[len(self._tail) - keep :]
        self._text(ready)

    def _end_run(self) -> None:
        """A control token, or the end: what the text before it held back is only text."""
        self._feed(self._decoder.finish())
        self._text(self._tail)
        self._tail = ""
        self._new_run()

    def _new_run(self) -> None:
        self._blank, self._run = "", False

    def _text(self, text: str) -> None:
        if self._open:
            self._pending += text
            if self._open == THINK:
                self._think(closing=False)
            elif self._open == CALL and self._certain:
                self._tell_call()
            return
        self._blank += text
        if not self._calls or self._run or self._blank.strip():
            self._run = True
            self._write(self._blank)
            self._blank = ""

    def _marker(self, marker: str) -> None:
        if marker == THOUGHT and self._open == THINK:
            self._close_thinking()
        elif marker == CALLED and self._open == CALL:
            self._close_calls(CALLED)
        elif marker in (THINK, CALL, CALLS):
            self._give_up()
            self._open = marker
        else:  # a closing marker that closes nothing
            self._text(marker)
            self._new_run()

    # -- content ----------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        self._ready += text
        self._wrote |= bool(text)
        self._release(final=False)

    def _release(self, *, final: bool) -> None:
        """Show what is certain: not a last line break, which a call on its own line would take."""
        if self._skip:
            if not final and "\n\n".startswith(self._ready):
                return
            self._ready = self._ready.removeprefix("\n\n")
            self._skip = False
        stop = len(self._ready) - (not final and self._ready.endswith("\n"))
        self._parts += _content(self._ready[:stop])
        self._ready = self._ready[stop:]

    # -- thinking ---------------------------------------------------------------------------------

    def _think(self, *, closing: bool) -> None:
        """Show thinking: a first line break is the marker's where the marker stood alone on its line."""
        text = self._pending
        spaced = self._opened or text.startswith("\n")
        first = 1 if spaced and text.startswith("\n") else 0
        stop = len(text)
        if text.endswith("\n") and (not closing or spaced):
            stop -= 1
        start = max(self._thought, first)
        if stop > start:
            self._parts.append(ReplyPart("reasoning", text[start:stop]))
            self._thought = stop

    def _close_thinking(self) -> None:
        self._think(closing=True)
        spaced = self._opened or self._pending.startswith("\n")
        self._skip |= spaced and self._pending.endswith("\n") and not self._wrote
        self._open, self._pending, self._thought = "", "", 0

    # -- calls ------------------------------------------------------------------------------------

    def _tell_call(self) -> None:
        """Show what is read of a call. Its last brace is not of its arguments, and waits for the marker."""
        if not self._told and (head := HEAD.match(self._pending)):
            self._parts.append(ReplyPart("call", json.loads(head.group(1)), self._calls))
            self._told = head.end()
        stop = len(self._pending) - 1
        if 0 < self._told < stop:
            self._parts.append(ReplyPart("arguments", self._pending[self._told : stop], self._calls))
            self._told = stop

    def _close_calls(self, closing: str) -> None:
        if self._told:
            self._calls += 1
            self._open, self._pending, self._told = "", "", 0
            return
        calls = read_calls(self._pending)
        if not calls:
            self._write(self._open + self._pending + closing)
        elif self._pending.startswith("\n") and not self._calls:
            self._ready = self._ready.removesuffix("\n")
        for call in calls:
            self._parts.append(ReplyPart("call", call.name, self._calls))
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            self._parts.append(ReplyPart("arguments", arguments, self._calls))
            self._calls += 1
        self._open, self._pending = "", ""

    def _give_up(self) -> None:
        """Another marker, or the end, before the open one was closed."""
        if self._open == CALLS or self._told:
            self._close_calls("")
        elif self._open == THINK:
            self._close_thinking()
        elif self._open:
            self._write(self._open + self._pending)
        self._open, self._pending = "", ""


def _content(text: str) -> list[ReplyPart]:
    return [ReplyPart("content", text)] if text else []
