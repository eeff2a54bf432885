"""Models in a workspace: folders that hold a configuration, a tokenizer and weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DEPTH = 4  # folders below runs/ and models/
TOPS = ("runs", "models")
SKIPPED = ("checkpoints", "data", "tokens", "documents")


def is_model(folder: Path) -> bool:
    parts = ("config.json", "tokenizer.json")
    return all((folder / part).is_file() for part in parts) and any(folder.glob("*.safetensors"))


def find_models(workspace: Path) -> dict[str, Path]:
    """Name → directory of every model under `runs/` and `models/`, the name being the way to it without
    a last `model`: `quickstart` is runs/quickstart/model, `quickstart/base` its base. In the names' order."""
    found: dict[str, Path] = {}
    for top in TOPS:
        for folder in sorted(_walk(workspace / top, DEPTH)):
            name = _name(folder.relative_to(workspace / top))
            found.setdefault(name if name not in found else f"{top}/{name}", folder)
    return dict(sorted(found.items()))


def way_of(folder: Path, workspace: Path) -> str:
    """The name that `find_models` gives a folder of this workspace; "" for one from elsewhere."""
    for top in TOPS:
        above = (workspace / top).resolve()
        if folder != above and folder.is_relative_to(above):
            return _name(folder.relative_to(above))
    return ""


def _name(way: Path) -> str:
    return (way.parent if way.name == "model" and len(way.parts) > 1 else way).as_posix()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    if is_model(folder):
        yield folder
    elif depth:
        try:
            inside = [one for one in folder.iterdir() if one.is_dir()]
        except OSError:  # it has gone meanwhile, or is somebody else's
            return
        for inner in inside:
            if inner.name not in SKIPPED and not inner.name.startswith("."):
                yield from _walk(inner, depth - 1)
