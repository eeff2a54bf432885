"""Objects by name: `package.module:name`, or `path/to/file.py:name` for code that is no package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError, InputError
from whorl.base.fields import nearest


def resolve(name: str) -> Any:
    """The object a dotted name points to: `package.module:name` or `path/to/file.py:name`.

    A file is run once per process under its own path, so that two names from one file share its
    objects. Raises `InputError` where the file, module or name is missing; an error inside the
    file is its own and passes through.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise InputError(f"{name!r} is not a valid name; write module:name or file.py:name")
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
