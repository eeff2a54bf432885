"""Quantised models: how far off, on disk and back, under adapters, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.conftest import small_config
from tests.models.oracles import stir, tokens
from whorl.base.errors import DataError, InputError
from whorl.cli.main import main
from whorl.models import Decoder, LoraConfig, Packed, describe, inject, load, load_adapter, save, save_adapter
from whorl.models.lora import merge
from whorl.models.quant_layer import QuantLinear
from whorl.models.quantise import quantise

KINDS = [("int8", 32), ("int4", 32), ("int4", 64)]


def build(**axes: object) -> Decoder:
    values: dict[str, object] = {"d_model": 64, "d_ff": 128, "head_dim": 16, "tied": True}
    model = Decoder(small_config(**(values | axes)))
    stir(model)
    return model.eval()


def logits(model: Decoder, count: int = 12) -> Tensor:
    with torch.no_grad():
        return model.logits(model(tokens(count), Packed([count])))


def share(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


# -- a model --------------------------------------------------------------------------------------


def twin(model: Decoder, plain: Decoder) -> Decoder:
    """`plain`, given the weights that the quantised `model` computes with."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear):
            with torch.no_grad():
                plain.get_submodule(name).weight.copy_(module.weight)
    return plain


def shaken(model: Decoder, by: Decoder) -> Decoder:
    """Every weight of `model` with as much normal noise as quantising took from it in `by`."""
    generator = torch.Generator().manual_seed(1)
    for name, module in by.named_modules():
        if isinstance(module, QuantLinear):
            weight = model.get_submodule(name).weight
            with torch.no_grad():
                noise = torch.randn(weight.shape, generator=generator)
                weight += noise * (module.weight - weight).norm() / noise.norm()
    return model


def test_the_error_is_small_and_int4s_is_larger() -> None:
    """These weights, drawn at random, make much of a small change: int8's bound is what this model does to
    0.7 % of noise. So each is held against noise of its own size, too."""
    wanted = logits(build(), 40)
    errors = []
    for kind, group in KINDS:
        model = quantise(build(), kind, group)
        error, noise = share(logits(model, 40), wanted), share(logits(shaken(build(), model), 40), wanted)
        alone = share(logits(model, 12), logits(build(), 12))  # the packed kernels, which round x as well
        print(
            f"{kind} {group}: {error:.4f} of the logits' norm off, {alone:.4f} packed, {noise:.4f} by noise"
        )
        assert 0.5 * noise < error < 1.5 * noise
        assert alone < 1.5 * noise
        errors.append(error)
    assert 0 < errors[0] < 0.06
    assert errors[0] < errors[1] < errors[2] < 0.8


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_it_is_the_model_with_the_dequantised_weights(kind: str, group: int) -> None:
    model = quantise(build(qkv_bias=True), kind, group)
    plain = twin(model, build(qkv_bias=True))
    assert sum(isinstance(module, QuantLinear) for module in model.modules()) == 7 * model.config.n_layers
    # More rows than the packed kernels take: activations are not rounded.
    assert torch.allclose(logits(model, 40), logits(plain, 40), atol=1e-4)
    # Here they are, by 0.55 % a product, which this model makes about six times as much of.
    assert share(logits(model, 12), logits(plain, 12)) < 0.06


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_the_output_head(kind: str, group: int, tied: bool, tmp_path: Path) -> None:
    model = build(tied=tied)
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    wanted, before = model.logits(hidden).detach(), model.embed.weight.clone()
    quantise(model, kind, group, head=True)
    made = model.logits(hidden)
    assert made.dtype == torch.float32
    assert 0 < share(made, wanted) < 0.15
    assert torch.equal(model.embed.weight, before)
    save(model, tmp_path / "model")  # the copy is not part of what is saved
    assert torch.allclose(load(tmp_path / "model").logits(hidden), wanted, atol=1e-5)


def test_what_cannot_be_quantised() -> None:
    model = build(d_ff=80)
    before = logits(model)
    with pytest.raises(InputError, match=r"mlp\.down is 80 wide, .* group 32; int8 needs no groups"):
        quantise(model, "int4")
    with pytest.raises(InputError, match=r"is 64 wide.*group 128; groups of 64 fit"):
        quantise(build(), "int4", 128)
    with pytest.raises(InputError, match=r"int3.*int8, int4"):
        quantise(model, "int3")
    with pytest.raises(InputError, match=r"group size 48.*32, 64, 128"):
        quantise(model, "int4", 48)
    assert torch.equal(logits(model), before)
    quantise(model, "int8")
    with pytest.raises(InputError, match="already quantised"):
        quantise(model, "int8")
    with pytest.raises(InputError, match="already has an adapter"):
        quantise(inject(build(), LoraConfig(rank=2, alpha=4)), "int8")


# -- on disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_there_and_back(kind: str, group: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(qkv_bias=True, qk_norm=False).to(dtype)
    model.compute_dtype = dtype
    save(quantise(model, kind, group), tmp_path / "once")
    once = load(tmp_path / "once")
    save(once, tmp_path / "twice", shard_bytes=20_000)
    twice = load(tmp_path / "twice")
    assert len(list((tmp_path / "twice").glob("*.safetensors"))) > 1
    for made in (once, twice):
        state = made.state_dict()
        assert state.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert state[name].dtype == tensor.dtype
            assert torch.equal(state[name], tensor)
        assert torch.equal(logits(made), logits(model))
    wide = load(tmp_path / "once", dtype=torch.float32)  # packed weights and scales stay as they are
    layer = wide.get_submodule("layers.0.mlp.up")
    assert isinstance(layer, QuantLinear)
    assert layer.weight_scale.dtype == torch.bfloat16
    assert wide.embed.weight.dtype == torch.float32


def test_the_file_is_the_documented_form(tmp_path: Path) -> None:
    """Tensors by name, dtype and shape, and codes read by hand."""
    model = quantise(build(tied=False), "int4", 32)
    save(model, tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (stated["quant_method"], stated["format"]) == ("compressed-tensors", "pack-quantized")
    assert stated["ignore"] == ["lm_head"]
    weights = stated["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["group_size"]) == (4, "group", 32)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    packed, scale, shape = (tensors[name + end] for end in ("_packed", "_scale", "_shape"))
    assert name not in tensors
    assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (64, 128 * 4 // 32))
    assert (scale.dtype, tuple(scale.shape)) == (torch.bfloat16, (64, 4))
    assert (shape.dtype, shape.tolist()) == (torch.int64, [64, 128])
    weight = model.get_submodule("layers.1.mlp.down").weight
    for row, column in ((0, 0), (3, 9), (63, 127)):
        code = (int(packed[row, column // 8]) >> (4 * (column % 8)) & 15) - 8
        assert float(weight[row, column]) == pytest.approx(code * float(scale[row, column // 32]))


def damage(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(NAME + "_scale"), rf"{NAME}_scale is missing"),
        (
            lambda t: t.update({NAME + "_packed": t[NAME + "_packed"][:, :-1].contiguous()}),
            r"asks for \[64, 8\]",
        ),
        (
            lambda t: t.update({NAME + "_packed": t[NAME + "_packed"].float()}),
            r"_packed is F32; Whorl reads I32",
        ),
        (lambda t: t.update({NAME + "_shape": torch.tensor([64, 65])}), r"attention\.q is \[64, 65\]"),
        (lambda t: t.update({NAME: torch.zeros(64, 64)}), rf"{NAME} is not part of"),
    ],
    ids=["missing", "misshapen", "of another type", "another shape's", "one too many"],
)
def test_damaged_files_are_named(
    change: Callable[[dict[str, Tensor]], Any], said: str, tmp_path: Path
) -> None:
    save(quantise(build(), "int4"), tmp_path)
    damage(tmp_path, change)
    with pytest.raises(DataError, match=said) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "config_groups"),
        ("int4", "int4"),
    ],
)
def test_other_quantisations_are_refused_by_name(stated: object, said: str, directory: Path) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": stated}))
    for read in (load, describe):
        with pytest.raises(InputError, match=rf"config\.json: quantization_config.*{said}.*quantize"):
            read(directory)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_bits", 3),
        ("symmetric", False),
        ("actorder", "group"),
        ("group_size", 16),
        ("strategy", "tensor"),
    ],
)
def test_other_weights_are_refused(field: str, value: object, tmp_path: Path) -> None:
    save(quantise(build(), "int4"), tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["quantization_config"]["config_groups"]["group_0"]["weights"][field] = value
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match="Whorl reads symmetric int8 by channel and int4 by group"):
        load(tmp_path)


def test_a_family_without_a_form_is_refused(tmp_path: Path) -> None:
    from whorl.models.directory import load as read

    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=67, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    model = quantise(read(tmp_path / "gpt2"), "int4")
    assert logits(model).isfinite().all()
    with pytest.raises(InputError, match=r"transposed or fused.*--quantize"):
        save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the command ----------------------------------------------------------------------------------


def whorl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["model", *words])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_quantize_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(build(), tmp_path / "model")
    for kind, words in (("int8", []), ("int4", ["--group", "64"])):
        out = tmp_path / kind
        code, text, _ = whorl(
            capsys, "quantize", str(tmp_path / "model"), str(out), "--to", kind, *words, "--json"
        )
        assert code == 0
        assert json.loads(text)["out"] == str(out)
        wanted = quantise(build(), kind, 64)
        assert torch.equal(logits(load(out)), logits(wanted))
        found = describe(out)
        assert found["quantisation"] == {"kind": kind, "group": None if kind == "int8" else 64}
        plain = sum(math.prod(p.shape) for p in build().parameters())
        assert found["parameters"]["total"] == plain
        code, text, _ = whorl(capsys, "info", str(out))
        assert code == 0
        assert ("int4 in groups of 64" if kind == "int4" else "int8 in groups of a row") in text
    code, _, err = whorl(capsys, "quantize", str(out), str(tmp_path / "again"), "--to", "int8")
    assert code == 2
    assert "already quantised" in err
    assert not (tmp_path / "again").exists()


# -- adapters -------------------------------------------------------------------------------------


def test_an_adapter_on_top(tmp_path: Path) -> None:
    plain = inject(build(), LoraConfig(rank=2, alpha=4))
    for name, parameter in plain.named_parameters():
        if "lora_b" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(plain, tmp_path / "adapter")
    model = load_adapter(quantise(build(), "int8"), tmp_path / "adapter")
    wanted = load_adapter(twin(quantise(build(), "int8"), build()), tmp_path / "adapter")
    assert torch.allclose(logits(model, 40), logits(wanted, 40), atol=1e-4)
    assert share(logits(model, 40), logits(quantise(build(), "int8"), 40)) > 0.05
    with pytest.raises(InputError, match="quantised; merge into its unquantised form"):
        merge(model)


def test_an_adapter_is_trained_over_packed_weights() -> None:
    model = inject(quantise(build(), "int4"), LoraConfig(rank=2, alpha=4)).train()
    before = model.state_dict()["layers.0.mlp.up.base.weight_packed"].clone()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * model.config.n_layers
    optimiser = torch.optim.SGD(trained, lr=0.1)
    losses = []
    for _ in range(4):
        made = model.logits(model(tokens(20), Packed([20])))
        loss = torch.nn.functional.cross_entropy(made[:-1], tokens(20)[1:].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(model.state_dict()["layers.0.mlp.up.base.weight_packed"], before)
