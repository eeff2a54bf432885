"""JSON schemas of tool arguments: written from a function's annotations, checked on each call.

The checker knows the keywords that annotations produce and that tool descriptions use in practice;
a schema with any other keyword is refused when the tool is made, so none is silently ignored.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import Field, TypeAdapter, create_model
from pydantic.errors import PydanticSchemaGenerationError

from whorl.base.errors import InputError

Schema = dict[str, Any]

SAYS_NOTHING = {"title", "description", "default", "examples"}  # annotations: they constrain no value
CHECKED = {
    "type", "enum", "const", "anyOf", "properties", "required", "additionalProperties", "items",
    "minItems", "maxItems", "minLength", "maxLength", "pattern",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip
TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def parameters_of(function: Callable[..., Any]) -> Schema:
    """The JSON schema of `function`'s arguments, from its annotations.

    `Annotated[str, "what it is"]` gives an argument its description; a default makes it optional.
    Raises `InputError` for an argument without an annotation, `*args`, `**kwargs`, or a type that
    JSON cannot carry.
    """
    name = getattr(function, "__name__", repr(function))
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for argument in inspect.signature(function).parameters.values():
        place = f"tool {name!r}: argument {argument.name!r}"
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise InputError(f"{place} is positional-only, *args or **kwargs; name every argument")
        if argument.name not in hints:
            raise InputError(f"{place} has no type annotation; write e.g. {argument.name}: str")
        default = ... if argument.default is argument.empty else argument.default
        says = [note for note in getattr(hints[argument.name], "__metadata__", ()) if isinstance(note, str)]
        fields[argument.name] = (hints[argument.name], Field(default, description=says[0] if says else None))
        try:
            TypeAdapter(hints[argument.name])
        except PydanticSchemaGenerationError as error:
            raise InputError(
                f"{place} has a type JSON cannot carry; use str, int, float, bool, list, dict"
            ) from error
    schema = _without_titles(create_model(name, **fields).model_json_schema())
    kept = {key: schema[key] for key in ("required", "$defs") if key in schema}
    return {"type": "object", "properties": schema.get("properties", {}), **kept}


def _without_titles(schema: Any) -> Any:
    """pydantic titles every field with its own name; a model should not have to read that."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(item) for name, item in value.items()}
        if key == "properties"
        else _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def refuse_unknown(schema: Any, where: str) -> None:
    """Raise `InputError` where `schema` uses a keyword or type that `problem` does not check."""
    if not isinstance(schema, dict):
        raise InputError(f"{where}: a JSON schema must be an object, not {schema!r}")
    unknown = sorted(set(schema) - CHECKED - SAYS_NOTHING)
    if unknown:
        raise InputError(
            f"{where}: schema keyword {unknown[0]!r} is not supported; use {', '.join(sorted(CHECKED))}"
        )
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            raise InputError(f"{where}: schema type {kind!r} is not one of {', '.join(TYPES)}")
    for name, part in schema.get("properties", {}).items():
        refuse_unknown(part, f"{where}.{name}")
    for index, part in enumerate(schema.get("anyOf", [])):
        refuse_unknown(part, f"{where}.anyOf[{index}]")
    if "items" in schema:
        refuse_unknown(schema["items"], f"{where}[]")
    if not isinstance(extra := schema.get("additionalProperties", True), bool):
        refuse_unknown(extra, f"{where}.*")


def problem(value: Any, schema: Schema, where: str = "arguments") -> str | None:
    """What is wrong with `value` by `schema`, in one line for the model; None where nothing is."""
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return f"{where} must be {' or '.join(kinds)}, got {_short(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(repr, schema['enum']))}, got {_short(value)}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {schema['const']!r}, got {_short(value)}"
    if "anyOf" in schema:
        problems = [problem(value, part, where) for part in schema["anyOf"]]
        if all(problems):
            return problems[0]
    if isinstance(value, dict):
        return _object_problem(value, schema, where)
    if isinstance(value, list):
        return _array_problem(value, schema, where)
    return _scalar_problem(value, schema, where)


def _object_problem(value: dict[str, Any], schema: Schema, where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{where} has no {name!r}"
    for name, item in value.items():
        part = properties.get(name, schema.get("additionalProperties", True))
        if part is False:
            return f"{where} has an unknown {name!r}; known: {', '.join(map(repr, properties)) or 'none'}"
        if isinstance(part, dict) and (found := problem(item, part, name)):
            return found
    return None


def _array_problem(value: list[Any], schema: Schema, where: str) -> str | None:
    if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
        low, high = schema.get("minItems", 0), schema.get("maxItems", "any number")
        return f"{where} must have {low} to {high} items, got {len(value)}"
    for index, item in enumerate(value):
        if "items" in schema and (found := problem(item, schema["items"], f"{where}[{index}]")):
            return found
    return None


def _scalar_problem(value: Any, schema: Schema, where: str) -> str | None:
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0) or len(value) > schema.get("maxLength", len(value)):
            low, high = schema.get("minLength", 0), schema.get("maxLength", "any number of")
            return f"{where} must have {low} to {high} characters, got {len(value)}"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"{where} must match {schema['pattern']!r}, got {_short(value)}"
    elif _is_number(value):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            low, high = schema.get("minimum", "-∞"), schema.get("maximum", "∞")
            return f"{where} must be between {low} and {high}, got {value}"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            return f"{where} must be above {schema['exclusiveMinimum']}, got {value}"
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            return f"{where} must be below {schema['exclusiveMaximum']}, got {value}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
