"""`whorl backup` and `whorl restore`: a workspace's votes and the small files of its runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from whorl.cli.votes import STORE

if TYPE_CHECKING:
    from whorl.arena.store.backup import Backup

WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="The folder with runs and votes [default: $WHORL_WORKSPACE or the current directory].",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@WORKSPACE
@STORE
@JSON
def command(directory: Path, workspace: Path | None, store: str | None, as_json: bool) -> None:
    """Back up the workspace to the new folder DIRECTORY, then verify the copy.

    Holds all votes and conversations as of one moment, and the runs' configurations, metrics, events and
    reports; checkpoints and weights are listed only. Works with SQLite and PostgreSQL: either can be restored
    as the other.
    """
    from whorl.arena.store import backup_workspace

    made = backup_workspace(directory, workspace=_workspace(workspace), store=store)
    _tell(made, "backed up and read back", as_json)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@WORKSPACE
@STORE
@JSON
def restore(directory: Path, workspace: Path | None, store: str | None, as_json: bool) -> None:
    """Restore the backup in DIRECTORY into an empty workspace.

    Everything is checked first. Refuses if there is already a store, or a file that differs. Also accepts the
    backup folder written before a migration.
    """
    from whorl.arena.store import restore_workspace

    made = restore_workspace(directory, workspace=_workspace(workspace), store=store)
    _tell(made, "restored", as_json)


def _workspace(given: Path | None) -> Path:
    return given or Path(os.environ.get("WHORL_WORKSPACE") or ".")


def _tell(made: Backup, what: str, as_json: bool) -> None:
    head = str(made.head) if made.head else None
    if as_json:
        record = {"path": str(made.path), "votes": made.votes, "head": head, "files": made.files}
        click.echo(json.dumps({**record, "left_out": made.left_out}, indent=2))
        return
    click.echo(f"{made.path}: {made.votes:,} votes and {made.files:,} files of runs {what}")
    if head:
        click.echo(f"head {head}")
    if made.left_out:
        size = sum(made.left_out.values()) / 1e6
        click.echo(f"not in it: {len(made.left_out):,} large files, {size:,.0f} MB (weights and checkpoints)")
