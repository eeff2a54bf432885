"""`whorl model info | export | merge | quantize | pull`: model directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

DTYPE_NAMES = ("float32", "bfloat16", "float16")
GIGABYTE = 1_000_000_000

dtype_option = click.option(
    "--dtype", type=click.Choice(DTYPE_NAMES), help="Dtype of the tensors; default: as stored."
)
shard_option = click.option(
    "--shard-gb", default=5.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="Maximum size of a file, in GB.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Work with model directories: info, export, merge, quantize, pull."""


@command.command()
@click.argument("model", metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(model: str, as_json: bool) -> None:
    """Show what MODEL, a Hugging Face directory, contains; its files are checked too."""
    from whorl.models.info import describe

    found = describe(model)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name, text in rows(found):
            click.echo(f"{name:<15}{text}")


@command.command()
@click.argument("model", metavar="MODEL")
@click.argument("out", type=click.Path(path_type=Path))
@dtype_option
@shard_option
@click.option("--family", metavar="NAME", help="Write the model as this model_type, if that can express it.")
@click.option("--json", "as_json", is_flag=True, help='{"out": …, "weight_version": …} on stdout.')
def export(
    model: str, out: Path, dtype: str | None, shard_gb: float, family: str | None, as_json: bool
) -> None:
    """Rewrite MODEL to OUT with another dtype, shard size or family."""
    from whorl.models.export import export_model

    export_model(model, out, dtype=torch_dtype(dtype), family=family, shard_bytes=int(shard_gb * GIGABYTE))
    wrote(out, as_json)


@command.command()
@click.argument("model", metavar="MODEL")
@click.argument("adapter", metavar="ADAPTER")
@click.argument("out", type=click.Path(path_type=Path))
@dtype_option
@shard_option
@click.option("--json", "as_json", is_flag=True, help='{"out": …, "weight_version": …} on stdout.')
def merge(model: str, adapter: str, out: Path, dtype: str | None, shard_gb: float, as_json: bool) -> None:
    """Merge ADAPTER, a PEFT directory, into the weights of MODEL and write the result to OUT."""
    from whorl.models.export import export_model

    export_model(model, out, adapter=adapter, dtype=torch_dtype(dtype), shard_bytes=int(shard_gb * GIGABYTE))
    wrote(out, as_json)


@command.command()
@click.argument("model", metavar="MODEL")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice(("int8", "int4")), required=True, help="Bits per weight.")
@click.option(
    "--group", default=32, show_default=True, type=click.Choice((32, 64, 128)),
    help="Number of weights that share a scale (int4 only).",
)  # fmt: skip
@shard_option
@click.option("--json", "as_json", is_flag=True, help='{"out": …, "weight_version": …} on stdout.')
def quantize(model: str, out: Path, kind: str, group: int, shard_gb: float, as_json: bool) -> None:
    """Write MODEL to OUT with the blocks' weights in 8 or 4 bits, in compressed-tensors format.

    `whorl serve`, vLLM and transformers read it. Embeddings, norms, vision and the output head are left
    unquantised.
    """
    from whorl.models.export import export_model

    export_model(model, out, quantise=(kind, group), shard_bytes=int(shard_gb * GIGABYTE))
    wrote(out, as_json)


@command.command()
@click.argument("name", metavar="ORG/NAME[@REVISION]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to write it; default: ORG/NAME in the current directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the record of the pull.")
def pull(name: str, out: Path | None, as_json: bool) -> None:
    """Fetch a model from the hub: safetensors, tokenizer, config and template, at one revision.

    If interrupted, run it again to resume. $HF_ENDPOINT selects another hub; $HF_TOKEN gives access to gated
    models.
    """
    from whorl.models.hub import RECORD
    from whorl.models.hub import pull as fetch

    path = fetch(name, out)
    click.echo((path / RECORD).read_text(encoding="utf-8").rstrip() if as_json else str(path))


def torch_dtype(name: str | None) -> torch.dtype | None:
    from whorl.models.directory import DTYPES

    return None if name is None else DTYPES[name]


def wrote(out: Path, as_json: bool) -> None:
    from whorl.models.weights import weight_version

    made = {"out": str(out), "weight_version": weight_version(out)}
    click.echo(json.dumps(made) if as_json else f"{out}  weights {made['weight_version'][:12]}")


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """`describe`'s object as lines for people."""
    from whorl.base.progress import figure

    counts = dict(found["parameters"])
    total = counts.pop("total")
    quantised = found["quantisation"]
    packed = f"{quantised['kind']} in groups of {quantised['group'] or 'a row'}, " if quantised else ""
    parts = ", ".join(f"{name} {figure(count)}" for name, count in counts.items())
    stored = ", ".join(found["stored_dtypes"])
    lines = [
        ("family", f"{found['family']} ({found['architecture']})"),
        ("parameters", f"{total:,} ({parts})"),
        ("dtype", f"{packed}stored {stored}, computes in {found['compute_dtype'] or 'the same'}"),
        (
            "weights",
            f"{figure(found['bytes'])}B in {found['files']} file(s), version {found['weight_version']}",
        ),
        ("context", f"{found['context']:,} tokens"),
        ("axes", shown(found["axes"])),
    ]
    tokenizer, template, pulled = found["tokenizer"], found["template"], found["pulled"]
    if tokenizer:
        ends = " ".join(tokenizer["end_tokens"]) or "none"
        lines.append(
            (
                "tokenizer",
                f"{tokenizer['vocab_size']:,} tokens, ends with {ends}, hash {tokenizer['hash'][:12]}",
            )
        )
    else:
        lines.append(("tokenizer", "none"))
    args = f", arguments {json.dumps(template['args'])}" if template and template["args"] else ""
    lines.append(
        ("template", f"{template['file']}, hash {template['hash'][:12]}{args}" if template else "none")
    )
    if pulled:
        lines.append(("pulled", f"{pulled['name']} at {pulled['commit'][:12]} from {pulled['hub']}"))
    return lines


def shown(axes: dict[str, Any]) -> str:
    """`d_model 512, rope (theta 500000)`; layers that slide a window as a count."""
    texts = []
    for name, value in axes.items():
        if isinstance(value, dict):
            texts.append(f"{name} ({shown(value)})")
        elif isinstance(value, list):
            texts.append(f"{name} {len(value)}")
        elif value is not None:
            texts.append(f"{name} {value}")
    return ", ".join(texts)
