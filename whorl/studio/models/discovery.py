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
            way = folder.relative_to(workspace / top)
            name = str(way.parent if way.name == "model" and len(way.parts) > 1 else way)
            found.setdefault(name if name not in found else f"{top}/{name}", folder)
    return dict(sorted(found.items()))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    if is_model(folder):
        yield folder
    elif depth:
        for inner in folder.iterdir():
            if inner.is_dir() and inner.name not in SKIPPED and not inner.name.startswith("."):
                yield from _walk(inner, depth - 1)
