"""Every configuration of every room can be written down and read back, and says what it means."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import whorl
from whorl.base.config import Config, dump_config, load_config


def all_configs() -> list[type[Config]]:
    found: dict[str, type[Config]] = {}
    for module in pkgutil.walk_packages(whorl.__path__, "whorl."):
        if module.name.rpartition(".")[2] == "config" and module.name != "whorl.base.config":
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, Config) and value is not Config:
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[name] for name in sorted(found)]


CONFIGS = all_configs()


@pytest.mark.parametrize("model", CONFIGS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_defaults_survive_a_recipe(tmp_path: Path, model: type[Config]) -> None:
    if any(field.is_required() for field in model.model_fields.values()):
        pytest.skip(f"{model.__name__} has required keys and so no default as a whole")
    path = tmp_path / "config.toml"
    path.write_text(dump_config(model()), encoding="utf-8")
    assert load_config(model, path) == model()
