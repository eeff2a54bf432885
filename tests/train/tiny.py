"""A model and a stream of batches small enough for any test; also a program, for tests that kill it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from whorl.base.files import sha256_json
from whorl.base.logbook import Logbook
from whorl.data.batch import Batch
from whorl.data.batches import Batches
from whorl.models.config import LoraConfig, ModelConfig, VisionConfig
from whorl.models.decoder import Decoder
from whorl.models.init import init_weights
from whorl.models.lora import inject
from whorl.parallel.group import Group
from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig

LENGTH, VOCABULARY, PATCH = 48, 64, 2
VISION = VisionConfig(
    d_model=16, n_layers=1, n_heads=2, head_dim=8, d_ff=24, patch_size=PATCH, image_size=8, image_token=1
)
MODEL = ModelConfig(
    vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48,
    context=64, qk_norm=True,
)  # fmt: skip


class TinyBatches(Batches):
    """Two documents of counting numbers, targets on an uneven share of them; with `images`, a picture in
    every even micro-batch, so that of two ranks only the first ever sees one."""

    def __init__(self, micro_batches: int = 4, seed: int = 0, images: bool = False) -> None:
        self.length, self.micro_batches, self.seed, self.images = LENGTH, micro_batches, seed, images
        self.per_epoch = 1000

    @property
    def fingerprint(self) -> str:
        return sha256_json([self.micro_batches, self.seed, self.images])

    def micro(self, number: int) -> Batch:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, 9], counter=[0, 0, 0, number]))
        first = int(draw.integers(8, LENGTH - 8))
        start, pace = draw.integers(2, VOCABULARY, 2), draw.integers(1, 4, 2)
        place = np.concatenate([np.arange(first + 1), np.arange(LENGTH - first + 1)])
        document = np.repeat([0, 1], [first + 1, LENGTH - first + 1])
        row = (2 + (start[document] + pace[document] * place) % (VOCABULARY - 2)).astype(np.int32)
        keep = np.ones(len(row), bool)
        keep[[first, -1]] = False
        tokens, targets = row[keep], row[np.flatnonzero(keep) + 1]
        weights = (draw.random(LENGTH) < draw.random()).astype(np.float32)
        weights[-1] = 1.0
        pictures: dict[str, Any] = {}
        if self.images and number % 2 == 0:
            tokens[:4], weights[:4] = VISION.image_token, 0.0
            pictures = {
                "pixels": draw.random((4, 3 * PATCH * PATCH), np.float32),
                "grids": np.array([[2, 2]], np.int32),
                "image_positions": np.arange(4),
            }
        lengths = np.array([first, LENGTH - first], np.int32)
        ids = (f"{number}a", f"{number}b")
        return Batch(tokens=tokens, targets=targets, weights=weights, lengths=lengths, ids=ids, **pictures)

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return (f"{number}a", f"{number}b")


def tiny_model(seed: int = 0, images: bool = False, lora: LoraConfig | None = None, **axes: Any) -> Decoder:
    config = MODEL.model_copy(update={"vision": VISION if images else None, **axes})
    model = init_weights(Decoder(config), seed)
    return model if lora is None else inject(model, lora, seed=seed)


def tiny_config(**values: Any) -> TrainConfig:
    optim = OptimConfig(**{"newton_schulz": "float32", **values.pop("optim", {})})
    schedule = ScheduleConfig(**{"warmup": 2, **values.pop("schedule", {})})
    given = {"steps": 20, "dtype": "float32", "compile": "off", "device": "cpu"} | values
    return TrainConfig(optim=optim, schedule=schedule, **given)


def main(run: str, options: str = "{}") -> int | None:
    """Train in `run`; options are JSON: {"train": {…}, "batches": {…}, "model": {…}, "lora": {…}}."""
    from whorl.train.loop import fit
    from whorl.train.objectives import next_token

    given = json.loads(options)
    lora = LoraConfig(**given["lora"]) if "lora" in given else None
    model = tiny_model(lora=lora, **given.get("model", {}))
    batches = TinyBatches(**given.get("batches", {}))
    config = tiny_config(**given.get("train", {}))
    group = Group.current()
    with Logbook(run) if group.rank == 0 else Logbook.null() as logbook:
        validation = [batches.micro(100_000 + number) for number in range(3)]
        state = fit(model, batches, next_token, config, logbook, validation=validation)
    print(json.dumps({"rank": group.rank, "step": state.step, "left": state.left}))
    return 75 if state.left else None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    sys.exit(main(*sys.argv[1:]))
