"""A wrong directory, a damaged file, a tensor too many: one line that names it and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from whorl.base.errors import DataError, InputError, WhorlError
from whorl.models import load, save


def message(path: Path | str, kind: type[WhorlError]) -> str:
    with pytest.raises(kind) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def edit(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    held = load_file(directory / "model.safetensors")
    change(held)
    save_file(held, directory / "model.safetensors")


def edit_config(directory: Path, **fields: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_places_that_are_no_model(tmp_path: Path) -> None:
    assert "there is no model directory" in message(tmp_path / "nowhere", InputError)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in message(tmp_path / "empty", InputError)
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "adapter" in message(tmp_path / "empty", InputError)
    (tmp_path / "file").write_text("x")
    assert "is a file" in message(tmp_path / "file", InputError)


def test_a_hub_name_is_told_to_pull() -> None:
    text = message("some-org/Some-Model_1.5B", InputError)
    assert "whorl model pull some-org/Some-Model_1.5B" in text


def test_pickled_weights_are_refused_with_the_remedy(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({}, directory / "pytorch_model.bin")
    text = message(directory, InputError)
    assert "pytorch_model.bin is a pickle" in text
    assert "save_pretrained" in text
    (directory / "pytorch_model.bin").unlink()
    assert "has no model.safetensors" in message(directory, InputError)


def test_an_unknown_family_lists_those_there_are(directory: Path) -> None:
    edit_config(directory, model_type="falcon")
    text = message(directory, InputError)
    assert "'falcon'" in text
    for family in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "opt", "llava"):
        assert family in text


def test_a_config_that_is_no_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": ')
    assert "config.json is not valid JSON" in message(directory, DataError)
    (directory / "config.json").write_text("[1, 2]")
    assert "config.json is not a JSON object" in message(directory, InputError)


def test_a_dtype_nothing_is_computed_in(directory: Path) -> None:
    edit_config(directory, torch_dtype="float8_e4m3fn")
    assert "float8_e4m3fn" in message(directory, InputError)


def test_a_missing_tensor_is_named_with_its_file(directory: Path) -> None:
    def change(held: dict[str, torch.Tensor]) -> None:
        del held["model.layers.1.mlp.up_proj.weight"], held["model.layers.2.mlp.up_proj.weight"]

    edit(directory, change)
    text = message(directory, DataError)
    assert f"{directory / 'model.safetensors'}: tensor model.layers.1.mlp.up_proj.weight is missing" in text
    assert "and 1 more" in text


def test_an_extra_tensor_is_named_with_its_file(directory: Path) -> None:
    edit(directory, lambda held: held.update({"model.layers.3.mlp.up_proj.weight": torch.zeros(2)}))
    text = message(directory, DataError)
    assert f"{directory / 'model.safetensors'}: tensor model.layers.3.mlp.up_proj.weight is not part" in text


def test_a_misshapen_tensor_is_named_with_both_shapes(directory: Path) -> None:
    edit(directory, lambda held: held.update({"model.norm.weight": torch.zeros(31)}))
    text = message(directory, DataError)
    assert f"{directory / 'model.safetensors'}: tensor model.norm.weight is [31]" in text
    assert "[32]" in text


def test_a_quantised_tensor_is_refused(directory: Path) -> None:
    edit(directory, lambda held: held.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}))
    assert "model.norm.weight is I8" in message(directory, DataError)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_file_is_named(directory: Path, keep: int) -> None:
    file = directory / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    assert f"{file} is not a complete safetensors file" in message(directory, DataError)


def test_shards_that_do_not_fit_their_index(directory: Path) -> None:
    save(load(directory), directory, shard_bytes=9_000)
    index = directory / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    first = next(iter(whole["weight_map"].values()))

    (directory / first).rename(directory / "elsewhere")
    assert f"names {first}, which is missing" in message(directory, DataError)
    (directory / "elsewhere").rename(directory / first)
    load(directory)

    for wrong in ("../../secret.safetensors", "/etc/passwd", "weights.bin", 7):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": wrong}}))
        assert "which is not a file of this folder" in message(directory, DataError)
    index.write_text("{}")
    assert "no weight_map" in message(directory, DataError)


def test_a_tensor_in_two_shards_is_named(directory: Path) -> None:
    save(load(directory), directory, shard_bytes=9_000)
    files = sorted(directory.glob("*.safetensors"))
    extra = dict(list(load_file(files[0]).items())[:1])
    save_file({**load_file(files[1]), **extra}, files[1])
    assert f"tensor {next(iter(extra))} is also in {files[0].name}" in message(directory, DataError)
