"""How a model is trained: the loop's length, the optimiser, the schedule and what is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config


class OptimConfig(Config):
    """AdamW for vectors, embeddings and heads; Muon for the matrices inside the blocks ("adamw": for none).

    `lr` is AdamW's, `muon_lr` Muon's; both follow the same schedule.
    """

    name: Literal["muon", "adamw"] = "muon"
    lr: float = Field(default=3e-3, gt=0)
    muon_lr: float = Field(default=2e-2, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = Field(default=0.1, ge=0)
    newton_schulz: Literal["bfloat16", "float32"] = "bfloat16"  # dtype of Muon's iteration
    clip: float = Field(default=1.0, ge=0)  # gradient norm; 0: no clipping


class ScheduleConfig(Config):
    """Learning rate as a share of its peak: linear warm-up, then cosine, or flat with a linear end (WSD)."""

    name: Literal["cosine", "wsd", "constant"] = "wsd"
    warmup: int = Field(default=10, ge=0)  # steps
    decay: float = Field(default=0.4, gt=0, le=1)  # share of the steps that WSD decays over
    floor: float = Field(default=0.0, ge=0, le=1)  # share of the peak at the end


class TrainConfig(Config):
    """One run of `fit`."""

    steps: int = Field(gt=0)
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"  # how several ranks share the work
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    eval_every: int = Field(default=0, ge=0)  # steps between validations; 0: at the end only
    sample_every: int = Field(default=0, ge=0)  # steps between samples; 0: none
    checkpoint_every: int = Field(default=0, ge=0)  # steps between checkpoints; 0: at the end only
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=1, ge=1)
