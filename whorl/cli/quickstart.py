"""`whorl quickstart`: the whole loop on this machine."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.quickstart.config:QuickstartConfig")
@click.argument("recipe", type=click.Path(), required=False, metavar="[CONFIG.toml]")
def command(recipe: str | None, overrides: list[str]) -> None:
    """Train an assistant from this machine's own files, or yours (--data PATH), and measure it.

    Then it meets its base model in the arena, learns from the votes by DPO, and its successor enters too
    (--no-round-trip leaves that out). Broken off, it goes on where it was when it is called again.
    """
    from whorl.base.config import load_config
    from whorl.quickstart.config import QuickstartConfig

    config = load_config(QuickstartConfig, recipe, overrides)

    from whorl.quickstart import quickstart  # after the configuration: a typo must not wait for torch

    quickstart(config)
