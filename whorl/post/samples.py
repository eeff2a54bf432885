"""Conversations to the samples a model is trained on: tokens, what counts, and the images' patches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation
from whorl.data.batch import Sample
from whorl.text.config import ImageConfig
from whorl.text.images import Patches, image_tokens, preprocess
from whorl.text.samples import TrainSample
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

TooLong = Literal["stop", "cut", "drop"]
STOP_SHARE = 0.01  # of samples over the length, above which "stop" stops


@dataclass
class SampleReport:
    """What became of the conversations. `too_long` holds the indices of those over the length."""

    conversations: int = 0
    samples: int = 0
    lengths: list[int] = field(default_factory=list)  # tokens of every sample before cutting
    too_long: list[int] = field(default_factory=list)
    cut: int = 0
    dropped: int = 0


def chat_samples(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    image_config: ImageConfig | None = None,
    max_length: int,
    too_long: TooLong = "stop",
) -> tuple[list[Sample], SampleReport]:
    """The samples of all conversations, in order; several for one where its template demands it.

    Weights are 1 on what the assistant wrote and on the token that ends its turn, 0 elsewhere. A
    sample of more than `max_length` tokens is cut at its end or dropped, and counted; with "stop",
    more than 1 % of these is an `InputError`, fewer are dropped. A conversation whose mask is empty or
    whose text does not come back from its tokens is a `DataError` with its index.
    """
    report = SampleReport()
    samples: list[Sample] = []
    names: Counter[str] = Counter()
    patches: dict[str, Patches] = {}
    expand = image_tokens(tokenizer, image_config) if image_config is not None else None
    for index, conversation in enumerate(conversations):
        report.conversations += 1
        name = conversation.id or f"conversation-{index}"
        if conversation.images and expand is None:
            raise InputError(
                f"conversation {index} has images, but the model is text-only; use a multimodal one"
            )
        made = template.train_samples(
            conversation, tokenizer, image_tokens=expand if conversation.images else None,
            where=f"conversation {index}",
        )  # fmt: skip
        for part in made:
            report.lengths.append(len(part.ids))
            kept = _fit(part, index, max_length, too_long, report)
            if kept is not None:
                names[name] += 1
                id = f"{name}#{names[name] - 1}" if names[name] > 1 or len(made) > 1 else name
                samples.append(to_sample(kept, id, image_config, patches))
    report.samples = len(samples)
    if too_long == "stop" and len(report.too_long) > STOP_SHARE * len(report.lengths):
        raise InputError(
            f"{len(report.too_long)} of {len(report.lengths)} samples are over {max_length} tokens long (the"
            f" first: conversation {report.too_long[0]}); --too-long cut or drop, or a larger length"
        )
    return samples, report


def _fit(
    part: TrainSample, index: int, max_length: int, too_long: TooLong, report: SampleReport
) -> TrainSample | None:
    """The sample within the length: as it is, cut, or None where it is dropped."""
    if len(part.ids) <= max_length:
        return part
    report.too_long.append(index)
    images_end = max(part.image_positions, default=-1) + 1
    if too_long == "cut" and images_end < max_length and any(part.mask[1:max_length]):
        report.cut += 1
        return TrainSample(
            part.ids[:max_length], part.mask[:max_length], part.image_positions, part.images, part.text,
            part.replies, part.id,
        )  # fmt: skip
    report.dropped += 1
    return None


def to_sample(
    part: TrainSample, id: str, image_config: ImageConfig | None, patches: dict[str, Patches]
) -> Sample:
    """Tokens, weights 1 on what is learnt, and the images' patches; `patches` keeps those made so far."""
    tokens, weights = np.asarray(part.ids, np.int32), np.asarray(part.mask, np.float32)
    if not part.images:
        return Sample(tokens=tokens, weights=weights, id=id)
    assert image_config is not None
    for image in part.images:
        if image.digest not in patches:  # an image that comes again is decoded once
            patches[image.digest] = preprocess(image, image_config)
    shown = [patches[image.digest] for image in part.images]
    return Sample(
        tokens=tokens, weights=weights, id=id,
        pixels=np.concatenate([patch.pixels for patch in shown]),
        grids=np.asarray([patch.grid for patch in shown], np.int32),
        positions=np.asarray(part.image_positions, np.int64),
    )  # fmt: skip
