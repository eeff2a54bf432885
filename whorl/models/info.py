"""What a model directory holds, from its config and the headers of its weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from whorl.base.errors import InputError
from whorl.base.files import read_json
from whorl.models.config import ModelConfig
from whorl.models.directory import parameter_shapes, read_config, stored_shapes
from whorl.models.hub import RECORD
from whorl.models.place import model_directory
from whorl.models.quantise import read_scheme, stored_packed
from whorl.models.weights import Checkpoint, read_header, weight_files, weight_version

PARTS = {
    "embed": "embeddings",
    "position_embed": "embeddings",
    "head": "head",
    "vision": "vision",
    "projector": "vision",
}


def describe(path: str | Path) -> dict[str, Any]:
    """A JSON object: family, axes, parameters, dtypes, weight version, context, template, origin.

    Names and shapes of all tensors are checked on the way, as `load` would; none is read but for the
    weight version, which hashes the files.
    """
    directory = model_directory(path)
    config, family, values = read_config(directory)
    shapes = parameter_shapes(config)
    scheme = read_scheme(values, directory / "config.json")
    stored = stored_shapes(config, scheme)
    with Checkpoint(directory, family) as checkpoint:
        checkpoint.check(stored_packed(family.tensors(config), stored), stored, config.tied)
    files = weight_files(directory)
    headers = [entry for file in files for entry in read_header(file).values()]
    return {
        "directory": str(directory),
        "family": family.model_type,
        "architecture": family.architecture,
        "parameters": _parameters(shapes),
        "stored_dtypes": dict(Counter(entry["dtype"] for entry in headers)),
        "quantisation": None if scheme is None else {"kind": scheme.kind, "group": scheme.group or None},
        "compute_dtype": values.get("dtype", values.get("torch_dtype")),
        "bytes": sum(file.stat().st_size for file in files),
        "files": len(files),
        "weight_version": weight_version(directory),
        "context": config.context,
        "axes": axes(config),
        "tokenizer": _tokenizer(directory),
        "template": _template(directory),
        "pulled": _pulled(directory),
    }


def axes(config: ModelConfig) -> dict[str, Any]:
    """Sizes, and the axes that are not the usual ones."""
    return config.model_dump(mode="json", exclude_defaults=True)


def _parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, shape in shapes.items():
        counts[PARTS.get(name.partition(".")[0], "blocks")] += math.prod(shape)
    return {"total": counts.total(), **counts}


def _tokenizer(directory: Path) -> dict[str, Any] | None:
    if not (directory / "tokenizer.json").is_file():
        return None
    from whorl.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    ends = [tokenizer.token_of(number) for number in tokenizer.end_ids]
    return {"vocab_size": tokenizer.vocab_size, "hash": tokenizer.hash, "end_tokens": ends}


def _template(directory: Path) -> dict[str, Any] | None:
    from whorl.text.template import ChatTemplate

    try:
        template = ChatTemplate.load(directory)
    except InputError:  # there is none; a broken one is a DataError, and passes
        return None
    return {"file": template.where, "hash": template.hash, "args": template.args}


def _pulled(directory: Path) -> dict[str, Any] | None:
    if not (directory / RECORD).is_file():
        return None
    record = read_json(directory / RECORD, what="record of a pull")
    return {key: record.get(key) for key in ("hub", "name", "revision", "commit")}
