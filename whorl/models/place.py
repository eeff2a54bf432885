"""Where a model is: a directory, or a name on the hub. Needs no torch, so that a mistake is told at once."""

from __future__ import annotations

import re
from pathlib import Path

from whorl.base.errors import InputError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(text: str) -> bool:
    """Whether `text` looks like ORG/NAME or ORG/NAME@REVISION."""
    return HUB_NAME.fullmatch(text.partition("@")[0]) is not None


def model_directory(path: str | Path) -> Path:
    """`path` as a folder with a config; a hub name in its place is told what to do."""
    directory = Path(path)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            hint = (
                "; it is an adapter: give its base model, with the adapter as an option"
                if _is_adapter(directory)
                else ""
            )
            raise InputError(f"{directory} has no config.json, so it is not a model directory{hint}")
        return directory
    if directory.exists():
        raise InputError(f"{directory} is a file; give the model's directory")
    if is_hub_name(str(path)):
        raise InputError(
            f"there is no directory {path}; to fetch a model from the hub: whorl model pull {path}"
        )
    raise InputError(f"there is no model directory {path}")


def _is_adapter(directory: Path) -> bool:
    return (directory / "adapter_config.json").is_file()
