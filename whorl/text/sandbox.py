"""Jinja for chat templates: sandboxed, with transformers' extras, and bounded in what it may build."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from whorl.base.errors import DataError

MAX_OUTPUT = 64 << 20  # characters of one rendered conversation
MAX_PIECE = 64 << 20  # characters or items an operator in a template may build at once
MARKS = "__generation_marks"


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: what the model itself writes.

    The block comes out between two mark characters that the caller chose (outside every string it
    passed in); they survive macros, captures and filters where an output position would not.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> str:
        opening, closing = context[MARKS]
        return f"{opening}{caller()}{closing}"


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The immutable sandbox, which also refuses operations whose result would not fit in memory."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                    _bound(len(sequence) * times)
        elif operator == "+" and all(isinstance(side, str | list | tuple) for side in (left, right)):
            _bound(len(left) + len(right))
        elif operator == "**" and isinstance(right, int | float):
            _bound(abs(right) * 8)
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("a chat template may not format with %; use ~ to join strings")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                _bound(value)
        return super().call(context, obj, *args, **kwargs)


def _bound(size: float) -> None:
    if size > MAX_PIECE:
        raise SecurityError(f"the chat template asks for {size:.0f} characters or items at once")


def _bounded(filter: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                _bound(value)
        return filter(*args, **kwargs)

    return bounded


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


@cache
def environment() -> BoundedEnvironment:
    made = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    for name in ("center", "indent", "wordwrap"):
        made.filters[name] = _bounded(made.filters[name])
    del made.filters["format"]  # `%1000000000d` builds what no bound sees; no template of the field uses it
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made


def compile_template(source: str, where: str) -> jinja2.Template:
    """Compile, or raise DataError with the template's file and line."""
    try:
        return environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        problem = f"the chat template is not valid Jinja: {error.message}"
        raise DataError(f"{where}:{error.lineno}: {problem}") from error


def run_template(
    template: jinja2.Template, variables: dict[str, Any], marks: tuple[str, str], where: str
) -> str:
    """Render with `marks` around what `{% generation %}` holds; DataError says what the template refused."""
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate({**variables, MARKS: marks}):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise SecurityError(f"the chat template wrote more than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise DataError(f"{where}: the chat template refuses this conversation: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        # Templates are programs: on messages they were not written for they fail like any other.
        kind = type(error).__name__
        raise DataError(f"{where}: the chat template fails on this conversation: {kind}: {error}") from error
    return "".join(pieces)
