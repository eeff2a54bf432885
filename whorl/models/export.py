"""A model directory written anew: in another dtype, other shards, another family, an adapter merged."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from whorl.base.errors import InputError
from whorl.models.directory import load, save
from whorl.models.families import check_family
from whorl.models.place import model_directory
from whorl.models.weights import SHARD_BYTES
from whorl.text.tokenizer import Tokenizer

# What stands beside weights and config, and goes along as it is.
SIDE_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "generation_config.json", "chat_template.jinja",
    "chat_template.json", "chat_template_args.json", "additional_chat_templates/*.jinja",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


def export_model(
    source: str | Path,
    target: str | Path,
    *,
    adapter: str | Path | None = None,
    quantise: tuple[str, int] | None = None,
    dtype: torch.dtype | None = None,
    family: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the model of `source` to `target`, a new or empty directory, with its tokenizer, template
    and processor; `adapter` is merged into the weights first, and its own tokenizer and template win.
    `quantise` is the kind and group of `whorl.models.quantise.quantise`, applied after it.

    `dtype` None keeps the stored one. `family` names another `model_type` that expresses the same
    model; `InputError` where it does not.
    """
    source, target = model_directory(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} already exists; give a new directory")
    model = load(source, adapter=adapter)
    if adapter is not None:
        from whorl.models.lora import merge

        merge(model)
    if family is not None:
        check_family(model.config, family)
    if quantise is not None:
        from whorl.models.quantise import quantise as put_into_bits

        put_into_bits(model, *quantise)
    folders = [source] if adapter is None else [source, Path(adapter)]
    with_tokenizer = [folder for folder in folders if (folder / "tokenizer.json").is_file()]
    tokenizer = Tokenizer.load(with_tokenizer[-1]) if with_tokenizer else None
    save(model, target, tokenizer, family=family, dtype=dtype, shard_bytes=shard_bytes)
    for folder in folders:
        copy_side_files(folder, target)
    return target


def copy_side_files(source: Path, target: Path) -> None:
    for pattern in SIDE_FILES:
        for path in source.glob(pattern):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
