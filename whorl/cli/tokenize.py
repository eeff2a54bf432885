"""`whorl data tokenize DATASET --tokenizer DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from whorl.data.document import Document


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    "tokenizer_directory",
    type=click.Path(path_type=Path),
    help="Directory with tokenizer.json (a model directory also works).  [default: DATASET/tokenizer]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write tokens/.  [default: DATASET]")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Number of processes.  [default: one per core]"
)
@click.option("--end-token", help="Token that ends every document.  [default: the tokenizer's end of text]")
@click.option(
    "--start-token",
    help="Token that starts every document, so that its first word is learnt.  [default: none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def tokenize(
    dataset: Path,
    tokenizer_directory: Path | None,
    out: Path | None,
    workers: int,
    end_token: str | None,
    start_token: str | None,
    as_json: bool,
) -> None:
    """Encode a dataset's documents into token shards, split by split, with images alongside.

    If killed or interrupted, run the same command again to resume.
    """
    from whorl.base.errors import InputError
    from whorl.base.files import sha256_file
    from whorl.data.dataset import open_manifest
    from whorl.data.tokens import write_tokens
    from whorl.text.tokenizer import Tokenizer

    documents = open_manifest(dataset)["documents"]
    found = tokenizer_directory or dataset / "tokenizer"
    if tokenizer_directory is None and not found.is_dir():
        raise InputError(
            f"give --tokenizer DIR: a model directory, or one made by"
            f" `whorl tokenizer train PATHS --out {found}`"
        )
    tokenizer = Tokenizer.load(found)
    tokens = write_tokens(
        _shown(dataset, documents),
        tokenizer,
        out or dataset,
        workers=workers,
        end_token=None if end_token is None else tokenizer.id_of(end_token),
        start_token=None if start_token is None else tokenizer.id_of(start_token),
        parents={"dataset": sha256_file(dataset / "manifest.json")},
    )
    splits = tokens.manifest["splits"]
    if as_json:
        made = {"out": str(tokens.directory), "fingerprint": tokens.fingerprint, "splits": splits}
        click.echo(json.dumps(made | {"empty_documents": tokens.manifest["empty_documents"]}))
        return
    for name, counts in splits.items():
        ratio = counts["bytes"] / counts["tokens"]
        sizes = f"{counts['documents']:,} documents, {counts['tokens']:,} tokens"
        click.echo(f"{name}: {sizes}, {ratio:.2f} bytes per token")
    if empty := tokens.manifest["empty_documents"]:
        click.echo(f"left out {empty:,} documents without text")
    click.echo(str(tokens.directory))


def _shown(dataset: Path, total: int) -> Iterator[Document]:
    """The dataset's documents, counted on a bar as they are taken."""
    from whorl.base.progress import progress
    from whorl.data.dataset import read_dataset

    with progress(total, "tokenising", "documents") as bar:
        for document in read_dataset(dataset, signals=False):
            yield document
            bar.advance()
