"""Compiled block by block, ragged batches of one T need two graphs a kind of layer: the first packing's
and one for any other. Fails where dynamo falls back to eager or compiles for every batch."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tests.models.conftest import small_config
from tests.models.oracles import tokens
from whorl.models import Decoder, Packed

T = 128
LAYERS = 10  # more than dynamo compiles one piece of code for, should every layer be a case of its own


def ragged(seed: int) -> list[int]:
    """Lengths that sum to T: from one document to many."""
    rng = random.Random(seed)
    lengths: list[int] = []
    longest = rng.choice([6, 40, T])
    while (left := T - sum(lengths)) > 0:
        lengths.append(min(left, rng.randint(1, longest)))
    return lengths


def step(model: Decoder, seed: int) -> tuple[Tensor, Tensor]:
    """A loss, and its gradient at the embedding."""
    model.zero_grad()
    hidden = model(tokens(T, seed), Packed(ragged(seed)))
    loss = torch.nn.functional.cross_entropy(model.logits(hidden), tokens(T, seed + 1))
    loss.backward()
    assert model.embed.weight.grad is not None
    return loss.detach(), model.embed.weight.grad


def test_thirty_ragged_batches_compile_two_graphs_a_kind() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.manual_seed(0)
    config = small_config(n_layers=LAYERS, window=16, windowed_layers=tuple(range(0, LAYERS, 2)))  # two kinds
    eager, compiled = Decoder(config).train(), Decoder(config).train()
    compiled.load_state_dict(eager.state_dict())
    torch._dynamo.reset()
    # aot_eager traces forward and backward as inductor would and needs no C++ compiler; with
    # fullgraph a break in the graph is an error.
    counter = CompileCounterWithBackend("aot_eager")
    for layer in compiled.layers:
        layer.compile(backend=counter, fullgraph=True)
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for seed in range(30):
                loss, grad = step(compiled, seed)
                if seed % 10 == 0:
                    expected_loss, expected_grad = step(eager, seed)
                    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
                    torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)
    finally:
        torch._dynamo.reset()
    assert 2 <= counter.frame_count <= 4
