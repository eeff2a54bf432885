"""One conversation under one template and tokenizer: its text, its tokens and where each turn lies."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, ImagePart, Message
from whorl.text.sandbox import run_template
from whorl.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from whorl.text.template import ChatTemplate

# Unicode's noncharacters: no text means anything by them, and normalisers leave them alone.
NONCHARACTERS = tuple(chr(number) for number in range(0xFDD0, 0xFDF0))

ImageTokens = Callable[[ImagePart], Sequence[int] | int]


@dataclass(frozen=True)
class Layout:
    """The rendered text of some messages, with the conversation's images number `images[0]` to
    before `images[1]`: `marked` with escape markers, `text` without; `generated` are the characters
    inside `{% generation %}`."""

    marked: str
    text: str
    generated: tuple[tuple[int, int], ...]
    images: tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """Ids with images grown, the character each starts at, and the positions of image features."""

    ids: list[int]
    starts: list[int]
    image_positions: list[int]


@dataclass(frozen=True)
class Marks:
    """Three characters that occur nowhere in the conversation."""

    escape: str
    opening: str
    closing: str


class Renderer:
    """Renders prefixes of the conversation, each once; `ends` are the ids that end a turn."""

    def __init__(
        self,
        template: ChatTemplate,
        conversation: Conversation,
        tokenizer: Tokenizer,
        image_tokens: ImageTokens | None,
        template_args: dict[str, Any],
        where: str = "",
    ) -> None:
        template.check(tokenizer)
        self.conversation = conversation
        self.tokenizer = tokenizer
        self.where = where or (f"conversation {conversation.id!r}" if conversation.id else "conversation")
        self.ends = template.end_ids(tokenizer)
        self._compiled = template.compiled(bool(conversation.tools))
        args = {**template.args, **conversation.template_args, **template_args}
        template.check_args(args)
        plain = {
            "messages": [message_form(message, template.takes_strings) for message in conversation.messages],
            "tools": list(conversation.tools) or None,
            "args": args,
        }
        self.marks = _free_marks(plain, self.where)
        escaped = self._escaped(plain)
        for message, original in zip(escaped["messages"], conversation.messages, strict=True):
            message["role"] = original.role  # one of four words: templates spell control tokens with it
        self._messages: list[dict[str, Any]] = escaped["messages"]
        named = {"image_token": tokenizer.image_token} if tokenizer.image_token else {}
        named |= tokenizer.special_tokens
        self._variables = {**named, **escaped["args"], "tools": escaped["tools"]}
        self._images = self._expansions(image_tokens)
        self._layouts: dict[tuple[int, bool], Layout] = {}

    def _escaped(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.tokenizer.escape(value, self.marks.escape)
        if isinstance(value, dict):
            return {self._escaped(key): self._escaped(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._escaped(item) for item in value]
        return value

    def layout(self, count: int, *, reply: bool) -> Layout:
        """The text of the first `count` messages, with the header of a reply if `reply`."""
        key = (count, reply)
        if key not in self._layouts:
            turns = {"messages": self._messages[:count], "add_generation_prompt": reply}
            marks = (self.marks.opening, self.marks.closing)
            raw = run_template(self._compiled, {**self._variables, **turns}, marks, self.where)
            self._layouts[key] = self._read(raw, count)
        return self._layouts[key]

    def _read(self, raw: str, count: int) -> Layout:
        opening, closing = self.marks.opening, self.marks.closing
        pieces = re.split(f"([{opening}{closing}])", raw)
        generated, opened, at = [], 0, 0
        for piece in pieces:
            if piece == opening:
                opened = at
            elif piece == closing:
                generated.append((opened, at))
            else:
                at += len(piece) - piece.count(self.marks.escape)
        marked = "".join(piece for piece in pieces if piece not in (opening, closing))
        images = sum(len(message.images) for message in self.conversation.messages[:count])
        return Layout(marked, marked.replace(self.marks.escape, ""), tuple(generated), (0, images))

    @staticmethod
    def after(prefix: Layout, layout: Layout) -> Layout:
        """`layout` without its beginning `prefix`."""
        size = len(prefix.text)
        generated = tuple((start - size, end - size) for start, end in layout.generated if start >= size)
        return Layout(
            layout.marked[len(prefix.marked) :],
            layout.text[size:],
            generated,
            (prefix.images[1], layout.images[1]),
        )

    def check_text(self, layout_text: str, ids: list[int]) -> None:
        """DataError where the tokens do not give the text back: exactly from a byte-level tokenizer,
        up to spaces from those that add some of their own (Llama 2's)."""
        back, text = self.tokenizer.decode(ids), layout_text
        if back == text or back == self.tokenizer.normalize(text):
            return
        if not self.tokenizer.byte_level:
            back, text = "".join(back.split()), "".join(self.tokenizer.normalize(text).split())
            if back in (text, "".join(layout_text.split())):
                return
        at = next((at for at, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), len(back))
        raise DataError(
            f"{self.where}: text does not survive tokenisation: {text[at : at + 20]!r} reads"
            f" {back[at : at + 20]!r}; drop it or use a byte-level tokenizer"
        )

    def tokens(self, layout: Layout, *, checked: bool = False) -> Tokens:
        """`checked` demands that the text comes back from its tokens, see `check_text`."""
        ids, offsets, _ = self.tokenizer.encode_marked(layout.marked, self.marks.escape)
        if checked:
            self.check_text(layout.text, ids)
        starts = [start for start, _ in offsets]
        images = self._images[slice(*layout.images)]
        return self._grow(ids, starts, images) if images else Tokens(ids, starts, [])

    def _grow(self, ids: list[int], starts: list[int], images: list[tuple[int, ...]]) -> Tokens:
        """Put every image's tokens in the place of its placeholder."""
        placeholder = self.placeholder
        written = ids.count(placeholder)
        if written != len(images):
            raise DataError(
                f"{self.where}: the chat template writes {self.tokenizer.image_token} {written}"
                f" times for {len(images)} images; use a template that writes it once per image"
            )
        grown = Tokens([], [], [])
        expansions = iter(images)
        for number, start in zip(ids, starts, strict=True):
            new = next(expansions) if number == placeholder else (number,)
            if number == placeholder:
                features = [at for at, token in enumerate(new, len(grown.ids)) if token == placeholder]
                grown.image_positions.extend(features)
            grown.ids.extend(new)
            grown.starts.extend([start] * len(new))
        return grown

    @cached_property
    def placeholder(self) -> int:
        token = self.tokenizer.image_token
        if token is None:
            raise InputError(
                f"{self.where} has images, but the tokenizer has no image token; set image_token in"
                " processor_config.json"
            )
        return self.tokenizer.id_of(token)

    def _expansions(self, image_tokens: ImageTokens | None) -> list[tuple[int, ...]]:
        grown = []
        for image in self.conversation.images:
            tokens = 1 if image_tokens is None else image_tokens(image)
            grown.append((self.placeholder,) * tokens if isinstance(tokens, int) else tuple(tokens))
        return grown

    def until_end(self, ids: list[int]) -> int:
        """How many of a reply's `ids` the model writes: up to the last that ends a turn, else all."""
        return next((at + 1 for at in range(len(ids) - 1, -1, -1) if ids[at] in self.ends), len(ids))

    def spans(self, layout: Layout, tokens: Tokens) -> Iterator[tuple[int, int, str]]:
        """(first token, end, role) of every turn whose place in the text is certain: its prefix,
        rendered by itself, is a prefix of the whole."""
        for number, message in enumerate(self.conversation.messages):
            assistant = message.role == "assistant"
            before = self._prefix(number, reply=assistant)
            after = self._prefix(number + 1, reply=False)
            if before is None or after is None:
                continue
            if not (after.startswith(before) and layout.text.startswith(after)):
                continue
            parts = [part.strip() for part in message.content if isinstance(part, str)]
            if any(part not in after[len(before) :] for part in parts):
                continue  # written somewhere else, as Mistral's system prompt is
            start, end = bisect_left(tokens.starts, len(before)), bisect_left(tokens.starts, len(after))
            if assistant:
                end = start + self.until_end(tokens.ids[start:end])
            yield start, end, message.role

    def _prefix(self, count: int, *, reply: bool) -> str | None:
        if count == 0 and not reply:
            return ""
        try:
            return self.layout(count, reply=reply).text
        except DataError:
            return None  # the template refuses this much of the conversation alone (no user turn yet)


def message_form(message: Message, takes_strings: bool) -> dict[str, Any]:
    """The dictionary templates are written for: arguments as objects, content text or typed parts."""
    form: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.images or not takes_strings:
        form["content"] = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in message.content
        ]
    if message.tool_calls:
        form["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | ({"id": call.id} if call.id else {})
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        form["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        form["name"] = message.name
    if message.reasoning is not None:
        form["reasoning_content"] = form["thinking"] = message.reasoning
    return form


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _free_marks(value: Any, where: str) -> Marks:
    """Three characters that no string of the conversation holds."""
    used = {character for text in _strings(value) if not text.isascii() for character in text}
    free = [character for character in NONCHARACTERS if character not in used]
    if len(free) < 3:
        raise DataError(f"{where}: holds nearly all of Unicode's noncharacters U+FDD0 to U+FDEF; remove them")
    return Marks(*free[:3])
