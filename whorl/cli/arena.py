"""`whorl arena verify | export`: what people voted."""

from __future__ import annotations

import click

from whorl.cli.votes import export, verify


@click.group()
def command() -> None:
    """What people voted: checked, and on its way back into training."""


command.add_command(verify)
command.add_command(export)
