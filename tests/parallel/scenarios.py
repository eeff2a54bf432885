"""What the ranks of `test_ranks` train, one way after another in the same processes, and the one process
they are held against."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from tiny import TinyBatches, tiny_config, tiny_model

from whorl.base.logbook import Logbook
from whorl.models.config import LoraConfig
from whorl.parallel.group import Group
from whorl.parallel.wrap import gather_state
from whorl.train.loop import fit
from whorl.train.objectives import next_token

# name → (model, batches, settings, LoRA). Four micro-batches a step, or three: one rank then gets an
# empty batch; pictures are in even micro-batches, so that of two ranks only the first has any.
SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "text": ({}, {}, {}, None),
    "untied": ({"tied": False}, {}, {"optim": {"name": "adamw"}}, None),
    "images": ({"images": True}, {"images": True}, {}, None),
    "uneven": ({"images": True}, {"images": True, "micro_batches": 3}, {"eval_every": 7}, None),
    "lora": ({"images": True}, {"images": True}, {"eval_every": 7}, {"rank": 4, "dropout": 0.1}),
    "bf16": ({"images": True}, {"images": True}, {"dtype": "bfloat16"}, None),
}


def train(name: str, parallel: str) -> dict[str, Any]:
    model_axes, batch_axes, settings, lora = SCENARIOS[name]
    model = tiny_model(**model_axes, lora=LoraConfig(**lora) if lora else None)
    batches = TinyBatches(**batch_axes)
    validation = [batches.micro(10**6 + number) for number in range(3)]
    config = tiny_config(parallel=parallel, **settings)
    state = fit(model, batches, next_token, config, Logbook.null(), validation=validation)
    norms = {key: float(value.float().norm()) for key, value in gather_state(model).items()}
    return {"losses": state.losses, "validation": state.validation_loss, "norms": norms}


def main(out: str, *names: str) -> None:
    results = {f"{name}-{how}": train(name, how) for name in names for how in ("ddp", "fsdp")}
    if Group.current().rank == 0:
        Path(out).write_text(json.dumps(results))
