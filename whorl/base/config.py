"""Configuration: frozen pydantic models, TOML recipes, `--section.key value` overrides.

A `Config` is frozen, keyword only, and refuses keys it does not have. `load_config` reads a recipe
and lays the command line's overrides over it; every mistake becomes one line with the file, the key
and, for an unknown key, the nearest name. `dump_config` writes the whole as a recipe that runs.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from whorl.base.errors import DataError, InputError

COMMAND_LINE = "command line"
BOOLEAN_WORDS = ("true", "false", "yes", "no", "on", "off", "1", "0", "none")


class Config(BaseModel):
    """Base of every configuration: frozen, keyword only, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


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
    """`config` with every default written out, as TOML that `load_config` takes back.

    TOML has no null, so a None is left out; that reads back as None only where None is the default,
    hence a field with another default may not allow None (a test holds every config to that).
    """
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


# -- overrides ------------------------------------------------------------------------------------


def parse_overrides(model: type[Config], overrides: Sequence[str]) -> dict[str, Any]:
    """`["--a.b", "1"]` as `{"a": {"b": "1"}}`: only what was given; values are checked by `model` later."""
    if not overrides:
        return {}
    # Imported here: it takes three times as long as pydantic, and most processes override nothing.
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

    words = [f"--{key}={value}" for key, value in split_overrides(model, overrides)]
    settings = type(
        model.__name__, (BaseSettings, model), {"model_config": SettingsConfigDict(case_sensitive=True)}
    )
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            settings, cli_parse_args=words, cli_parse_none_str="none", cli_exit_on_error=False
        )
        return dict(source())
    except SettingsError as error:
        reason = " ".join(str(error).split()).removeprefix("error parsing CLI: ")
        raise InputError(f"{COMMAND_LINE}: {reason}") from error


def split_overrides(model: type[Config], words: Sequence[str]) -> list[tuple[str, str]]:
    """Pair keys with values: `--key value`, `--key=value`, and `--flag` alone for a boolean."""
    fields = dict(config_fields(model))
    rest = list(words)
    pairs: list[tuple[str, str]] = []
    while rest:
        pairs.append(take_override(fields, rest))
    return pairs


def take_override(
    fields: dict[str, FieldInfo], words: list[str], also: Sequence[str] = ()
) -> tuple[str, str]:
    """Take one override off the front of `words`: its key and its value.

    `also` are option names that are not keys, for the nearest name. A boolean takes the next word
    only where that is one (`--compile false`), so that `--compile recipe.toml` means what it says;
    a list takes all words up to the next option, as a shell's `--data notes/*.md` gives them.
    """
    word = words.pop(0)
    if not word.startswith("--") or word == "--":
        raise InputError(f"{COMMAND_LINE}: unexpected {word!r}; an override is --section.key value")
    name, equals, value = word[2:].partition("=")
    key = name.replace("-", "_")
    if key not in fields:
        raise InputError(f"{COMMAND_LINE}: unknown option --{name}{nearest(key, [*also, *fields], '--')}")
    if equals:
        return key, _as_list(fields[key], [value])
    if _is_list(fields[key].annotation):
        end = next((place for place, other in enumerate(words) if other.startswith("--")), len(words))
        taken, words[:] = words[:end], words[end:]
        if taken:
            return key, _as_list(fields[key], taken)
    boolean = bool in _arms(fields[key].annotation)
    if words and (words[0].lower() in BOOLEAN_WORDS if boolean else not words[0].startswith("--")):
        return key, words.pop(0)
    if boolean:
        return key, "true"
    raise InputError(f"{COMMAND_LINE}: --{name} needs a value: {type_name(fields[key])}")


def _as_list(field: FieldInfo, words: list[str]) -> str:
    """Words for a list of texts as JSON, because the library would cut a path at its comma."""
    if words[0][:1] in ("[", "{") or words == ["none"] or not _is_list(field.annotation):
        return words[0] if len(words) == 1 else ",".join(words)
    items = {item for arm in _arms(field.annotation) for item in typing.get_args(arm)}
    return json.dumps(words) if items & {str, Path} else ",".join(words)


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(arm) in (list, tuple, set, frozenset) for arm in _arms(annotation))


def config_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of a config and its field, nested ones after their section."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for inner in _models_in(field.annotation):
            yield from config_fields(inner, f"{prefix}{name}.")


def describe(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """(dotted key, type, documentation with the default) of every key that takes a value."""
    for key, field in config_fields(model):
        if _models_in(field.annotation):
            continue
        text = " ".join((field.description or "").split())
        default = field.get_default(call_default_factory=True, validated_data={})
        ending = "(required)" if field.is_required() else f"[{'none' if default is None else default}]"
        yield key, type_name(field), f"{text} {ending}".strip()


def _arms(annotation: Any) -> tuple[Any, ...]:
    """The types a field takes: `int | None` gives (int, NoneType); `Annotated` is looked through."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(arm for part in typing.get_args(annotation) for arm in _arms(part))
    if origin is typing.Annotated:
        return _arms(typing.get_args(annotation)[0])
    return (annotation,)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    return [arm for arm in _arms(annotation) if isinstance(arm, type) and issubclass(arm, BaseModel)]


# -- merging --------------------------------------------------------------------------------------


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
    shown = f"--{key}" if overridden else key
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        section = ".".join(str(part) for part in place[:-1] if not isinstance(part, int))
        names = _keys_beside(model, place) or list(dict(config_fields(model)))
        inside = f" in [{section}]" if section else ""
        return f"{where}: unknown key {str(place[-1])!r}{inside}{nearest(str(place[-1]), names)}{more}"
    if first["type"] == "missing":
        remedy = "" if any(isinstance(part, int) for part in place) else f" or as --{key} VALUE"
        return f"{where}: {key} is missing; give it in the recipe{remedy}{more}"
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
                found += _models_anywhere(section.model_fields[part].annotation)
        sections = found or sections
    return [name for section in sections for name in section.model_fields]


def _models_anywhere(annotation: Any) -> list[type[BaseModel]]:
    """Models in an annotation, inside lists and unions too."""
    direct = _models_in(annotation)
    return direct or [found for part in typing.get_args(annotation) for found in _models_anywhere(part)]


def nearest(name: str, names: typing.Iterable[str], mark: str = "") -> str:
    """`; did you mean …?`, or the names there are, to end a line about an unknown one."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:  # right key, wrong section
        close = [full for full in names if full.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]][:1]
    if close:
        return f"; did you mean {mark}{close[0]}?"
    return f"; there are {', '.join(mark + full for full in names[:12])}{' …' if len(names) > 12 else ''}"


def type_name(field: FieldInfo) -> str:
    """A field's type as a person writes it: `int`, `float | None`, `'adamw' | 'muon'`."""
    return " | ".join(_type_name(arm) for arm in _arms(field.annotation))


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if annotation is types.NoneType:
        return "none"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+", "", str(annotation))


# -- names of objects -----------------------------------------------------------------------------


def resolve(name: str) -> Any:
    """The object a dotted name points to: `package.module:name` or `path/to/file.py:name`.

    A file is run once per process under its own path, so that two names from one file share its
    objects. Raises `InputError` where the file, module or name is missing; an error inside the
    file is its own and passes through.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise InputError(f"{name!r} is not a name; write module:name or file.py:name")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module_of_name(place, name)
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            public = [key for key in vars(module) if not key.startswith("_")]
            raise InputError(f"{place} has no {attribute!r}{nearest(attribute, public, '')}") from error
    return value


def _module_of_name(place: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(error.name + ".")):
            raise  # the module is there; something it imports is not
        raise InputError(f"{name!r}: no module {error.name!r}; install it or check the spelling") from error


def _module_of_file(path: Path) -> types.ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a Python file before the colon")
    known = f"whorl_file:{path}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # before running it: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
