"""Log-probs by windows against one whole forward, and against each window alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.init import init_weights
from whorl.models.likelihood import log_probs

AXES = ModelConfig(
    vocab_size=20, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32, context=16
)


@pytest.fixture(scope="module")
def model() -> Decoder:
    model = init_weights(Decoder(AXES), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def whole(model: Decoder, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model.logits(model(torch.tensor(ids), Packed([len(ids)])))
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def windowed(model: Decoder, ids: list[int], window: int, stride: int) -> np.ndarray:
    """The slow way: for each token, the window it is counted in, forwarded alone."""
    out = [*whole(model, ids[:window])]
    stop = min(len(ids), window)
    while stop < len(ids):
        last, stop = stop, min(len(ids), stop + stride)
        start = stop - window
        out += [*whole(model, ids[start:stop])[last - start - 1 :]]
    return np.array(out)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=60), min_size=1, max_size=5),
    st.integers(2, 16), st.integers(1, 16),
)  # fmt: skip
def test_every_token_is_scored_once_in_its_window(
    model: Decoder, texts: list[list[int]], window: int, stride: int
) -> None:
    stride = min(stride, window - 1)
    found = log_probs(model, texts, window=window, stride=stride)
    for ids, row in zip(texts, found, strict=True):
        assert row.shape == (len(ids) - 1,)
        if len(ids) > 1:
            np.testing.assert_allclose(row, windowed(model, ids, window, stride), atol=1e-4)


def test_a_window_beyond_the_context_is_refused(model: Decoder) -> None:
    with pytest.raises(InputError, match="context"):
        log_probs(model, [[1, 2]], window=17)
