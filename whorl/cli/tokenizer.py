"""`whorl tokenizer train PATHS… --out DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Tokenizers."""


@command.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory for tokenizer.json.")
@click.option(
    "--vocab-size", default=32_000, show_default=True, help="Vocabulary size, including special tokens."
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def train(paths: tuple[str, ...], out: Path, vocab_size: int, as_json: bool) -> None:
    """Learn a byte-level BPE from PATHS: files (text, code, jsonl, parquet, …), directories or globs.

    The tokenizer has the default chat template's control tokens, and DIR loads in transformers.
    """
    from whorl.base.progress import progress, say
    from whorl.data.document import Document
    from whorl.data.readers import read
    from whorl.text.bpe import train_bpe

    counts = {"documents": 0, "bytes": 0, "rejects": 0}

    def texts() -> Iterator[str]:
        with progress(None, "reading", "MB") as bar:
            for read_thing in read(paths):
                if not isinstance(read_thing, Document):
                    counts["rejects"] += 1
                    say(f"left out: {read_thing.source}:{read_thing.line}: {read_thing.reason}")
                    continue
                size = len(read_thing.text.encode("utf-8"))
                counts["documents"] += 1
                counts["bytes"] += size
                bar.advance(size / 1e6)
                yield read_thing.text
        say("learning merges")

    tokenizer = train_bpe(texts(), vocab_size)
    tokenizer.save(out)
    made = {"out": str(out), "vocab_size": tokenizer.vocab_size, "hash": tokenizer.hash, **counts}
    if as_json:
        click.echo(json.dumps(made))
        return
    size, megabytes = tokenizer.vocab_size, counts["bytes"] / 1e6
    click.echo(f"{out}: {size} tokens from {counts['documents']} documents ({megabytes:.1f} MB)")
    if size < vocab_size:
        say(f"the texts have enough pairs for {size} tokens only; {vocab_size} were asked for")
