"""Weights on disk: shards both ways, dtypes, ties, versions, and what a crash leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.models.conftest import small_config
from tests.models.oracles import CASES, each_alone, tokens, transformers
from whorl.base.errors import DataError, FaultError, InputError
from whorl.models import Decoder, Packed, load, save, save_state, weight_manifest, weight_version


def same(first: Decoder, second: Decoder) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", ["llama3", "gpt2_odd", "opt_350m"])
def test_shards_written_by_transformers_are_read(name: str, tmp_path: Path) -> None:
    theirs = CASES[name].build()
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="9KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert same(load(tmp_path / "one"), load(tmp_path / "many"))


@pytest.mark.parametrize("name", ["llama3", "gpt2_odd", "opt_350m"])
def test_shards_written_by_us_are_read_by_transformers(name: str, tmp_path: Path) -> None:
    theirs = CASES[name].build()
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    save(model, tmp_path / "ours", shard_bytes=9_000)
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 9_000
    assert same(load(tmp_path / "ours"), model)
    back = getattr(transformers, CASES[name].model).from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    documents = [tokens(30)]
    torch.testing.assert_close(each_alone(back, documents), each_alone(theirs, documents), atol=1e-5, rtol=0)


def test_saving_again_leaves_no_file_of_the_save_before(directory: Path) -> None:
    model = load(directory)
    save(model, directory, shard_bytes=9_000)
    assert not (directory / "model.safetensors").exists()
    save(model, directory, shard_bytes=20_000)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert {path.name for path in directory.glob("*.safetensors")} == set(index["weight_map"].values())
    assert same(load(directory), model)
    save(model, directory)
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert same(load(directory), model)


def test_a_save_that_fails_leaves_the_model_before(directory: Path) -> None:
    version, before = weight_version(directory), load(directory)
    state = dict(before.state_dict())
    del state["final_norm.weight"]
    with pytest.raises(InputError, match=r"final_norm\.weight is missing"):
        save_state(before.config, state, directory)
    state = {**before.state_dict(), "layers.0.attention.q.lora_a": torch.zeros(1)}
    with pytest.raises(InputError, match="adapter"):
        save_state(before.config, state, directory)
    assert weight_version(directory) == version
    assert same(load(directory), before)


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_full_disk_is_said_and_leaves_the_model_before(directory: Path) -> None:
    import resource

    version, model = weight_version(directory), load(directory)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(FaultError, match=r"model\.safetensors cannot be written"):
            save(model, directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert weight_version(directory) == version
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_tied_and_untied(tmp_path: Path) -> None:
    for tied in (True, False):
        model = Decoder(small_config(tied=tied))
        save(model, tmp_path / str(tied))
        with safe_open(tmp_path / str(tied) / "model.safetensors", "pt") as file:
            assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
        back = load(tmp_path / str(tied))
        assert back.config.tied is tied
        assert same(back, model)


def test_a_tied_checkpoint_may_repeat_the_embedding_but_not_contradict_it(directory: Path) -> None:
    file = directory / "model.safetensors"
    held = load_file(file)
    save_file({**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()}, file)
    load(directory)
    save_file({**held, "lm_head.weight": held["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(
        DataError, match=r"model\.safetensors: tensor lm_head\.weight differs.*tie_word_embeddings"
    ):
        load(directory)


def test_names_of_the_bare_model_and_old_buffers_are_read(tmp_path: Path) -> None:
    """The first GPT-2 checkpoints leave out `transformer.` and hold every layer's causal mask."""
    CASES["gpt2"].build().save_pretrained(tmp_path)
    expected = load(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    bare |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8) for layer in range(3)}
    save_file(bare, tmp_path / "model.safetensors")
    assert same(load(tmp_path), expected)


def test_dtypes(tmp_path: Path) -> None:
    model = Decoder(small_config(), compute_dtype=torch.bfloat16)  # fp32 masters, bf16 arithmetic
    save(model, tmp_path / "masters")
    back = load(tmp_path / "masters")
    assert back.compute_dtype == torch.bfloat16
    assert back.embed.weight.dtype == torch.float32
    assert same(back, model)
    flat, context = tokens(20), Packed([20])
    with torch.no_grad():  # the number that was trained is the number that is served
        assert torch.equal(back.logits(back(flat, context)), model.logits(model(flat, context)))

    given = load(tmp_path / "masters", dtype=torch.float32)
    assert given.compute_dtype == torch.float32

    save(model, tmp_path / "half", dtype=torch.bfloat16)
    half = load(tmp_path / "half")
    assert half.embed.weight.dtype == half.compute_dtype == torch.bfloat16
    assert torch.equal(half.embed.weight, model.embed.weight.to(torch.bfloat16))

    values = json.loads((tmp_path / "half" / "config.json").read_text())
    values["dtype"] = values.pop("torch_dtype")
    (tmp_path / "half" / "config.json").write_text(json.dumps(values))
    assert load(tmp_path / "half").compute_dtype == torch.bfloat16
    del values["dtype"]  # silent: as stored
    (tmp_path / "half" / "config.json").write_text(json.dumps(values))
    assert load(tmp_path / "half").compute_dtype == torch.bfloat16


def test_values_come_back_bit_for_bit_nan_and_all(directory: Path) -> None:
    model = load(directory)
    with torch.no_grad():
        model.final_norm.weight[3] = float("nan")
        model.embed.weight[5, 7] = float("-inf")
    save(model, directory)
    back = load(directory)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), back.state_dict()[name].view(torch.int32))


def test_a_loaded_model_is_its_own_and_not_the_files(directory: Path) -> None:
    before = weight_version(directory)
    model = load(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save(model, directory / "again")
    os.truncate(directory / "model.safetensors", 100)  # would crash a process that still maps the file
    assert all(not parameter.any() for parameter in model.parameters())
    assert weight_version(directory / "again") != before


def test_the_weight_version_is_of_the_weights(directory: Path, tmp_path: Path) -> None:
    version = weight_version(directory)
    save(load(directory), tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("not weights")
    assert weight_version(tmp_path / "copy") == version
    assert set(weight_manifest(directory)) == {"model.safetensors"}
    model = load(directory)
    with torch.no_grad():
        model.embed.weight[0, 0] += 1
    save(model, directory)
    assert weight_version(directory) != version  # though the size is the same
