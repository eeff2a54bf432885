"""Configuration: recipes, overrides, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from whorl.base.config import Config, describe, dump_config, load_config, resolve
from whorl.base.errors import InputError


class Optimizer(Config):
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    name: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)


class Source(Config):
    path: str
    weight: float = 1.0


class Recipe(Config):
    steps: int
    compile: bool | None = None
    batch_size: int = 3
    optimizer: Optimizer = Optimizer(lr=5.0)
    sources: tuple[Source, ...] = ()
    names: dict[str, int] = {}
    other: Optimizer | None = None
    paths: list[str] = []
    folder: Path = Path("runs")
    limit: float | None = 0.5
    note: str | None = None


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_command_line_wins_over_recipe_wins_over_defaults(tmp_path: Path) -> None:
    path = recipe(tmp_path, 'steps = 3\n[optimizer]\nname = "muon"\nlr = 0.1\n')
    config = load_config(Recipe, path, ["--optimizer.lr", "0.2", "--batch-size=7"])
    assert (config.steps, config.batch_size) == (3, 7)
    assert config.optimizer == Optimizer(lr=0.2, name="muon")


def test_a_section_given_in_part_keeps_its_own_defaults(tmp_path: Path) -> None:
    assert load_config(Recipe, recipe(tmp_path, "steps=1\n[optimizer]\nname='muon'")).optimizer.lr == 5.0
    assert load_config(Recipe, None, ["--steps=1", "--optimizer.name=muon"]).optimizer.lr == 5.0


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--compile"], "compile", True),
        (["--compile", "false"], "compile", False),
        (["--compile=none"], "compile", None),
        (["--paths", "a,b.txt", "c", "--paths", "d"], "paths", ["a,b.txt", "c", "d"]),
        (["--paths", '["a", "b"]', "2024"], "paths", ["a", "b", "2024"]),
        (["--paths=--odd"], "paths", ["--odd"]),
        (["--names", '{"a": 3}'], "names", {"a": 3}),
        (["--sources", '[{"path": "x", "weight": 2}]'], "sources", (Source(path="x", weight=2),)),
        (["--limit=none"], "limit", None),
        (["--other.lr", "2"], "other", Optimizer(lr=2)),
        (["--folder", "my runs"], "folder", Path("my runs")),
        (["--batch-size", "-4"], "batch_size", -4),
    ],
)
def test_override_forms(words: list[str], field: str, value: object) -> None:
    assert getattr(load_config(Recipe, None, ["--steps=1", *words]), field) == value


def test_none_in_a_recipe_is_none_where_a_key_takes_it(tmp_path: Path) -> None:
    assert load_config(Recipe, recipe(tmp_path, 'steps=1\nlimit="none"\nother="none"')).limit is None
    with pytest.raises(InputError, match="batch_size"):
        load_config(Recipe, recipe(tmp_path, 'steps=1\nbatch_size="none"'))


def test_a_boolean_leaves_the_next_word_alone() -> None:
    with pytest.raises(InputError, match=r"unexpected 'recipe\.toml'"):
        load_config(Recipe, None, ["--steps=1", "--compile", "recipe.toml"])


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("step = 3", [], "recipe.toml: unknown key 'step'; did you mean steps?"),
        ("steps=3\n[optimizr]\nlr=1", [], "unknown key 'optimizr'; did you mean optimizer?"),
        ("steps=3\n[optimizer]\nnam='muon'", [], "unknown key 'nam' in [optimizer]; did you mean name?"),
        ("steps=3\n[[sources]]\npath='a'\nweigth=1", [], "'weigth' in [sources]; did you mean weight?"),
        ("steps=3\n[[sources]]\nweight=1", [], "sources.0.path is missing"),
        ("steps='a'", [], "recipe.toml: steps: expected a valid integer, got 'a'"),
        ("steps=3\n[optimizer]\nname='sgd'", [], "optimizer.name: expected 'adamw' or 'muon', got 'sgd'"),
        ("steps=3\noptimizer=3", [], "optimizer: expected a valid dictionary"),
        ("batch_size=3", [], "steps is missing; set it in the recipe or as --steps VALUE"),
        ("st eps", [], "recipe.toml is not valid TOML"),
        ("steps=3", ["--stepz=3"], "command line: unknown option --stepz; did you mean --steps?"),
        ("steps=3", ["--lr=3"], "did you mean --optimizer.lr?"),
        ("steps=3", ["--optimizer.lr=-1"], "command line: --optimizer.lr: expected greater than 0"),
        ("steps=3", ["--batch-size=x"], "command line: --batch-size: expected a valid integer, got 'x'"),
        ("steps=3", ["--batch-size"], "--batch-size needs a value: int"),
    ],
)
def test_a_mistake_is_one_line_with_place_key_and_remedy(
    tmp_path: Path, text: str, words: list[str], said: str
) -> None:
    with pytest.raises(InputError) as error:
        load_config(Recipe, recipe(tmp_path, text), words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml is not a file"):
        load_config(Recipe, tmp_path / "nowhere.toml")


optimizers = st.builds(
    Optimizer,
    lr=st.floats(min_value=1e-12, max_value=1e6),
    name=st.sampled_from(["adamw", "muon"]),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
recipes = st.builds(
    Recipe,
    steps=st.integers(-(2**63), 2**63 - 1),
    compile=st.none() | st.booleans(),
    optimizer=optimizers,
    sources=st.lists(st.builds(Source, path=texts), max_size=3).map(tuple),
    names=st.dictionaries(texts, st.integers(0, 9), max_size=3),
    other=st.none() | optimizers,
    paths=st.lists(texts, max_size=3),
    limit=st.none() | st.floats(allow_nan=False),
    note=st.none() | texts.filter(lambda text: text != "none"),
)


@settings(max_examples=40)
@given(config=recipes)
def test_a_dumped_config_is_itself_a_recipe(tmp_path_factory: pytest.TempPathFactory, config: Recipe) -> None:
    path = tmp_path_factory.mktemp("dump") / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8", newline="\n")
    assert load_config(Recipe, path) == config


@settings(max_examples=25)  # each builds a parser
@given(paths=st.lists(texts.filter(lambda text: not text.startswith(("--", "["))), min_size=1))
def test_words_of_a_list_arrive_as_they_were_typed(paths: list[str]) -> None:
    assert load_config(Recipe, None, ["--steps=1", "--paths", *paths]).paths == paths


def test_a_config_is_frozen_and_keyword_only() -> None:
    with pytest.raises(ValidationError):
        Optimizer().lr = 3.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Optimizer(3.0)  # type: ignore[call-arg]


def test_describe_lists_keys_with_type_documentation_and_default() -> None:
    rows = {key: (kind, text) for key, kind, text in describe(Recipe)}
    assert rows["optimizer.lr"] == ("float", "Peak learning rate. [5.0]"), "the recipe's, not the class's"
    assert rows["other.lr"] == ("float", "Peak learning rate. [0.001]")
    assert rows["steps"] == ("int", "(required)")
    assert rows["optimizer.name"][0] == "'adamw' | 'muon'"
    assert rows["paths"] == ("str …", "")
    assert rows["compile"] == ("bool | none", "[none]")
    assert "optimizer" not in rows


def test_resolve_takes_modules_and_files(tmp_path: Path) -> None:
    file = tmp_path / "my file.py"
    file.write_text("class Filter:\n    def keep(self): return 1\nthing = Filter()\n")
    assert resolve("os.path:join")("a", "b") == str(Path("a") / "b")
    assert resolve(f"{file}:Filter.keep") is resolve(f"{file}:Filter").keep
    assert isinstance(resolve(f"{file}:thing"), resolve(f"{file}:Filter"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json", "write module:name or file.py:name"),
        ("json:loadz", "json has no 'loadz'; did you mean loads?"),
        ("jsonn:loads", "no module 'jsonn'"),
        ("nowhere.py:x", "is not a file"),
    ],
)
def test_resolve_says_what_is_wrong(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve(name)


def test_an_error_inside_a_resolved_file_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_library_that_is_not_here\n")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_here"):
        resolve(f"{tmp_path / 'broken.py'}:x")
