"""Preference pairs to what a model is trained on: both replies after the prompt as it will be served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from whorl.base.errors import DataError, InputError
from whorl.data.batch import Sample
from whorl.post.pairs import SIDES, Pair
from whorl.post.sampled import sampled_side
from whorl.post.samples import STOP_SHARE, TooLong, to_sample
from whorl.text.config import ImageConfig
from whorl.text.images import Patches, image_tokens
from whorl.text.render import ImageTokens
from whorl.text.samples import TrainSample
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PairSample:
    """The two documents of a pair; of each, the reply's tokens have weights that add up to 1/2."""

    chosen: Sample
    rejected: Sample

    @property
    def length(self) -> int:
        """Places both take in a batch."""
        return self.chosen.length + self.rejected.length


@dataclass
class PairReport:
    """What became of the pairs. `too_long` holds the places of those that do not fit."""

    pairs: int = 0
    lengths: list[int] = field(default_factory=list)  # tokens of every prompt with its reply, before cutting
    too_long: list[str] = field(default_factory=list)
    cut: int = 0
    dropped: int = 0
    sampled: int = 0  # replies' sides that are learnt from the tokens that were sampled
    rendered: int = 0  # and those that the chat template writes again


@dataclass(frozen=True)
class Maker:
    """What renders: the model's tokenizer and template, and how it sees images (None: not at all)."""

    tokenizer: Tokenizer
    template: ChatTemplate
    images: ImageConfig | None = None
    patches: dict[str, Patches] = field(default_factory=dict)  # by digest: each image is cut up once

    def expand(self, pair: Pair) -> ImageTokens | None:
        if not pair.prompt.images and not any(one.images for one in (*pair.chosen, *pair.rejected)):
            return None
        if self.images is None:
            raise InputError(f"{pair.where} has images, but the model is text-only; use a multimodal one")
        return image_tokens(self.tokenizer, self.images)

    def sampled(self, pair: Pair, side: str) -> TrainSample | None:
        """One side's ids as they were sampled, where its traces have them and they are this model's."""
        said = pair.side(side)
        replies = [message for message in said if message.role == "assistant"]
        found = sampled_side(replies, pair.sampled.get(side, ()), self.tokenizer, self.template)
        expand = self.expand(pair)
        if found is None or expand is None:
            return found
        # Where the images' places are is known of a prompt that is rendered: the same one has them there.
        asked = self.template.render(pair.prompt, self.tokenizer, reply=True, image_tokens=expand)
        if any(message.images for message in said) or found.ids[: len(asked.ids)] != asked.ids:
            return None
        return replace(found, image_positions=asked.image_positions, images=pair.prompt.images)

    def render(self, pair: Pair, side: str) -> TrainSample:
        """One side's ids, with the mask on what comes after the prompt alone.

        `DataError` where the template leaves nothing to learn, or writes an earlier reply of the same side
        otherwise once a later one follows: no one sequence is then what the model would have written.
        """
        where, first = f"{pair.where}: {side}", len(pair.prompt.messages)
        expand = self.expand(pair)
        made = self.template.train_samples(
            pair.conversation(side), self.tokenizer, image_tokens=expand, where=where
        )
        own = [part for part in made if part.replies[-1] >= first]
        if len(own) > 1:
            raise DataError(
                f"{where} has {len(own)} replies, and the chat template renders earlier ones"
                " differently when a later one follows; give pairs that differ only in the last"
                " reply"
            )
        part, mask = own[0], own[0].mask
        if part.replies[0] < first:
            asked = self.template.render(pair.prompt, self.tokenizer, reply=True, image_tokens=expand)
            start = len(asked.ids)
            mask = [False] * start + mask[start:]
        if not any(mask[1:]):
            raise DataError(
                f"{where}: nothing in it would be learnt; the chat template marks none of its tokens"
            )
        return replace(part, mask=mask)

    def samples(self, parts: tuple[TrainSample, TrainSample], id: str) -> PairSample:
        chosen, rejected = (
            _halved(to_sample(part, f"{id}/{side}", self.images, self.patches))
            for side, part in zip(SIDES, parts, strict=True)
        )
        return PairSample(chosen, rejected)


def pair_samples(
    pairs: Iterable[Pair],
    maker: Maker,
    *,
    length: int,
    max_length: int,
    too_long: TooLong = "stop",
    name: str = "pair",
) -> tuple[list[PairSample], PairReport]:
    """The samples of all pairs, in order; their documents are called `name`-0/chosen and so on.

    A pair fits where each prompt with its reply has at most `max_length` tokens, and both take at most
    `length` places. One that does not is cut at its replies' ends or dropped, and counted; with "stop",
    more than 1 % of these is an `InputError`, fewer are dropped. `DataError` with the pair's place where
    there is nothing to learn, or the template makes both replies the same.
    """
    report = PairReport()
    samples: list[PairSample] = []
    for pair in pairs:
        id = f"{name}-{report.pairs}"
        report.pairs += 1
        kept = {side: maker.sampled(pair, side) for side in SIDES}
        report.sampled += sum(one is not None for one in kept.values())
        report.rendered += sum(one is None for one in kept.values())
        chosen, rejected = (kept[side] or maker.render(pair, side) for side in SIDES)
        whole = chosen, rejected
        if whole[0].ids == whole[1].ids:
            raise DataError(
                f"{pair.where}: chosen and rejected are identical after rendering with the chat"
                " template; drop the pair"
            )
        report.lengths += [len(part.ids) for part in whole]
        fitted = _fit(whole, pair.where, length, max_length, too_long, report)
        if fitted is not None:
            samples.append(maker.samples(fitted, id))
    if too_long == "stop" and len(report.too_long) > STOP_SHARE * report.pairs:
        raise InputError(
            f"{len(report.too_long)} of {report.pairs} pairs do not fit (the first: {report.too_long[0]}):"
            f" {max_length} tokens each and {length} together; --too-long cut or drop, or a larger length"
        )
    return samples, report


def _halved(sample: Sample) -> Sample:
    """Its weights scaled to add up to 1/2."""
    return replace(sample, weights=(sample.weights * (0.5 / sample.weights[1:].sum())).astype(np.float32))


def _fit(
    parts: tuple[TrainSample, TrainSample],
    where: str,
    length: int,
    max_length: int,
    too_long: TooLong,
    report: PairReport,
) -> tuple[TrainSample, TrainSample] | None:
    """Both within the limits: as they are, cut, or None where the pair is dropped."""
    sizes = [len(part.ids) for part in parts]
    if max(sizes) <= max_length and sum(sizes) - 2 <= length:
        return parts
    report.too_long.append(where)
    shorter = min(*sizes, max_length, length // 2 + 1)
    longer = min(max(sizes), max_length, length + 2 - shorter)
    cut = tuple(_cut(part, longer if len(part.ids) == max(sizes) else shorter) for part in parts)
    if sizes[0] == sizes[1]:
        cut = tuple(_cut(part, shorter) for part in parts)
    if too_long == "cut" and cut[0] is not None and cut[1] is not None and cut[0].ids != cut[1].ids:
        report.cut += 1
        return cut[0], cut[1]
    report.dropped += 1
    return None


def _cut(part: TrainSample, size: int) -> TrainSample | None:
    """Its first `size` tokens; None where an image or all that is learnt would be lost."""
    if max(part.image_positions, default=-1) + 1 >= size or not any(part.mask[1:size]):
        return None
    return replace(part, ids=part.ids[:size], mask=part.mask[:size])
