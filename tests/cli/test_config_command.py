"""`--section.key value` beside a command's own options, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from whorl.base.config import load_config
from whorl.base.errors import InputError
from whorl.base.fields import _shown, describe
from whorl.cli.config_command import ConfigCommand
from whorl.cli.main import whorl_command

RECIPE = f"{Path(__file__).parent / 'recipe_for_tests.py'}:Outer"


def call(words: list[str]) -> dict[str, Any]:
    """What a verb with two arguments, a flag and an option would be given."""
    seen: dict[str, Any] = {}

    @click.command(cls=ConfigCommand, model=RECIPE)
    @click.argument("model")
    @click.argument("recipe", required=False)
    @click.option("--lora", is_flag=True)
    @click.option("--gpus", type=int, default=0)
    def verb(**given: Any) -> None:
        seen.update(given)

    verb.main(words, standalone_mode=False)
    return seen


def test_overrides_and_options_are_told_apart() -> None:
    seen = call(["--inner.rate", "2", "M", "--lora", "--eager", "r.toml", "--gpus", "2", "--data", "a", "b"])
    assert seen == {
        "model": "M",
        "recipe": "r.toml",
        "lora": True,
        "gpus": 2,
        "overrides": ["--inner.rate=2", "--eager=true", "--data=a", "--data=b"],
    }


groups = st.permutations(
    [["M"], ["--lora"], ["--gpus", "2"], ["--steps", "7"], ["--inner.rate=1"], ["--eager"]]
)


@given(order=groups)
def test_the_order_does_not_matter(order: list[list[str]]) -> None:
    seen = call([word for group in order for word in group])
    assert (seen["model"], seen["lora"], seen["gpus"]) == ("M", True, 2)
    assert sorted(seen["overrides"]) == ["--eager=true", "--inner.rate=1", "--steps=7"]


@pytest.mark.parametrize(
    ("word", "said"),
    [("--lorra", "did you mean --lora?"), ("--stepz", "did you mean --steps?"), ("--rate", "--inner.rate?")],
)
def test_the_nearest_name_may_be_an_option_or_a_key(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(["M", word, "1"])


def test_after_two_dashes_everything_is_an_argument() -> None:
    assert call(["--", "--steps"])["model"] == "--steps"


def test_help_lists_the_keys() -> None:
    @click.command(cls=ConfigCommand, model=RECIPE)
    def verb(overrides: list[str]) -> None:
        """A verb."""

    shown = CliRunner().invoke(verb, ["--help"]).output
    assert "--inner.rate float" in shown
    assert "How fast. [0.5]" in shown


def config_commands(group: click.Group | None = None) -> Iterator[ConfigCommand]:
    """Every verb of ours that takes a configuration."""
    group = group or whorl_command
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from config_commands(command)
        elif isinstance(command, ConfigCommand):
            yield command


@pytest.mark.parametrize("command", [*config_commands()], ids=lambda command: command.model_name)
def test_the_help_shows_the_defaults_that_are_taken(command: ConfigCommand) -> None:
    """Of each key the default as it is where nothing is said: not the one of the section's class."""
    given = REQUIRED.get(command.model_name, ())
    config = load_config(command.model, None, given)
    said = {word.removeprefix("--").partition("=")[0] for word in given}
    seen = 0
    for key, _, text in describe(command.model):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, None)
        if key in said or "(required)" in text or isinstance(value, type(None) | BaseModel):
            continue
        seen += 1
        assert text.endswith(_shown(value)), f"--{key}: {text!r}, and {value!r} is taken"
    assert seen > 2


# What a verb's configuration wants: nothing else is said.
REQUIRED: dict[str, tuple[str, ...]] = {
    "whorl.post.config:DpoConfig": ("--model=m", "--pairs=p"),
    "whorl.post.config:SftConfig": ("--model=m", "--chats=c"),
    "whorl.train.recipe:TrainRecipe": ("--tokens=t", "--start=m", "--train.steps=3"),
    "whorl.serve.config:ServeConfig": ("--models=m",),
}


def test_help_of_dpo() -> None:
    done = CliRunner().invoke(whorl_command, ["dpo", "--help"])
    text = " ".join(done.output.split())
    assert "--train.optim.lr float [5e-05]" in text and "--train.optim.muon-lr float [0.0005]" in text
    assert "--too-long " in text and "--too_long" not in text
