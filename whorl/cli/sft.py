"""`whorl sft MODEL CHATS… [--lora] [--gpus N] [--too-long cut|drop] [--section.key value]`."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand


@click.command(cls=ConfigCommand, model="whorl.post.config:SftConfig")
@click.argument("model")
@click.argument("chats", nargs=-1, required=True)
@click.option("--lora", is_flag=True, help="Train an adapter (LoRA) instead of the weights.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes on this machine, each with its own GPU, or a share of the cores if there"
    " is none.",
)
def command(model: str, chats: tuple[str, ...], lora: bool, gpus: int, overrides: list[str]) -> int:
    """Train MODEL on CHATS, into runs/NAME, learning the assistant's replies.

    When interrupted (Ctrl-C, SIGTERM, SIGUSR1), it saves and exits with code 75; run the same command to
    continue.
    """
    from whorl.base.config import load_config
    from whorl.models.config import LoraConfig
    from whorl.parallel.launch import EXIT_RESUME, launch
    from whorl.post.config import SftConfig

    config = load_config(SftConfig, None, ["--model", model, "--chats", *chats, *overrides])
    if lora and config.lora is None:
        config = config.model_copy(update={"lora": LoraConfig()})
    if gpus > 1:
        return launch(gpus, "whorl.post.sft:sft_rank", [config.model_dump_json()])

    from whorl.post.sft import sft  # after the configuration: a typo must not wait for torch

    return EXIT_RESUME if sft(config).left else 0
