"""What every kind of post-training begins with and ends with: a model directory, and another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whorl.base.errors import InputError
from whorl.base.logbook import Logbook
from whorl.base.progress import say
from whorl.data.batches import Batches
from whorl.models.adapter import adapter_version, save_adapter
from whorl.models.decoder import Decoder
from whorl.models.directory import load, save_state
from whorl.models.place import model_directory
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.parallel.wrap import gather_state
from whorl.post.config import DpoTrainConfig, SftTrainConfig
from whorl.text.config import ImageConfig
from whorl.text.default_template import TOKENS
from whorl.text.images import load_processor
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.train.config import TrainConfig
from whorl.train.loop import TrainState

WARMUP = 0.25  # of all steps at most
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Start:
    """What the model directory brought."""

    model: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate
    images: ImageConfig | None


def open_start(model: str, template_args: dict[str, Any]) -> Start:
    """The model in fp32 with its tokenizer and template (Whorl's own where it has none)."""
    directory = model_directory(model)
    decoder = load(directory, dtype=torch.float32)
    tokenizer = Tokenizer.load(directory)
    template = _template(directory, tokenizer).with_args(**template_args)
    tokenizer.end_ids = tuple(dict.fromkeys((*template.end_ids(tokenizer), *tokenizer.end_ids)))
    images = load_processor(directory) if decoder.config.vision is not None else None
    return Start(decoder, tokenizer, template, images)


def _template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The directory's template, or ours where there is none and the tokenizer has its control tokens."""
    has_one = (
        any((directory / name).exists() for name in TEMPLATE_FILES) or "chat_template" in tokenizer.config
    )
    if has_one:
        return ChatTemplate.load(directory)
    missing = [token for token in TOKENS if not tokenizer.has(token)]
    if missing:
        raise InputError(
            f"{directory} has no chat template, and its tokenizer lacks {', '.join(missing)} for"
            f" Whorl's default; put its chat_template.jinja into {directory}"
        )
    say(f"{directory} has no chat template; using Whorl's default")
    return ChatTemplate.default()


def train_config(train: SftTrainConfig | DpoTrainConfig, epochs: float, batches: Batches) -> TrainConfig:
    """With the steps that `epochs` take, unless they are given, and a warm-up that leaves most of them at
    full rate: a run of ten steps would otherwise end before it has begun."""
    steps = train.steps or max(1, round(epochs * batches.per_epoch / batches.micro_batches))
    warmup = min(train.schedule.warmup, int(WARMUP * steps))
    if warmup < train.schedule.warmup:
        say(
            f"{steps:,} step{'s' if steps > 1 else ''} in all, so the warm-up is {warmup} of them and not"
            f" {train.schedule.warmup}"
        )
    schedule = train.schedule.model_copy(update={"warmup": warmup})
    return TrainConfig.model_validate(train.model_dump() | {"steps": steps, "schedule": schedule})


def export(
    start: Start, base: str, run: Path, state: TrainState, logbook: Logbook, group: Group, *, adapter: bool
) -> None:
    """runs/NAME/model as a Hugging Face directory, or runs/NAME/adapter as a PEFT one of `base`."""
    place = run / ("adapter" if adapter else "model")
    weights = {} if adapter else gather_state(start.model)  # every rank takes part
    if group.rank == 0:
        if adapter:
            save_adapter(start.model, place, base_model=base)
            start.tokenizer.save(place)
            start.template.save(place)
        else:
            save_state(
                start.model.config, weights, place, start.tokenizer, template=start.template,
                images=start.images, family=start.model.family, compute_dtype=start.model.compute_dtype,
            )  # fmt: skip
        made = {"adapter": adapter_version(place)} if adapter else {"weights": weight_version(place)}
        logbook.event("exported", path=str(place), step=state.step, **made)
        say(f"{place.name}: {place}")
    group.barrier()
