"""Configuration: frozen pydantic models, TOML recipes, `--section.key value` overrides.

A `Config` is frozen, keyword only, and refuses keys it does not have. `load_config` reads a recipe
and lays the command line's overrides over it; every mistake becomes one line with the file, the key
and, for an unknown key, the nearest name. `dump_config` writes the whole as a recipe that runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from whorl.base.errors import InputError
from whorl.base.fields import arms, config_fields, describe, models_anywhere, nearest
from whorl.base.names import resolve
from whorl.base.overrides import COMMAND_LINE, NONE, parse_overrides

__all__ = ["Config", "describe", "dump_config", "load_config", "nearest", "read_toml", "resolve"]


class Config(BaseModel):
    """Base of every configuration: frozen, keyword only, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, given: Any) -> Any:
        """`none` in a recipe or on the command line is None, where a key takes that."""
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        nones = [name for name, value in given.items() if value == NONE and name in fields]
        return {**given, **{name: None for name in nones if NoneType in arms(fields[name].annotation)}}


ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
ConfigType = TypeVar("ConfigType", bound=Config)


def load_config(
    model: type[ConfigType], path: str | Path | None = None, overrides: Sequence[str] = ()
) -> ConfigType:
    """A `model` from a TOML recipe, with `overrides` laid over it.

    `overrides` are words as a shell gives them: `["--train.steps", "100", "--optimizer.lr=3e-4"]`;
    names may be spelt with `-` for `_`. Lists repeat the key or are JSON; `none` is None.
    Raises `InputError`, one line, for a missing file, an unknown key, a wrong type or a bad value.
    """
    table = read_toml(path) if path is not None else {}
    given = parse_overrides(model, overrides)
    merged = _fill_defaults(model, _merge(table, given))
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise InputError(_explain(error, model, path, merged, given)) from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dictionary; one line that names file and place where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"config {path} is not a file; give the path of a TOML recipe") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} is not valid TOML: {error}") from error


def dump_config(config: Config) -> str:
    """`config` with every default written out, as TOML that `load_config` takes back."""
    import tomli_w

    return tomli_w.dumps(_table(config))


def _table(config: BaseModel) -> dict[str, Any]:
    """TOML has no null: a None that is the default is left out, any other is written as "none"."""
    table: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value is not None:
            table[name] = _plain(value)
        elif field.get_default(call_default_factory=True, validated_data={}) is not None:
            table[name] = NONE
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _table(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, float) else ANYTHING.dump_python(value, mode="json")


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _fill_defaults(model: type[BaseModel], table: dict[str, Any]) -> dict[str, Any]:
    """Where a section is given in part, its other keys keep the default the *section* has here,
    which may differ from its class's (`train: Train = Train(steps=50)`)."""
    filled = dict(table)
    for name, field in model.model_fields.items():
        value = filled.get(name)
        if not isinstance(value, dict):
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            value = _merge(default.model_dump(exclude_unset=True), value)
            filled[name] = _fill_defaults(type(default), value)
    return filled


# -- one line for a mistake -----------------------------------------------------------------------


def _explain(
    error: ValidationError,
    model: type[BaseModel],
    path: str | Path | None,
    merged: dict[str, Any],
    given: dict[str, Any],
) -> str:
    """The first mistake in words, and how many more there are."""
    errors = error.errors(include_url=False)
    errors.sort(key=lambda one: one["type"] != "extra_forbidden")  # a typo explains what else is missing
    first = errors[0]
    place = _place(merged, first["loc"])
    key = ".".join(str(part) for part in place)
    overridden = _holds(given, place)
    where = COMMAND_LINE if overridden or path is None else f"config {path}"
    shown = f"--{key.replace('_', '-')}" if overridden else key
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        section = ".".join(str(part) for part in place[:-1] if not isinstance(part, int))
        names = _keys_beside(model, place) or list(dict(config_fields(model)))
        inside = f" in [{section}]" if section else ""
        return f"{where}: unknown key {str(place[-1])!r}{inside}{nearest(str(place[-1]), names)}{more}"
    if first["type"] == "missing":
        remedy = (
            "" if any(isinstance(part, int) for part in place) else f" or as --{key.replace('_', '-')} VALUE"
        )
        return f"{where}: {key} is missing; set it in the recipe{remedy}{more}"
    said = (
        first["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input should be ")
        .partition(", unable to")[0]
    )
    expected = f"expected {said}" if said != first["msg"] and not first["msg"].startswith("Value") else said
    value = repr(first["input"])
    value = value if len(value) <= 80 else value[:77] + "…"
    if not key:
        return f"{where}: {expected}{more}"
    return f"{where}: {shown}: {expected[:1].lower() + expected[1:]}, got {value}{more}"


def _place(value: Any, location: Sequence[int | str]) -> list[int | str]:
    """Pydantic's place of an error without the names of union arms ("int", "SomeConfig") in it:
    what leads into `value`, and the last part, which a missing key has to itself."""
    place: list[int | str] = []
    for number, part in enumerate(location):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif not isinstance(value, dict) or number + 1 < len(location):
            continue
        place.append(part)
    return place


def _holds(given: dict[str, Any], place: Sequence[int | str]) -> bool:
    value: Any = given
    for part in place:
        if not isinstance(value, dict):
            return True  # inside a list or JSON value given on the command line
        if part not in value:
            return False
        value = value[part]
    return bool(place)


def _keys_beside(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The names that would have been right where the last part of `place` stands."""
    sections = [model]
    for part in place[:-1]:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for section in sections:
            if part in section.model_fields:
                found += models_anywhere(section.model_fields[part].annotation)
        sections = found or sections
    return [name for section in sections for name in section.model_fields]
