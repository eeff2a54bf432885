"""The contract on a model of real width: rounding adds up over wide sums, and the bound grows with logits."""

from __future__ import annotations

import pytest
import torch

from tests.serve.conftest import drive, make_engine, mixed_requests
from tests.serve.contract import furthest
from tests.serve.test_contract import BF16_BOUND
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.text.tokenizer import Tokenizer

SHAPE = ModelConfig(
    vocab_size=32_000, d_model=1024, n_layers=8, n_heads=16, n_kv_heads=8, head_dim=128, d_ff=3072,
    context=2048, qk_norm=True, tied=True,
)  # fmt: skip


def wide_model(dtype: torch.dtype) -> Decoder:
    """Random weights whose logits are as large as a trained model's."""
    torch.manual_seed(0)
    model = Decoder(SHAPE, dtype)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1 if name == "embed.weight" else 0.03)
    return model.to(dtype).eval()


@pytest.mark.soak
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_log_probs_are_the_trainers_at_real_width(tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    model = wide_model(dtype)
    requests = mixed_requests(SHAPE.vocab_size, 400, count=12)
    with torch.no_grad():
        sample = torch.tensor(requests[1].ids)
        largest = float(model.logits(model(sample, Packed([len(sample)]))).abs().max())
    assert largest > 5, "logits too small to say much"
    bound = 1e-4 * max(1.0, largest / 10) if dtype == torch.float32 else BF16_BOUND * max(1.0, largest / 10)
    engine = make_engine(wide_model(dtype), tokenizer, page=32, budget=128, most=12, memory=0.5)
    worst = furthest(model, requests, drive(engine, requests))
    print(
        f"{dtype}: largest logit {largest:.1f}, largest difference in log-prob {worst:.2g}, bound {bound:.2g}"
    )
    assert worst < bound
