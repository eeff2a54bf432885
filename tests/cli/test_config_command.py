"""`--section.key value` beside a command's own options, in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.cli.config_command import ConfigCommand

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
