"""Jinja for chat templates: sandboxed, with transformers' extras, and bounded in what it may build."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from whorl.base.errors import DataError

MAX_OUTPUT = 64 << 20  # characters of one rendered conversation
BUDGET = 128 << 20  # characters and items that one rendering may build on its way there
CONCAT = "__concat"
MARKS = "__generation_marks"

_budget: ContextVar[float] = ContextVar("template budget", default=0)


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


class _BoundedJoins(NodeTransformer):
    """`a ~ b` is compiled past every hook of the environment; as a filter it can be counted."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 (jinja2's visitors are named so)
        parts = nodes.List([self.visit(part) for part in node.nodes])
        return nodes.Filter(parts, CONCAT, [], [], None, None).set_lineno(node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The immutable sandbox, which also counts what operators, methods and filters build, and stops a
    template before it fills the memory. (One that only wastes time is not stopped.)"""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _BoundedJoins().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                    _spend(len(sequence) * times)
        elif operator == "+" and all(isinstance(side, str | list | tuple) for side in (left, right)):
            _spend(len(left) + len(right))
        elif operator == "**" and isinstance(right, int | float):
            _spend(abs(right) * 8)
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("a chat template may not format with %; use ~ to join strings")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            _spend_method(owner, obj.__name__, args)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        raise SecurityError("a chat template may not use str.format; use ~ to join strings")


def _spend(size: float) -> None:
    """Count `size` characters or items against this rendering's budget."""
    left = _budget.get() - max(0, size)
    if left < 0:
        raise SecurityError(f"the chat template builds more than {BUDGET} characters or items")
    _budget.set(left)


def _spend_method(owner: str, name: str, args: tuple[Any, ...]) -> None:
    if name == "replace" and len(args) >= 2 and all(isinstance(value, str) for value in args[:2]):
        _spend(len(owner) + owner.count(args[0]) * len(args[1]))
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _spend(sum(len(owner) + len(str(value)) for value in args[0]))
    elif name in ("ljust", "rjust", "center", "zfill", "expandtabs"):
        tabs = max(1, owner.count("\t")) if name == "expandtabs" else 1
        _spend(len(owner) + tabs * sum(value for value in args if isinstance(value, int)))
    else:
        _spend(len(owner))


def _concat(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _spend(sum(map(len, texts)))
    return "".join(texts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = str(text)
    _spend_method(text, "replace", (str(old), str(new)))
    return text.replace(str(old), str(new), count)


def _join(values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = [value[attribute] for value in values]
    texts = [str(value) for value in values]
    _spend(sum(len(text) + len(d) for text in texts))
    return d.join(texts)


def _bounded(filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose integers say how much it builds."""

    @functools.wraps(filter)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spend(sum(value for value in (*args, *kwargs.values()) if isinstance(value, int)))
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


@functools.cache
def environment() -> BoundedEnvironment:
    made = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.filters.update({CONCAT: _concat, "replace": _replace, "join": _join})
    for name in ("center", "indent", "wordwrap", "batch", "slice", "tojson"):
        made.filters[name] = _bounded(made.filters[name])
    # What builds more than any count of its arguments tells, and no chat template needs.
    for name in ("format", "urlize", "pprint", "xmlattr"):
        del made.filters[name]
    del made.globals["lipsum"]
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


def names_in(source: str) -> set[str]:
    """Every variable a template mentions."""
    return {node.name for node in environment().parse(source).find_all(nodes.Name)}


def run_template(
    template: jinja2.Template, variables: dict[str, Any], marks: tuple[str, str], where: str
) -> str:
    """Render with `marks` around what `{% generation %}` holds; DataError says what the template refused."""
    pieces: list[str] = []
    size = 0
    _budget.set(BUDGET)
    try:
        for piece in template.generate({**variables, MARKS: marks}):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise SecurityError(f"the chat template wrote more than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise DataError(f"{where}: the chat template rejects this conversation: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        # Templates are programs: on messages they were not written for they fail like any other.
        kind = type(error).__name__
        raise DataError(f"{where}: the chat template fails on this conversation: {kind}: {error}") from error
    return "".join(pieces)
