"""Every family against transformers: logits, gradients, and directories read by each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.oracles import CASES, each_alone, tokens, transformers
from whorl.base.errors import InputError
from whorl.models import Decoder, ModelConfig, Packed, RopeConfig, load, save
from whorl.models.families import FAMILIES, config_from_hf, config_to_hf

LENGTHS = [37, 5, 1, 20]  # longer and shorter than every window


def logits(model: Decoder, documents: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.cat(documents), Packed([len(d) for d in documents])))


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A case's name, transformers' model, and the directory it wrote."""
    path = tmp_path_factory.mktemp(request.param)
    model = CASES[request.param].build()
    model.save_pretrained(path)
    return request.param, model, path


def test_logits_equal_transformers_packed_and_alone(pair: tuple[str, Any, Path]) -> None:
    _, theirs, path = pair
    documents = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    model = load(path)
    expected = each_alone(theirs, documents)
    assert expected.std() > 0.3  # the weights are not so small that everything would agree
    torch.testing.assert_close(logits(model, documents), expected, atol=1e-4, rtol=0)
    alone = torch.cat([logits(model, [document]) for document in documents])
    torch.testing.assert_close(alone, expected, atol=1e-4, rtol=0)


def test_what_we_save_transformers_loads(pair: tuple[str, Any, Path], tmp_path: Path) -> None:
    name, theirs, path = pair
    model = load(path)
    save(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == json.loads((path / "config.json").read_text())["model_type"]
    assert "rope_parameters" not in written  # the older spelling, which transformers 4 reads too
    back, report = getattr(transformers, CASES[name].model).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    documents = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    torch.testing.assert_close(each_alone(back, documents), each_alone(theirs, documents), atol=1e-5, rtol=0)
    # both spellings of one model are one model
    assert load(tmp_path).config == model.config


@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_gradients_equal_transformers(name: str, tmp_path: Path) -> None:
    theirs = CASES[name].build(seed=3)
    theirs.save_pretrained(tmp_path)
    documents = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    targets = [tokens(length, seed + 100) for seed, length in enumerate(LENGTHS)]
    total = sum(
        torch.nn.functional.cross_entropy(theirs(document[None]).logits[0], target, reduction="sum")
        for document, target in zip(documents, targets, strict=True)
    )
    total.backward()
    with torch.no_grad():  # carry the gradients through the same directory as weights
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = dict(load(tmp_path / "gradients").named_parameters())

    model = load(tmp_path)
    hidden = model(torch.cat(documents), Packed(LENGTHS))
    loss = torch.nn.functional.cross_entropy(model.logits(hidden), torch.cat(targets), reduction="sum")
    loss.backward()
    torch.testing.assert_close(loss.detach(), total.detach(), atol=1e-3, rtol=1e-6)
    for parameter_name, parameter in model.named_parameters():
        scale = expected[parameter_name].abs().max()
        torch.testing.assert_close(
            parameter.grad / scale, expected[parameter_name] / scale, atol=1e-4, rtol=0
        )


LLAMA_32 = {  # the fields of a released model, in the older spelling
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip


def test_both_spellings_of_a_config_are_one_model() -> None:
    newer = {
        key: value
        for key, value in LLAMA_32.items()
        if key not in ("rope_theta", "rope_scaling", "torch_dtype")
    }
    newer |= {"rope_parameters": {**LLAMA_32["rope_scaling"], "rope_theta": 500000.0}, "dtype": "bfloat16"}
    old, _ = config_from_hf(LLAMA_32)
    new, _ = config_from_hf(newer)
    assert old == new
    assert old.rope == RopeConfig(
        theta=500000.0,
        scaling="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_context=8192,
    )
    older_still = {**LLAMA_32, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config_from_hf(older_still)[0].rope == RopeConfig(theta=500000.0, scaling="linear", factor=2.0)


def test_gemma3_in_the_older_spelling() -> None:
    values = {
        "model_type": "gemma3_text", "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96,
        "head_dim": 16, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1,
        "sliding_window": 512, "sliding_window_pattern": 3, "rope_theta": 1_000_000,
        "rope_local_base_freq": 10_000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "query_pre_attn_scalar": 16,
    }  # fmt: skip
    config, _ = config_from_hf(values)
    assert config.windowed_layers == (0, 1, 3, 4, 6)
    assert config.rope == RopeConfig(theta=1_000_000, scaling="linear", factor=8.0)
    assert config.local_rope == RopeConfig(theta=10_000)
    theirs = transformers.Gemma3TextConfig(
        **{key: value for key, value in values.items() if key != "model_type"}
    )
    assert config_from_hf(theirs.to_dict())[0] == config


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_absent_fields_mean_what_transformers_takes_them_for(name: str) -> None:
    classes = {
        "llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config",
        "gemma2": "Gemma2Config", "gemma3_text": "Gemma3TextConfig", "gpt2": "GPT2Config", "opt": "OPTConfig",
    }  # fmt: skip
    written = getattr(transformers, classes[name])().to_dict()
    assert config_from_hf({"model_type": name})[0] == config_from_hf(written)[0]


REFUSED = [
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "longrope"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "attention_factor": 2.0}},
        "attention_factor",
    ),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"hidden_act": "relu2"}, "hidden_act"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", {"hidden_size": "big"}, "hidden_size"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
    ("llama", {"hidden_size": 100, "num_attention_heads": 7}, "hidden_size"),
    ("llama", {"num_attention_heads": 8, "num_key_value_heads": 3}, "n_kv_heads 3"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("qwen2", {"mlp_bias": True}, "mlp_bias"),
    ("qwen3", {"layer_types": ["linear_attention"] * 32}, "linear_attention"),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
]


@pytest.mark.parametrize(("kind", "fields", "named"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(kind: str, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=r"here/config\.json") as caught:
        config_from_hf({"model_type": kind, **fields}, "here/config.json")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_goes_to_the_family_that_expresses_it() -> None:
    plain: dict[str, Any] = {
        "vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
        "d_ff": 48, "context": 64,
    }  # fmt: skip

    def kind(prefer: str | None = None, **axes: Any) -> str:
        return config_to_hf(ModelConfig(**{**plain, **axes}), prefer)[1].model_type

    assert kind() == "llama"
    assert kind("mistral") == "mistral"
    assert kind("gpt2") == "llama"  # preferred, but it has no RMSNorm
    assert kind(qkv_bias=True) == "qwen2"
    assert kind(qk_norm=True) == "qwen3"
    assert kind(window=8, windowed_layers=(0, 1)) == "mistral"
    assert kind(window=8, windowed_layers=(0,), qk_norm=True) == "qwen3"
    with pytest.raises(InputError, match=r"no Hugging Face family.*llama has no logit_soft_cap 3.0"):
        kind(logit_soft_cap=3.0)
