"""`--section.key value` on the command line, laid over a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from whorl.base.errors import InputError
from whorl.base.fields import arms, config_fields, is_list, is_text_list, nearest, type_name

COMMAND_LINE = "command line"
NONE = "none"
BOOLEAN_WORDS = ("true", "false", "yes", "no", "on", "off", "1", "0", NONE)


def parse_overrides(model: type[BaseModel], overrides: Sequence[str]) -> dict[str, Any]:
    """`["--a.b", "1"]` as `{"a": {"b": "1"}}`: only what was given; values are checked by `model` later."""
    if not overrides:
        return {}
    # Imported here: it takes three times as long as pydantic, and most processes override nothing.
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

    fields = dict(config_fields(model))
    pairs = split_overrides(model, overrides)
    words = [f"--{key}={value}" for key, value in pairs if not is_text_list(fields[key])]
    settings = type(
        model.__name__, (BaseSettings, model), {"model_config": SettingsConfigDict(case_sensitive=True)}
    )
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            settings, cli_parse_args=words, cli_parse_none_str=NONE, cli_exit_on_error=False
        )
        parsed = dict(source())
    except SettingsError as error:
        reason = " ".join(str(error).split()).removeprefix("error parsing CLI: ")
        raise InputError(f"{COMMAND_LINE}: {reason}") from error
    for key, value in pairs:
        if is_text_list(fields[key]):
            _add_text(parsed, key.split("."), value)
    return parsed


def _add_text(table: dict[str, Any], place: list[str], value: str) -> None:
    """Append to a list of texts: the library would cut "a,b.txt" in two and read "2024" as a number."""
    for section in place[:-1]:
        table = table.setdefault(section, {})
    words = table.setdefault(place[-1], [])
    if value.startswith("[") and value.endswith("]"):
        try:
            words += json.loads(value)
            return
        except json.JSONDecodeError:
            pass  # a text that happens to stand in brackets
    words.append(value)


def split_overrides(model: type[BaseModel], words: Sequence[str]) -> list[tuple[str, str]]:
    """Pair keys with values: `--key value`, `--key=value`, and `--flag` alone for a boolean."""
    fields = dict(config_fields(model))
    rest = list(words)
    pairs: list[tuple[str, str]] = []
    while rest:
        pairs += take_override(fields, rest)
    return pairs


def take_override(
    fields: dict[str, FieldInfo], words: list[str], also: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Take one override off the front of `words`: its key and its value, once for each text of a list.

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
        near = nearest(key.replace("_", "-"), [one.replace("_", "-") for one in (*also, *fields)], "--")
        raise InputError(f"{COMMAND_LINE}: unknown option --{name}{near}")
    if equals:
        return [(key, value)]
    if is_list(fields[key].annotation):
        end = next((place for place, other in enumerate(words) if other.startswith("--")), len(words))
        taken, words[:] = words[:end], words[end:]
        if taken:
            return [(key, one) for one in taken] if is_text_list(fields[key]) else [(key, ",".join(taken))]
    boolean = bool in arms(fields[key].annotation)
    if words and (words[0].lower() in BOOLEAN_WORDS if boolean else not words[0].startswith("--")):
        return [(key, words.pop(0))]
    if boolean:
        return [(key, "true")]
    raise InputError(f"{COMMAND_LINE}: --{name} needs a value: {type_name(fields[key])}")
