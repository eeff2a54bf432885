"""The keys of a configuration: their dotted names, their types, and the nearest to a mistyped one."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def config_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of a config and its field, nested ones after their section."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for inner in models_in(field.annotation):
            yield from config_fields(inner, f"{prefix}{name}.")


def describe(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """(dotted key, type, documentation with the default) of every key that takes a value."""
    for key, field, default in _defaults(model):
        if models_in(field.annotation):
            continue
        text = " ".join((field.description or "").split())
        ending = "(required)" if default is PydanticUndefined else _shown(default)
        yield key, type_name(field), f"{text} {ending}".strip()


def _defaults(
    model: type[BaseModel], given: BaseModel | None = None, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Every dotted key with its field and the default that it has *there*: a section may be given another
    one than its class has (`train: Train = Train(steps=50)`)."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if given is not None:
            default = getattr(given, name)
        yield prefix + name, field, default
        for inner in models_in(field.annotation):
            yield from _defaults(inner, default if isinstance(default, inner) else None, f"{prefix}{name}.")


def nearest(name: str, names: typing.Iterable[str], mark: str = "") -> str:
    """`; did you mean …?`, or the names there are, to end a line about an unknown one."""
    names = list(names)
    ends = {full.rsplit(".", 1)[-1]: full for full in reversed(names)}
    end = name.rsplit(".", 1)[-1]
    close = [ends[end]] if end in ends else []  # the right key in the wrong section
    close = close or difflib.get_close_matches(name, names, n=1)
    close = close or [ends[found] for found in difflib.get_close_matches(end, ends, n=1)]
    if close:
        return f"; did you mean {mark}{close[0]}?"
    return f"; choose from {', '.join(mark + full for full in names[:12])}{' …' if len(names) > 12 else ''}"


def _shown(default: Any) -> str:
    """A default as a recipe would have it; nothing for an empty one."""
    if default is None or isinstance(default, bool):
        return f"[{str(default).lower()}]"
    return "" if default in ("", (), [], {}) else f"[{default}]"


def type_name(field: FieldInfo) -> str:
    """A field's type as a person writes it: `int`, `float | none`, `'adamw' | 'muon'`, `str …`."""
    if is_text_list(field):
        return "str …"
    return " | ".join(_type_name(arm) for arm in arms(field.annotation))


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if annotation is types.NoneType:
        return "none"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+", "", str(annotation))


def arms(annotation: Any) -> tuple[Any, ...]:
    """The types a field takes: `int | None` gives (int, NoneType); `Annotated` is looked through."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(arm for part in typing.get_args(annotation) for arm in arms(part))
    if origin is typing.Annotated:
        return arms(typing.get_args(annotation)[0])
    return (annotation,)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    return [arm for arm in arms(annotation) if isinstance(arm, type) and issubclass(arm, BaseModel)]


def models_anywhere(annotation: Any) -> list[type[BaseModel]]:
    """Models in an annotation, inside lists and unions too."""
    direct = models_in(annotation)
    return direct or [found for part in typing.get_args(annotation) for found in models_anywhere(part)]


def is_list(annotation: Any) -> bool:
    return any(typing.get_origin(arm) in (list, tuple, set, frozenset) for arm in arms(annotation))


def is_text_list(field: FieldInfo) -> bool:
    items = {item for arm in arms(field.annotation) if is_list(arm) for item in typing.get_args(arm)}
    return bool(items & {str, Path})
