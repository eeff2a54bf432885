"""`whorl serve MODEL… [--host --port --dtype --adapter NAME=DIR …]`."""

from __future__ import annotations

import click

from whorl.cli.config_command import ConfigCommand

# What is typed often has a short name.
SHORT = {
    "dtype": "engine.dtype", "context": "engine.context", "memory": "engine.memory",
    "device": "engine.device", "quantize": "engine.quantize",
}  # fmt: skip


@click.command(cls=ConfigCommand, model="whorl.serve.config:ServeConfig")
@click.argument("models", nargs=-1, required=True)
@click.option("--dtype", help="float32, bfloat16 or float16; default: the model's own.")
@click.option("--quantize", type=click.Choice(["int8", "int4"]), help="Quantise weights to 8 or 4 bits.")
@click.option("--context", type=int, help="Maximum tokens of a prompt and its reply together.")
@click.option("--memory", type=float, help="GB for the key-value cache.")
@click.option("--device", help="cpu, cuda or mps; default: the first that works.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=DIR",
    help="A LoRA adapter for the first model; repeatable.",
)
def command(
    models: tuple[str, ...], adapters: tuple[str, ...], overrides: list[str], **short: object
) -> None:
    """Serve MODELS (Hugging Face directories) through the OpenAI API.

    Ctrl-C or SIGTERM: stops accepting requests, lets running ones finish, then exits.
    """
    from whorl.base.config import load_config
    from whorl.base.errors import InputError
    from whorl.serve.config import ServeConfig

    words = [f"--{SHORT[name]}={value}" for name, value in short.items() if value is not None]
    config = load_config(ServeConfig, None, ["--models", *models, *words, *overrides])
    named = {}
    for text in adapters:
        name, equals, directory = text.partition("=")
        if not equals or not name or not directory or name in named:
            raise InputError(f"--adapter {text} must be NAME=DIR, with each name used once")
        named[name] = directory
    if named:
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"adapters": named})})
    from whorl.serve.api.server import serve

    serve(config)
