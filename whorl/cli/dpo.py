"""`whorl dpo MODEL PAIRS… [--lora] [--gpus N] [--reference DIR] [--loss sigmoid_norm|ipo] [--beta B]`."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.post.config:DpoConfig")
@click.argument("model")
@click.argument("pairs", nargs=-1, required=True)
@click.option("--lora", is_flag=True, help="Train an adapter (LoRA) instead of the weights.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes on this machine, each with its own GPU, or a share of the cores if there"
    " is none.",
)
def command(model: str, pairs: tuple[str, ...], lora: bool, gpus: int, overrides: list[str]) -> int:
    """Train MODEL on PAIRS (prompt, chosen, rejected), into runs/NAME; this makes the chosen replies more
    likely.

    When interrupted (Ctrl-C, SIGTERM, SIGUSR1), it saves and exits with code 75; run the same command to
    continue.
    """
    from whorl.base.config import load_config
    from whorl.models.config import LoraConfig
    from whorl.parallel.launch import EXIT_RESUME, launch
    from whorl.post.config import DpoConfig

    config = load_config(DpoConfig, None, ["--model", model, "--pairs", *pairs, *overrides])
    if lora and config.lora is None:
        config = config.model_copy(update={"lora": LoraConfig()})
    if gpus > 1:
        return launch(gpus, "whorl.post.dpo:dpo_rank", [config.model_dump_json()])

    from whorl.post.dpo import dpo  # after the configuration: a typo must not wait for torch

    return EXIT_RESUME if dpo(config).left else 0
