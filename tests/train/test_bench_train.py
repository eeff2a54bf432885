"""bench/train.py: both sides must learn the same targets, or its ratio means nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "bench" / "train.py"
    sys.path.insert(0, str(path.parent))  # as when it is run: benches share files beside them
    spec = importlib.util.spec_from_file_location("whorl_bench_train", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))


def test_each_batch_has_the_loss_that_transformers_takes_from_labels(bench: ModuleType) -> None:
    import torch
    from transformers.loss.loss_utils import ForCausalLMLoss

    rows, length, vocabulary = 3, 7, 11
    sequences = np.random.default_rng(0).integers(0, vocabulary, (2 * rows, length)).astype(np.int32)
    batches = bench.Rows(sequences, rows)
    assert batches.steps == 2
    for step in range(2):
        (batch,) = batches.at(step)
        labels = torch.from_numpy(sequences[step * rows : (step + 1) * rows]).long()
        logits = torch.randn(rows, length, vocabulary, generator=torch.Generator().manual_seed(step))
        theirs = ForCausalLMLoss(logits, labels, vocabulary)
        losses = torch.nn.functional.cross_entropy(
            logits.reshape(-1, vocabulary), torch.from_numpy(batch.targets).long(), reduction="none"
        )
        ours = (losses * torch.from_numpy(batch.weights)).sum() / batch.weight
        assert batch.tokens.tolist() == labels.reshape(-1).tolist()
        assert batch.lengths.tolist() == [length] * rows
        torch.testing.assert_close(ours, theirs)


def test_a_side_counts_by_the_median_of_its_rounds_median_steps(bench: ModuleType) -> None:
    answers = [
        {"seconds": [1.0, 9.0, 2.0], "losses": [5.0, 4.0]},
        {"seconds": [4.0, 4.0, 50.0], "losses": [5.0, 4.0]},
        {"seconds": [1.0, 1.0, 1.0], "losses": [5.0, 3.5]},
    ]
    figures = bench.summarise(answers, tokens=8)
    assert figures.rounds == [4.0, 2.0, 8.0]
    assert figures.tokens_per_second == 4.0
    assert (figures.first_loss, figures.last_loss) == (5.0, 3.5)
