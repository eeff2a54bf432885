"""Adapters against `peft` on tiny `transformers` models, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from whorl.base.errors import DataError, InputError, WhorlError
from whorl.models.adapter import adapter_version
from whorl.models.config import LoraConfig, ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.lora import adapters, inject, load_adapter, merge, save_adapter

TOKENS = torch.arange(3, 21)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")
COMMON: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def hf_model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON)).eval()
    if kind == "gemma2":
        config = transformers.Gemma2Config(**COMMON, head_dim=8, attn_implementation="eager")
        return transformers.Gemma2ForCausalLM(config).eval()
    if kind == "opt":
        config = transformers.OPTConfig(
            vocab_size=61, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, word_embed_proj_dim=32,
        )  # fmt: skip
        return transformers.OPTForCausalLM(config).eval()
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        return transformers.GPT2LMHeadModel(config).eval()
    tower = transformers.PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=4,
        image_size=32,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**COMMON), image_token_index=5,
        vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="module", params=["llama", "gemma2", "opt", "gpt2", "llava"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    hf_model(request.param).save_pretrained(directory)
    return request.param, directory


def tokens_for(kind: str) -> torch.Tensor:
    return TOKENS + 10 if kind == "llava" else TOKENS  # no image token among them


def ours(model: Decoder, kind: str) -> torch.Tensor:
    with torch.no_grad():
        tokens = tokens_for(kind)
        return model.logits(model(tokens, Packed([len(tokens)])))


def theirs(model: Any, kind: str) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens_for(kind)[None]).logits[0].float()


def shake(model: torch.nn.Module) -> None:
    """Adapters that do something: B is zero at first."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_b" in name.lower():
            torch.nn.init.normal_(parameter, std=0.3)


TARGETS: list[tuple[str, ...] | None] = [None, ("q", "v"), ("o", "up")]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("rslora", [False, True])
def test_ours_in_peft_and_back(base: tuple[str, Path], targets: Any, rslora: bool, tmp_path: Path) -> None:
    kind, directory = base
    model = load(directory)
    plain = ours(model, kind)
    inject(model, LoraConfig(rank=3, alpha=5, targets=targets, rslora=rslora))
    assert torch.equal(ours(model, kind), plain), "a fresh adapter changes nothing"
    shake(model)
    wanted = ours(model, kind)
    assert (wanted - plain).abs().max() > 1e-2
    save_adapter(model, tmp_path, base_model=str(directory))

    their = peft.PeftModel.from_pretrained(hf_model(kind), str(tmp_path)).eval()
    torch.testing.assert_close(theirs(their, kind), wanted, atol=1e-5, rtol=1e-4)

    again = load(directory, adapter=tmp_path)
    torch.testing.assert_close(ours(again, kind), wanted, atol=1e-5, rtol=1e-4)
    assert len(list(adapters(again))) >= len(list(adapters(model)))  # fused layers come back whole
    merge(again)
    assert not list(adapters(again))
    torch.testing.assert_close(ours(again, kind), wanted, atol=1e-5, rtol=1e-4)


THEIR_TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gemma2": ["q_proj", "down_proj"],
    "opt": ["q_proj", "fc1", "out_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "llava": ["q_proj", "linear_1"],
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"patterned": True},
        {"init_lora_weights": "gaussian", "layers_to_transform": [1]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
def test_theirs_in_ours(base: tuple[str, Path], options: dict[str, Any], tmp_path: Path) -> None:
    kind, directory = base
    options = dict(options)
    if options.pop("patterned", False):
        first = {"llama": "v_proj", "gpt2": "c_attn", "llava": "linear_1"}.get(kind, "q_proj")
        options |= {"rank_pattern": {first: 7}, "alpha_pattern": {first: 3}}
    if kind == "llava":
        options.pop("layers_to_transform", None)  # peft would count the vision tower's layers too
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=THEIR_TARGETS[kind], **options)
    their = peft.get_peft_model(hf_model(kind), config)
    shake(their)
    their.save_pretrained(str(tmp_path))
    wanted = theirs(their.eval(), kind)
    model = load(directory, adapter=tmp_path)
    torch.testing.assert_close(ours(model, kind), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours(merge(model), kind), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("target", "said"), [("lm_head", "lm_head"), ("embed_tokens", "lora_embedding")])
def test_layers_whorl_does_not_adapt_are_named(target: str, said: str, tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path / "base")
    their = peft.get_peft_model(hf_model("llama"), peft.LoraConfig(r=2, target_modules=[target]))
    their.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    with pytest.raises(InputError, match=said):
        load(tmp_path / "base", adapter=tmp_path / "adapter")


def tiny() -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=61, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, context=64
    )
    return Decoder(config).eval()


def test_only_adapters_are_trained() -> None:
    model = inject(tiny(), LoraConfig(rank=2, targets=("q", "down")))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        f"layers.{layer}.{part}.lora_{half}.weight"
        for layer in (0, 1)
        for part in ("attention.q", "mlp.down")
        for half in "ab"
    }
    shake(model)
    model(TOKENS, Packed([len(TOKENS)])).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained)
        assert parameter.grad is None or parameter.grad.abs().sum() > 0


def test_bf16_base_keeps_fp32_adapters_and_merges() -> None:
    model = tiny().to(torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    plain = ours(model, "llama")
    inject(model, LoraConfig(rank=2))
    shake(model)
    assert all(adapter.lora_a.weight.dtype == torch.float32 for _, adapter in adapters(model))
    wanted = ours(model, "llama")
    merged = merge(model)
    assert all(parameter.dtype == torch.bfloat16 for parameter in merged.parameters())
    assert all(parameter.requires_grad for parameter in merged.parameters())
    difference = ours(merged, "llama") - wanted
    assert difference.norm() < 0.05 * (wanted - plain).norm()


def test_dropout_acts_in_training_alone() -> None:
    model = inject(tiny(), LoraConfig(rank=2, dropout=0.5))
    shake(model)
    assert torch.equal(ours(model, "llama"), ours(model, "llama"))
    model.train()
    assert not torch.equal(ours(model, "llama"), ours(model, "llama"))


def test_initial_values_depend_on_the_seed_alone() -> None:
    one, same, other = (inject(tiny(), LoraConfig(rank=2), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(
        one["layers.0.attention.q.lora_a.weight"], other["layers.0.attention.q.lora_a.weight"]
    )


def written(tmp_path: Path, **changes: Any) -> Path:
    model = inject(tiny(), LoraConfig(rank=2, targets=("q",)))
    save_adapter(model, tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"something_new": 0.5}, "something_new"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 5}, "rank 2"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"r": 10**400}, "r is 1000"),
        ({"lora_dropout": 5}, "lora_dropout is 5"),
        ({"lora_dropout": "a"}, "lora_dropout"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern.* not a regular expression"),
        ({"rank_pattern": [1]}, "rank_pattern is .* object"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern: q_proj is 0"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern: q_proj"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    model = tiny()
    before = ours(model, "llama")
    with pytest.raises(WhorlError, match=said) as caught:
        load_adapter(model, written(tmp_path, **changes))
    assert "adapter_config.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(adapters(model)) and torch.equal(ours(model, "llama"), before)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    directory = written(tmp_path / "a")
    file = directory / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load_adapter(tiny(), directory)
    file.unlink()
    (directory / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="is a pickle file"):
        load_adapter(tiny(), directory)
    with pytest.raises(InputError, match="does not exist"):
        load_adapter(tiny(), tmp_path / "nowhere")
    for place in ("", directory / "adapter_config.json", "a\0b"):
        for read in (adapter_version, lambda path: load_adapter(tiny(), path)):
            with pytest.raises(InputError, match="not a folder"):
                read(place)
    folder = tmp_path / "folder"
    (folder / "adapter_config.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"adapter_config\.json cannot be read: Is a directory"):
        load_adapter(tiny(), folder)
    deep = written(tmp_path / "deep")
    (deep / "adapter_config.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"adapter_config\.json is nested too deep"):
        load_adapter(tiny(), deep)
    small = tiny().config.model_copy(update={"n_layers": 1})
    with pytest.raises(InputError, match=r"layers\.1"):
        load_adapter(Decoder(small), written(tmp_path / "b"))
    narrow = tiny().config.model_copy(update={"d_model": 16})
    with pytest.raises(DataError, match="lora_A"):
        load_adapter(Decoder(narrow), written(tmp_path / "c"))


def test_twice_or_nowhere_is_refused(tmp_path: Path) -> None:
    model = inject(tiny(), LoraConfig(targets=("q",)))
    with pytest.raises(InputError, match="already"):
        inject(model, LoraConfig())
    with pytest.raises(InputError, match="no adapter"):
        save_adapter(tiny(), tmp_path)
    with pytest.raises(InputError, match="no adapter"):
        merge(tiny())
    plain = Decoder(tiny().config.model_copy(update={"mlp": "plain"}))
    with pytest.raises(InputError, match="'gate'"):
        inject(plain, LoraConfig(targets=("gate",)))
