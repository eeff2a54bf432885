"""`whorl train RECIPE.toml [--section.key value] [--gpus N]`."""

from __future__ import annotations

from pathlib import Path

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.train.recipe:TrainRecipe")
@click.argument("recipe", type=click.Path(), required=False, metavar="[RECIPE.toml]")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes on this machine, each with its own GPU, or a share of the cores if there"
    " is none.",
)
def command(recipe: str | None, gpus: int, overrides: list[str]) -> int:
    """Pre-train a model on tokens, into runs/NAME.

    When interrupted (Ctrl-C, SIGTERM, SIGUSR1), it saves and exits with code 75; run the same command to
    continue.
    """
    from whorl.base.config import load_config
    from whorl.base.errors import InputError
    from whorl.parallel.launch import EXIT_RESUME, launch
    from whorl.train.recipe import TrainRecipe

    config = load_config(TrainRecipe, recipe, overrides)
    if not config.name:
        if recipe is None:
            raise InputError("the run has no name; give --name NAME or a recipe file")
        config = config.model_copy(update={"name": Path(recipe).stem})
    if gpus > 1:
        return launch(gpus, "whorl.train.pretrain:pretrain_rank", [config.model_dump_json()])

    from whorl.train.pretrain import pretrain  # after the configuration: a typo must not wait for torch

    return EXIT_RESUME if pretrain(config).left else 0
