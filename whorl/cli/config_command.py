"""A click command that takes `--section.key value` for every key of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.base.config import Config


class ConfigCommand(click.Command):
    """Words that are not the command's own options are overrides of `model` (a dotted name), and
    reach the function as `overrides: list[str]`, wherever they stood on the line.

    `--help` lists the keys with type, default and documentation.
    """

    def __init__(self, *args: Any, model: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_name = model

    @property
    def model(self) -> type[Config]:
        from whorl.base.names import resolve

        model: type[Config] = resolve(self.model_name)
        return model

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, overrides = self.split(ctx, args)
        rest = super().parse_args(ctx, own)
        ctx.params["overrides"] = overrides
        return rest

    def split(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str]]:
        """The command's own words in their order, and the overrides as `--key=value`."""
        mine = [name for option in self.get_params(ctx) for name in (*option.opts, *option.secondary_opts)]
        own: list[str] = []
        overrides: list[str] = []
        words = list(args)
        while words:
            if words[0] == "--":
                return [*own, *words], overrides
            if not words[0].startswith("--") or words[0].partition("=")[0] in mine:
                own.append(words.pop(0))
                continue

            from whorl.base.fields import config_fields
            from whorl.base.overrides import take_override

            options = [name.removeprefix("--") for name in mine if name.startswith("--")]
            pairs = take_override(dict(config_fields(self.model)), words, options)
            overrides += [f"--{key}={value}" for key, value in pairs]
        return own, overrides

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        from whorl.base.fields import describe

        with formatter.section("Keys (here as --section.key VALUE; in a recipe, use _ instead of -)"):
            formatter.write_dl(
                [(f"--{key.replace('_', '-')} {kind}", text) for key, kind, text in describe(self.model)]
            )
