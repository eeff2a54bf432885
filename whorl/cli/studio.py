"""`whorl studio [--workspace DIR] [--model [NAME=]DIR|ADDRESS[#SERVED] …] [--key-file [NAME=]FILE …]`."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.studio.config:StudioConfig")
def command(overrides: list[str]) -> None:
    """Start the web UI: chat with the workspace's models, judge them, and see what was trained.

    The address it prints signs you in as admin. Ctrl-C stops it; nothing is lost.
    """
    from whorl.base.config import load_config
    from whorl.studio.config import StudioConfig

    config = load_config(StudioConfig, None, overrides)
    from whorl.studio.server import run_studio

    run_studio(config)
