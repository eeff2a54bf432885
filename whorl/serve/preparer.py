"""The process that prepares prompts: `python -m whorl.serve.preparer FD MODEL`.

It renders templates, tokenises, decodes images and checks grammars: whatever a stranger's request can
make slow or large. Its memory is limited, its time is watched from outside, and it imports no torch.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whorl.base.errors import InputError, WhorlError
from whorl.base.files import read_json
from whorl.base.nouns import Conversation
from whorl.base.posix import end_with_socket, ignore_leave_signals, limit_memory
from whorl.serve.grammar import (
    Grammars,
    json_object_grammar,
    json_schema_grammar,
    lark_grammar,
    regex_grammar,
    tool_call_grammar,
)
from whorl.serve.wire import FieldError, PrepareChat, Prepared, PrepareIds, PrepareText, encode, read_frame
from whorl.text.config import ImageConfig
from whorl.text.forms import read_conversation
from whorl.text.images import image_tokens, load_processor, preprocess
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

LOG = logging.getLogger(__name__)
MEMORY = 6 << 30  # bytes of address space; a preparer at rest has about one GB of it
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "documents"})


class Preparer:
    """What it takes to make a model's prompts."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.load(directory)
        try:
            self.template: ChatTemplate | None = ChatTemplate.load(directory)
        except InputError:
            self.template = None  # a base model: texts can be continued, chats are refused
        config = read_json(directory / "config.json", what="model config")
        if self.template is not None:
            self.template.where = "chat template"  # strangers are not told of this machine's folders
        self.images: ImageConfig | None = load_processor(directory) if "vision_config" in config else None
        text = config.get("text_config") or config
        self.vocab_size = int(text.get("vocab_size", self.tokenizer.vocab_size))
        self._grammars: Grammars | None = None

    def text(self, asked: PrepareText) -> Prepared:
        self._check_size(len(asked.text.encode()), asked.context)
        start = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return Prepared(ids=(*start, *self.tokenizer.encode(asked.text)), before=len(start))

    def spelt(self, asked: PrepareIds) -> Prepared:
        return Prepared(ids=asked.ids, text=self.tokenizer.decode(list(asked.ids)))

    def chat(self, asked: PrepareChat) -> Prepared:
        with about("messages"):
            if self.template is None:
                raise InputError(
                    "this model has no chat template; use /v1/completions, or fine-tune it on chats"
                )
        with about("chat_template_kwargs"):
            for name in asked.template_args:
                if name in RESERVED:
                    raise InputError(f"chat_template_kwargs: {name!r} is reserved for the server; remove it")
            self.template.check_args(asked.template_args)
        with about("tools"):
            for number, tool in enumerate(asked.tools):
                _check_tool(tool, f"tools[{number}]")
        tools = [] if asked.tool_choice == "none" else asked.tools
        with about("messages"):
            conversation = read_conversation({"messages": asked.messages, "tools": tools}, "body")
            self._check_roles(conversation)
            if conversation.images and self.images is None:
                raise InputError(
                    "the messages have images, but this model is text-only; use a multimodal one"
                )
            self._check_size(
                sum(len(message.text.encode()) for message in conversation.messages), asked.context
            )
            expand = (
                image_tokens(self.tokenizer, self.images) if self.images and conversation.images else None
            )
            rendered = self.template.render(
                conversation, self.tokenizer, reply=True, image_tokens=expand, **asked.template_args
            )
            patches = [preprocess(image, self.images) for image in conversation.images] if self.images else []
        return Prepared(
            ids=tuple(rendered.ids),
            images=tuple(patches),
            image_positions=tuple(rendered.image_positions),
            image_digests=tuple(image.digest for image in conversation.images),
            thinking=rendered.text.rstrip().endswith("<think>"),
            grammar=self._grammar(asked, tools),
            calls=asked.tool_choice not in ("auto", "none"),
            spans=tuple((span.start, span.end, span.role) for span in rendered.spans),
            template_hash=self.template.hash,
            tokenizer_hash=self.tokenizer.hash,
        )

    def _check_size(self, size: int, context: int) -> None:
        """A text that no tokens of the context could spell is refused before it is tokenised."""
        longest = self.tokenizer.longest_token
        if context and size > context * longest:
            raise InputError(
                f"the text has {size} bytes and the context is {context} tokens of at most {longest} bytes,"
                " prompt and reply together; shorten it"
            )

    def _check_roles(self, conversation: Conversation) -> None:
        if conversation.messages[-1].role == "assistant":
            raise InputError("messages: the last message must not be from the assistant")

    def _grammar(self, asked: PrepareChat, tools: list[dict[str, Any]]) -> str:
        chosen = {name: grammar for name, grammar in self._grammars_of(asked, tools) if grammar}
        with about(next(reversed(chosen), "")):
            if len(chosen) > 1:
                raise InputError(f"{' and '.join(chosen)} are mutually exclusive; use only one")
            grammar = next(iter(chosen.values()), "")
            if grammar:
                if self._grammars is None:
                    self._grammars = Grammars(self.tokenizer, self._ends(), self.vocab_size)
                self._grammars.check(grammar)
        return grammar

    def _grammars_of(self, asked: PrepareChat, tools: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        """Each field that may ask for a form of the reply, with its grammar."""
        with about("tool_choice"):
            yield "tool_choice", self._tool_grammar(asked.tool_choice, tools)
        with about("response_format"):
            yield "response_format", format_grammar(asked.response_format)
        with about("guided_regex"):
            yield "guided_regex", regex_grammar(asked.regex) if asked.regex is not None else ""
        with about("guided_grammar"):
            yield "guided_grammar", lark_grammar(asked.lark) if asked.lark is not None else ""

    def _ends(self) -> list[int]:
        ends = set(self.tokenizer.end_ids)
        return sorted(ends | set(self.template.end_ids(self.tokenizer)) if self.template else ends)

    def _tool_grammar(self, choice: str | dict[str, Any], tools: list[dict[str, Any]]) -> str:
        if choice in ("auto", "none"):
            return ""
        if choice == "required":
            return tool_call_grammar(tools, self.tokenizer)
        function = choice.get("function") if isinstance(choice, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError("tool_choice is none, auto, required or {type: function, function: {name: …}}")
        return tool_call_grammar(tools, self.tokenizer, function["name"])


@contextmanager
def about(field: str) -> Iterator[None]:
    """What goes wrong in here is this field's mistake."""
    try:
        yield
    except FieldError:
        raise
    except WhorlError as error:
        raise FieldError(str(error), field) from error


def _check_tool(tool: Any, where: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(
            f"{where} is not a function: {{type: function, function: {{name: …, parameters: …}}}}"
        )


def format_grammar(given: dict[str, Any] | None) -> str:
    """The grammar of OpenAI's `response_format`; "" for plain text."""
    if given is None or given.get("type") == "text":
        return ""
    if given.get("type") == "json_object":
        return json_object_grammar()
    if given.get("type") == "json_schema":
        named = given.get("json_schema")
        if not isinstance(named, dict) or "schema" not in named:
            raise InputError("response_format: json_schema needs {name: …, schema: {…}}")
        return json_schema_grammar(named["schema"], "response_format.json_schema.schema")
    raise InputError(f"response_format.type is {given.get('type')!r}; use text, json_object or json_schema")


def answered(preparer: Preparer, asked: Any) -> Prepared:
    """The prompt, or in its place what went wrong: one request never ends the process."""
    try:
        if isinstance(asked, PrepareChat):
            return preparer.chat(asked)
        if isinstance(asked, PrepareText):
            return preparer.text(asked)
        if isinstance(asked, PrepareIds):
            return preparer.spelt(asked)
        return Prepared(error=f"a preparer knows no {type(asked).__name__}", fault=True)
    except FieldError as error:
        return Prepared(error=str(error), field=error.field)
    except WhorlError as error:
        return Prepared(error=str(error))
    except (MemoryError, RecursionError) as error:
        return Prepared(error=f"preparing the prompt took too much memory ({type(error).__name__})")
    except Exception as error:
        LOG.exception("preparing a prompt failed")
        kind = type(error).__name__
        return Prepared(
            error=f"preparing the prompt failed ({kind}); the server's log has the details", fault=True
        )


def main(arguments: list[str]) -> int:
    ignore_leave_signals()
    connection = socket.socket(fileno=int(arguments[0]))
    end_with_socket(connection)
    limit_memory(MEMORY)
    preparer = Preparer(Path(arguments[1]))
    while (asked := read_frame(connection)) is not None:
        connection.sendall(encode(answered(preparer, asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
