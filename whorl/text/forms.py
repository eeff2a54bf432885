"""The forms chats come in, ShareGPT, OpenAI and Alpaca, to one `Conversation` and back.

Every complaint names the record's place (`chats.jsonl:12`), the field (`messages[2].content`) and
what to do. Nothing is guessed: a field whose meaning would be lost is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError
from whorl.base.nouns import Conversation, ImagePart, Message, Part, Role, ToolCall
from whorl.text.records import read_conversations as read_conversations

OPENAI_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
PLACEHOLDER = "<image>"
# Where reasoning has no field of its own, data sets put it before the answer like this.
THINKING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}


def read_conversation(record: dict[str, Any], where: str, *, folder: Path | None = None) -> Conversation:
    """One record in any of the three forms; image paths are relative to `folder`.

    `where` is the record's place for errors (`chats.jsonl:12`). A text that begins with
    `<think>…</think>` becomes the message's `reasoning` unless it has one of its own.
    Raises DataError, one line with place, field and remedy.
    """
    return _Record(record, where, folder).conversation()


def write_openai(conversation: Conversation) -> dict[str, Any]:
    """The OpenAI form, images as data URIs: what `read_conversation` reads back."""
    record: dict[str, Any] = {"messages": [message.to_openai() for message in conversation.messages]}
    if conversation.tools:
        record["tools"] = list(conversation.tools)
    if conversation.id:
        record["id"] = conversation.id
    if conversation.template_args:
        record["chat_template_kwargs"] = conversation.template_args
    return record


class _Record:
    """One record being read: every method takes the field's name for its errors."""

    def __init__(self, record: dict[str, Any], where: str, folder: Path | None) -> None:
        if not isinstance(record, dict):
            raise DataError(f"{where}: a record must be a JSON object, not {_kind(record)}")
        self.record = {key: value for key, value in record.items() if value is not None}
        self.where = where
        self.folder = folder

    def error(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: {field}: {problem}")

    def conversation(self) -> Conversation:
        record = self.record
        turns = record.get("messages", record.get("conversations"))
        if turns is not None:
            name = "messages" if "messages" in record else "conversations"
            messages = self.turns(turns, name)
        elif "instruction" in record:
            messages = self.alpaca()
        else:
            found = ", ".join(sorted(map(str, record))) or "none"
            raise DataError(
                f"{self.where}: fields are {found}; a chat has messages (OpenAI), conversations (ShareGPT)"
                " or instruction and output (Alpaca)"
            )
        args = record.get("chat_template_kwargs", {})
        if not isinstance(args, dict):
            raise self.error("chat_template_kwargs", f"must be an object, not {_kind(args)}")
        return Conversation(
            messages=tuple(messages),
            tools=self.tools(),
            id=str(record.get("id", "")),
            template_args=args,
        )

    # -- ShareGPT and OpenAI ----------------------------------------------------------------------

    def turns(self, turns: Any, name: str) -> list[Message]:
        if not isinstance(turns, list) or not turns:
            raise self.error(name, "must be a list of at least one turn")
        for number, turn in enumerate(turns):
            if not isinstance(turn, dict):
                raise self.error(f"{name}[{number}]", f"must be an object, not {_kind(turn)}")
        cleaned = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
        if "from" in cleaned[0]:
            return self.sharegpt(cleaned, name)
        return [self.openai(turn, f"{name}[{number}]") for number, turn in enumerate(cleaned)]

    def sharegpt(self, turns: list[dict[str, Any]], name: str) -> list[Message]:
        messages: list[Message] = []
        if "system" in self.record:
            messages.append(Message(role="system", content=_parts(self.string(self.record, "system", ""))))
        texts = [self.string(turn, "value", f"{name}[{at}].") for at, turn in enumerate(turns)]
        contents = self.place_images(texts, name)
        for number, (turn, text, content) in enumerate(zip(turns, texts, contents, strict=True)):
            field = f"{name}[{number}]"
            speaker = turn.get("from")
            role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
            if role is None:
                raise self.error(f"{field}.from", f"{speaker!r} is not one of {', '.join(SHAREGPT_ROLES)}")
            if speaker == "function_call":
                calls = self.calls_in_text(text, f"{field}.value")
                if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
                    said = messages.pop()  # what it said before calling belongs to the same turn
                    messages.append(self.message("assistant", said.content, calls, reasoning=said.reasoning))
                else:
                    messages.append(self.message("assistant", (), calls))
            else:
                messages.append(self.message(role, content))
        return messages

    def openai(self, turn: dict[str, Any], field: str) -> Message:
        name = turn.get("role")
        role = OPENAI_ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise self.error(f"{field}.role", f"{name!r} is not one of {', '.join(OPENAI_ROLES)}")
        if turn.get("weight") == 0:
            raise self.error(
                f"{field}.weight", "0 is not supported: every assistant turn is learnt; remove weight"
            )
        if "audio" in turn or "refusal" in turn:
            raise self.error(field, "audio and refusals are not supported; drop the record")
        reasoning = turn.get("reasoning_content", turn.get("reasoning", turn.get("thinking")))
        if reasoning is not None and not isinstance(reasoning, str):
            raise self.error(f"{field}.reasoning_content", f"must be a string, not {_kind(reasoning)}")
        calls = turn.get("tool_calls", [])
        if "function_call" in turn:
            calls = [{"function": turn["function_call"]}]
        if not isinstance(calls, list):
            raise self.error(f"{field}.tool_calls", f"must be a list, not {_kind(calls)}")
        try:
            return self.message(
                role,
                self.content(turn.get("content"), f"{field}.content"),
                tuple(self.call(call, f"{field}.tool_calls[{at}]") for at, call in enumerate(calls)),
                reasoning=reasoning,
                tool_call_id=self.optional(turn, "tool_call_id", field),
                name=self.optional(turn, "name", field),
            )
        except DataError as error:
            raise error if str(error).startswith(self.where) else self.error(field, str(error)) from error

    def content(self, value: Any, field: str) -> tuple[Part, ...]:
        if value is None:
            return ()
        if isinstance(value, str):
            return _parts(value)
        if not isinstance(value, list):
            raise self.error(field, f"must be a string or a list of parts, not {_kind(value)}")
        return tuple(
            part
            for number, entry in enumerate(value)
            if (part := self.part(entry, f"{field}[{number}]")) != ""
        )

    def part(self, entry: Any, field: str) -> Part:
        if isinstance(entry, str):
            return entry
        if not isinstance(entry, dict):
            raise self.error(field, f"must be an object with a type, not {_kind(entry)}")
        kind = entry.get("type")
        if kind in ("text", "input_text", "output_text"):
            return self.string(entry, "text", f"{field}.")
        if kind in ("image_url", "input_image"):
            given = entry.get("image_url")
            return self.image(given.get("url") if isinstance(given, dict) else given, f"{field}.image_url")
        if kind == "image":
            given = next((entry[key] for key in ("image", "path", "url") if entry.get(key) is not None), None)
            return self.image(given, field)
        raise self.error(f"{field}.type", f"{kind!r} is not text, image_url or image; drop the part")

    def call(self, call: Any, field: str) -> ToolCall:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise self.error(field, "must be an object with a function")
        identifier = call.get("id") or ""
        arguments: Any = function.get("arguments", function.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = self.json(arguments or "{}", f"{field}.function.arguments")
        try:
            return ToolCall(name=function.get("name") or "", arguments=arguments, id=str(identifier))
        except DataError as error:
            raise self.error(field, str(error)) from error

    def calls_in_text(self, text: str, field: str) -> tuple[ToolCall, ...]:
        value = self.json(text, field)
        entries = value if isinstance(value, list) else [value]
        return tuple(self.call(entry, field) for entry in entries)

    # -- Alpaca -----------------------------------------------------------------------------------

    def alpaca(self) -> list[Message]:
        """`history` is pairs of earlier question and answer; `input` follows `instruction` on a new line."""
        record = self.record
        texts: list[str] = []
        roles: list[Role] = []
        history = record.get("history", [])
        if not isinstance(history, list):
            raise self.error("history", f"must be a list of [question, answer], not {_kind(history)}")
        for number, pair in enumerate(history):
            pair = list(pair) if isinstance(pair, list | tuple) else []
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise self.error(f"history[{number}]", "must be a question and an answer, two strings")
            texts += pair
            roles += ["user", "assistant"]
        question = self.string(record, "instruction", "")
        if record.get("input"):
            question = f"{question}\n{self.string(record, 'input', '')}"
        texts += [question, self.string(record, "output", "")]
        roles += ["user", "assistant"]
        contents = self.place_images(texts, "instruction")
        messages = [self.message(role, content) for role, content in zip(roles, contents, strict=True)]
        if record.get("system"):
            messages.insert(0, Message(role="system", content=_parts(self.string(record, "system", ""))))
        return messages

    # -- what the forms share ---------------------------------------------------------------------

    def message(
        self, role: Role, content: tuple[Part, ...], calls: tuple[ToolCall, ...] = (), **fields: Any
    ) -> Message:
        first = content[0] if content else None
        if role == "assistant" and fields.get("reasoning") is None and isinstance(first, str):
            match = THINKING.match(first)
            if match:
                fields["reasoning"] = match[1].strip() or None
                content = (*_parts(first[match.end() :]), *content[1:])
        return Message(role=role, content=content, tool_calls=calls, **fields)

    def tools(self) -> tuple[dict[str, Any], ...]:
        given = self.record.get("tools", self.record.get("functions", []))
        if isinstance(given, str):
            given = self.json(given or "[]", "tools")
        if not isinstance(given, list):
            raise self.error("tools", f"must be a list of functions, not {_kind(given)}")
        tools = []
        for number, tool in enumerate(given):
            function = tool.get("function", tool) if isinstance(tool, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise self.error(f"tools[{number}]", "must be a function with name and parameters")
            tools.append(tool if "function" in tool else {"type": "function", "function": function})
        return tuple(tools)

    def place_images(self, texts: list[str], field: str) -> list[tuple[Part, ...]]:
        """Texts with each `<image>` replaced by the next of the record's images."""
        given = self.record.get("images", self.record.get("image", []))
        files = given if isinstance(given, list) else [given]
        if not files:
            return [_parts(text) for text in texts]
        wanted = sum(text.count(PLACEHOLDER) for text in texts)
        if wanted != len(files):
            problem = f"{len(files)} given for {wanted} {PLACEHOLDER} in {field}; write one for each image"
            raise self.error("images", problem)
        images: Iterator[ImagePart] = (
            self.image(file, f"images[{number}]") for number, file in enumerate(files)
        )
        contents = []
        for text in texts:
            parts: list[Part] = []
            for number, piece in enumerate(text.split(PLACEHOLDER)):
                parts += [next(images)] if number else []
                parts += _parts(piece)
            contents.append(tuple(parts))
        return contents

    def image(self, value: Any, field: str) -> ImagePart:
        """An image given as bytes, a data URI, or the path of a file below the record's folder."""
        if isinstance(value, dict):  # as parquet files of images hold them
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return ImagePart(data=value, media_type=_media_type(value))
        if not isinstance(value, str) or not value:
            raise self.error(field, f"must be a data URI or a file's path, not {_kind(value)}")
        if value.startswith("data:"):
            try:
                return ImagePart.from_data_uri(value)
            except DataError as error:
                raise self.error(field, str(error)) from error
        if "://" in value:
            raise self.error(field, f"{value[:60]!r} is a URL; download it and give its path")
        if self.folder is None:
            raise self.error(
                field, f"{value!r} is a path, but the record does not come from a file; inline the image"
            )
        path = (self.folder / value).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise self.error(field, f"{value!r} is outside {self.folder}; put images next to the chats")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self.error(field, f"{path} cannot be read ({error.strerror})") from error
        if not data:
            raise self.error(field, f"{path} is empty")
        return ImagePart(data=data, media_type=_media_type(data))

    def string(self, of: dict[str, Any], key: str, prefix: str) -> str:
        value = of.get(key)
        if not isinstance(value, str):
            raise self.error(f"{prefix}{key}", f"must be a string, not {_kind(value)}")
        return value

    def optional(self, turn: dict[str, Any], key: str, field: str) -> str | None:
        return self.string(turn, key, f"{field}.") if key in turn else None

    def json(self, text: str, field: str) -> Any:
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self.error(field, f"is not valid JSON ({error})") from error


def _parts(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__


def _media_type(data: bytes) -> str:
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "application/octet-stream")
