"""A chat template (sandboxed Jinja) makes a conversation into tokens, and says which turn each is.

Control tokens come from the template alone. Control strings in the conversation are broken with a
marker before rendering, so that the template's own can be told apart after it; a conversation that
holds none renders exactly as transformers' `apply_chat_template` would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jinja2

from whorl.base.config import nearest
from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write, read_json, sha256_json, write_json
from whorl.base.nouns import Conversation
from whorl.text.default_template import TEMPLATE, TOKENS
from whorl.text.render import ImageTokens, Renderer
from whorl.text.sandbox import compile_template, names_in, run_template
from whorl.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from whorl.text.samples import TrainSample

TEMPLATE_FILE = "chat_template.jinja"
ARGS_FILE = "chat_template_args.json"


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) of one turn; an assistant's is what the model itself has to produce."""

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class Rendered:
    """`image_positions` are the indices in `ids` that take an image's features, in reading order.
    A turn whose place in the text depends on later turns has no span; a token merged across a turn's
    start belongs to what is before it. `text` is before images grow."""

    ids: list[int]
    spans: list[Span]
    text: str
    image_positions: list[int]


class ChatTemplate:
    """`source` is the Jinja text; `tool_source` another one used where tools are offered; `args` are
    the template arguments the model was trained with and the defaults of every rendering."""

    def __init__(
        self,
        source: str,
        *,
        tool_source: str | None = None,
        args: dict[str, Any] | None = None,
        where: str = "chat template",
    ) -> None:
        self.source = source
        self.tool_source = tool_source
        self.args = dict(args or {})
        self.where = where
        self._ends: dict[str, int | None] = {}
        self._plain = compile_template(source, where)
        self._with_tools = self._plain if tool_source is None else compile_template(tool_source, where)

    @classmethod
    def default(cls) -> Self:
        """Whorl's own template, see `whorl.text.default_template`."""
        return cls(TEMPLATE, where="default chat template")

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read `chat_template.jinja`, `chat_template.json` or the template in `tokenizer_config.json`
        (one, or a list of named ones), and the arguments in `chat_template_args.json`."""
        directory = Path(directory)
        found, where = _find(directory)
        if "default" not in found:
            raise InputError(
                f"{directory} has no chat template; put one in {directory / TEMPLATE_FILE}"
                " or fine-tune on chats, which adds Whorl's default"
            )
        args_file = directory / ARGS_FILE
        args = read_json(args_file) if args_file.is_file() else {}
        if not isinstance(args, dict):
            raise DataError(f"{args_file} is not a JSON object of template arguments")
        return cls(found["default"], tool_source=found.get("tool_use"), args=args, where=where)

    def with_args(self, **args: Any) -> Self:
        """The same template with `args` as its defaults, over those it has."""
        return type(self)(
            self.source, tool_source=self.tool_source, args={**self.args, **args}, where=self.where
        )

    def save(self, directory: str | Path) -> None:
        """Write the template where transformers looks for it, and its arguments beside it."""
        directory = Path(directory)
        with atomic_write(directory / TEMPLATE_FILE) as file:
            file.write(self.source)
        if self.tool_source is not None:
            with atomic_write(directory / "additional_chat_templates" / "tool_use.jinja") as file:
                file.write(self.tool_source)
        if self.args:
            write_json(directory / ARGS_FILE, self.args)
        else:
            (directory / ARGS_FILE).unlink(missing_ok=True)

    @cached_property
    def hash(self) -> str:
        return sha256_json({"template": self.source, "tool_use": self.tool_source, "args": self.args})

    # -- rendering ------------------------------------------------------------------------------

    def render(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        *,
        reply: bool,
        image_tokens: ImageTokens | None = None,
        **template_args: Any,
    ) -> Rendered:
        """Tokens of the conversation, ending with the header of the assistant's next turn if `reply`.

        `image_tokens` says what an image's placeholder becomes: token ids, or a number of
        placeholders (default 1). DataError where the template refuses the conversation.
        """
        renderer = Renderer(self, conversation, tokenizer, image_tokens, template_args)
        layout = renderer.layout(len(conversation.messages), reply=reply)
        tokens = renderer.tokens(layout)
        spans = [Span(*span) for span in renderer.spans(layout, tokens)]
        return Rendered(tokens.ids, spans, layout.text, tokens.image_positions)

    def train_samples(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        *,
        image_tokens: ImageTokens | None = None,
        where: str = "",
        **template_args: Any,
    ) -> list[TrainSample]:
        """See `whorl.text.samples.train_samples`."""
        from whorl.text.samples import train_samples

        return train_samples(
            conversation, tokenizer, self, image_tokens=image_tokens, where=where, **template_args
        )

    def compiled(self, tools: bool) -> jinja2.Template:
        return self._with_tools if tools else self._plain

    def check_args(self, args: dict[str, Any]) -> None:
        """InputError for an argument that the template does not read: it would change nothing."""
        unknown = next((name for name in args if name not in self._names), None)
        if unknown is not None:
            raise InputError(
                f"{self.where} has no argument {unknown!r}{nearest(unknown, self._names)}; remove it"
            )

    @cached_property
    def _names(self) -> set[str]:
        return names_in(self.source) | (names_in(self.tool_source) if self.tool_source else set())

    @cached_property
    def takes_strings(self) -> bool:
        """False where the template only reads content given as a list of parts (LLaVA's)."""
        probe = "whorlprobe"
        for content in (probe, [{"type": "text", "text": probe}]):
            variables = {"messages": [{"role": "user", "content": content}], "tools": None}
            try:
                text = run_template(self._plain, {**variables, "add_generation_prompt": False}, ("", ""), "")
            except DataError:
                continue  # this form is not for this template
            if probe in text:
                return isinstance(content, str)
        return True

    def end_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The ids that end an assistant's turn: the tokenizer's, and the control token that this
        template writes right after a reply (a base model's configuration may not know it yet)."""
        if tokenizer.hash not in self._ends:
            self._ends[tokenizer.hash] = self._end_of_turn(tokenizer)
        own = self._ends[tokenizer.hash]
        return tuple(dict.fromkeys([*(() if own is None else (own,)), *tokenizer.end_ids]))

    def _end_of_turn(self, tokenizer: Tokenizer) -> int | None:
        probe = "whorlprobe"
        content = probe if self.takes_strings else [{"type": "text", "text": probe}]
        question = "q" if self.takes_strings else [{"type": "text", "text": "q"}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
        variables = {**tokenizer.special_tokens, **self.args, "messages": messages, "tools": None}
        try:
            text = run_template(self._plain, {**variables, "add_generation_prompt": False}, ("", ""), "")
        except DataError:
            return None  # a template for other conversations than this one; the tokenizer's ends stand
        after = text.rpartition(probe)[2].lstrip()
        match = tokenizer.escape.pattern.match(after)
        return None if match is None else tokenizer.controls[match.group()]

    def check(self, tokenizer: Tokenizer) -> None:
        """Whorl's own template needs a tokenizer that knows its control tokens."""
        missing = [token for token in TOKENS if self.source == TEMPLATE and token not in tokenizer.controls]
        if missing:
            raise InputError(
                f"the tokenizer has no {', '.join(missing)}, which the default chat template writes;"
                f" give the model its own {TEMPLATE_FILE} or train the tokenizer with whorl tokenizer train"
            )


def _find(directory: Path) -> tuple[dict[str, str], str]:
    """Named template sources of a directory, in transformers' order of precedence."""
    path = directory / TEMPLATE_FILE
    if path.is_file():
        found = {"default": _read_text(path)}
        extra = directory / "additional_chat_templates" / "tool_use.jinja"
        return found | ({"tool_use": _read_text(extra)} if extra.is_file() else {}), str(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        config = read_json(path) if path.is_file() else {}
        given = config.get("chat_template") if isinstance(config, dict) else None
        if isinstance(given, str):
            return {"default": given}, str(path)
        if isinstance(given, list):
            try:
                return {entry["name"]: str(entry["template"]) for entry in given}, str(path)
            except (TypeError, KeyError) as error:
                problem = "chat_template is a list whose entries lack name or template"
                raise DataError(f"{path}: {problem}") from error
    return {}, str(directory)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
