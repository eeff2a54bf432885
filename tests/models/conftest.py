"""A small model of ours on disk, shared by the tests of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from whorl.models import Decoder, ModelConfig, save


def small_config(**axes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 67, "d_model": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
        "d_ff": 48, "context": 64, "qk_norm": True,
    }  # fmt: skip
    return ModelConfig.model_validate(values | axes)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A saved model that a test may damage."""
    torch.manual_seed(0)
    path = tmp_path / "model"
    save(Decoder(small_config()), path)
    return path
