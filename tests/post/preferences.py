"""What the preference tests share: a tiny model that answers, and pairs about what it should answer."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from whorl.base.nouns import ImagePart
from whorl.models.config import ModelConfig, VisionConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.models.init import init_weights
from whorl.post.config import DpoConfig, DpoTrainConfig
from whorl.text.bpe import train_bpe
from whorl.text.config import ImageConfig
from whorl.text.template import ChatTemplate

IMAGES = ImageConfig(patch_size=4, max_size=16, breaks=False)
LANDS = ("France", "Italy", "Norway", "Egypt", "Peru", "Spain", "Japan", "Chile")
TEXT = (
    f"The capital of {' '.join(LANDS)}? I know it well: it is a town. No idea, ask somebody else please. "
    * 20
)


def picture(colour: tuple[int, int, int]) -> ImagePart:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return ImagePart(data=file.getvalue())


def records(images: bool = False) -> list[dict[str, Any]]:
    """Pairs of unequal lengths: the modest reply is preferred to the boastful one."""
    pairs: list[dict[str, Any]] = []
    for number, land in enumerate(LANDS):
        content: Any = f"The capital of {land}?"
        if images and number % 3 == 0:
            shown = picture((30 * number, 0, 0)).to_data_uri()
            content = [{"type": "image_url", "image_url": {"url": shown}}, {"type": "text", "text": content}]
        chosen = "No idea." if number % 2 else f"No idea about {land}, ask somebody else please."
        pairs.append({
            "prompt": [{"role": "user", "content": content}],
            "chosen": chosen, "rejected": {"role": "assistant", "content": f"I know {land} well."},
        })  # fmt: skip
    return pairs


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def save_tiny(path: Path, vision: bool = False) -> Path:
    """A model directory with random weights and our template."""
    tokenizer = train_bpe([TEXT], 360)
    tower = VisionConfig(
        d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=64, patch_size=4, image_size=16,
        image_token=tokenizer.id_of("[IMG]"),
    )  # fmt: skip
    axes = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=16,
        d_ff=48, context=256, vision=tower if vision else None,
    )  # fmt: skip
    more: dict[str, Any] = {"images": IMAGES} if vision else {}
    save(init_weights(Decoder(axes), 0), path, tokenizer, template=ChatTemplate.default(), **more)
    return path


def settings(model: Path, pairs: Path, runs: Path, steps: int, **more: Any) -> DpoConfig:
    train = {
        "steps": steps, "compile": "off", "dtype": "float32", "device": "cpu",
        "optim": {"lr": 1e-3, "muon_lr": 5e-3, "newton_schulz": "float32", "weight_decay": 0.0},
    }  # fmt: skip
    given: dict[str, Any] = {
        "model": str(model), "pairs": (str(pairs),), "runs": str(runs), "length": 256, "validation": 0.0,
    }  # fmt: skip
    return DpoConfig.model_validate(
        given | {"train": DpoTrainConfig.model_validate(train | more.pop("train", {}))} | more
    )
