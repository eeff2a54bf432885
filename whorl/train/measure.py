"""What this machine does fastest, measured once at the start of a run and kept with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from whorl.kernels.linear import linear
from whorl.models.config import ModelConfig

REPEATS = 7


def matmul_rate(config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the model's own widest matmul, [tokens, d_model] × [d_model, d_ff]: the limit that
    tokens/s are held against."""
    x = torch.randn(tokens, config.d_model, device=device).to(dtype)
    weight = torch.randn(config.d_ff, config.d_model, device=device).to(dtype)
    seconds = _best_seconds(lambda: linear(x, weight), device)
    return 2 * tokens * config.d_model * config.d_ff / seconds


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of several runs: whatever else the machine does can only slow one down."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[2:])


def measure_rates(
    model: ModelConfig, tokens: int, dtypes: Sequence[str], device: torch.device
) -> dict[str, float]:
    """`matmul_rate` of each dtype, by name."""
    return {name: matmul_rate(model, tokens, getattr(torch, name), device) for name in dtypes}


def flops_per_token(config: ModelConfig, length: float) -> float:
    """Matmul FLOPs of a training step per token (forward, and backward at twice that), with
    attention over documents of mean `length`, causal: Kaplan et al. (arXiv 2001.08361), 2.1."""
    attention = config.d_model * config.head_dim * (2 * config.n_heads + 2 * config.n_kv_heads)
    mlp = (3 if config.mlp == "gated" else 2) * config.d_model * config.d_ff
    head = config.vocab_size * (config.d_embed or config.d_model)
    scores = 2 * config.n_heads * config.head_dim * length / 2
    return 6 * (config.n_layers * (attention + mlp + scores) + head)
