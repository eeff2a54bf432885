"""Tiny random models of transformers, one or more per family: the oracle of the models' tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES = {
    "vocab_size": 67, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
OPT = {
    "vocab_size": 67, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128, "word_embed_proj_dim": 32,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": 67, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GEMMA = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 17, "sliding_window": 6, "num_hidden_layers": 5}
KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Case:
    """A family at one point of its own space: transformers' class names and the config's fields."""

    config: str
    model: str
    fields: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> Any:
        config = getattr(transformers, self.config)(**self.fields)
        config._attn_implementation = "eager"
        model = getattr(transformers, self.model)(config)
        stir(model, seed)
        return model.eval()


CASES: dict[str, Case] = {
    "llama2": Case("LlamaConfig", "LlamaForCausalLM", {**SIZES, "num_key_value_heads": 4}),
    "llama3": Case(
        "LlamaConfig",
        "LlamaForCausalLM",
        {**SIZES, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
    ),
    "llama_linear_biased": Case(
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            **SIZES, "attention_bias": True, "mlp_bias": True, "head_dim": 12, "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
        },
    ),
    "mistral": Case("MistralConfig", "MistralForCausalLM", {**SIZES, "sliding_window": 7}),
    "mistral_unbounded": Case("MistralConfig", "MistralForCausalLM", {**SIZES, "sliding_window": None}),
    "qwen2": Case("Qwen2Config", "Qwen2ForCausalLM", SIZES),
    "qwen2_windows": Case(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {
            **SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": Case("Qwen3Config", "Qwen3ForCausalLM", {**SIZES, "head_dim": 16}),
    "qwen3_mixed": Case(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {
            **SIZES, "head_dim": 10, "attention_bias": True, "use_sliding_window": True, "sliding_window": 9,
            "layer_types": KINDS, "tie_word_embeddings": True,
        },
    ),
    "gemma2": Case(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    ),
    "gemma3": Case(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**GEMMA, "num_hidden_layers": 7, "final_logit_softcapping": 5.0, "tie_word_embeddings": False},
    ),
    "gemma3_stretched": Case(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **GEMMA, "num_hidden_layers": 4, "layer_types": KINDS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1_000.0},
            },
        },
    ),
    "gpt2": Case("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gpt2_odd": Case(
        "GPT2Config",
        "GPT2LMHeadModel",
        {**GPT2, "n_inner": 40, "scale_attn_weights": False, "tie_word_embeddings": False},
    ),
    "opt": Case("OPTConfig", "OPTForCausalLM", OPT),
    "opt_350m": Case(
        "OPTConfig", "OPTForCausalLM", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 20}
    ),
    "opt_bare": Case(
        "OPTConfig",
        "OPTForCausalLM",
        {**OPT, "enable_bias": False, "_remove_final_layer_norm": True, "tie_word_embeddings": False},
    ),
}  # fmt: skip


def stir(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter, norms and biases too, a value that shows when it is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim == 1 else 0.2
            noise = spread * torch.randn(parameter.shape, generator=generator)
            centre = (
                1.0 if parameter.ndim == 1 and name.endswith("weight") and parameter.mean() > 0.5 else 0.0
            )
            parameter.copy_(noise + centre)


def tokens(count: int, seed: int = 1, vocab: int = 67) -> Tensor:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed))


def each_alone(model: Any, documents: list[Tensor]) -> Tensor:
    """transformers' logits of every document by itself, side by side [T, V]."""
    with torch.no_grad():
        return torch.cat([model(document[None]).logits[0] for document in documents])
