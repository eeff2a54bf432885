"""`whorl quickstart`: the whole loop on this machine."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.quickstart.config:QuickstartConfig")
@click.argument("recipe", type=click.Path(), required=False, metavar="[CONFIG.toml]")
def command(recipe: str | None, overrides: list[str]) -> None:
    """Train an assistant from this machine's own files, or yours (--data PATH), and measure it.

    Then it is compared with its base model in the arena, learns from the votes by DPO, and the resulting
    model enters too (--no-round-trip skips this). If interrupted, run it again to resume.
    """
    from whorl.base.config import load_config
    from whorl.quickstart.config import QuickstartConfig

    config = load_config(QuickstartConfig, recipe, overrides)

    from whorl.quickstart import quickstart  # after the configuration: a typo must not wait for torch

    quickstart(config)
