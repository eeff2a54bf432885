"""The reference `generate`: no cache, every step reads everything again. Slow, and obviously right.

It is the oracle of any faster engine: same weights, same `Decoder`, same sampling, same log-probs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import SamplingParams
from whorl.kernels.buckets import bucket
from whorl.models.context import Packed
from whorl.models.decoder import Decoder, Projection
from whorl.models.sampling import Draw, choose
from whorl.models.vision import Images

if TYPE_CHECKING:
    from whorl.text.images import Patches

TOKEN_BUDGET = 16_384  # tokens a forward; bounds memory, whatever the number of prompts


@dataclass(frozen=True)
class Prompt:
    """Token ids, and the images in them: `image_positions` are the indices in `ids` that take the
    images' features, one a patch, in reading order.

    `number` counts this prompt's random numbers: equal (seed, number) sample alike whatever else is
    in the batch. By default it is the prompt's index in the call.
    """

    ids: Sequence[int]
    images: Sequence[Patches] = ()
    image_positions: Sequence[int] = ()
    number: int | None = None


@dataclass(frozen=True)
class Generated:
    """`ids` include the end token that stopped them; `logprobs[i]` is the log-softmax of the model's
    logits (before temperature and truncation) at `ids[i]`; `finish` is "length" where `max_tokens`
    or the model's context ran out."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


@dataclass
class _Sequence:
    """A prompt and what has been generated after it."""

    index: int
    number: int
    ids: list[int]
    prompt_length: int
    room: int  # tokens it may still grow to
    pixels: Tensor | None
    grids: Tensor | None
    positions: Tensor | None
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] = "length"

    @property
    def reply(self) -> list[int]:
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class _Rules:
    """What holds for every sequence of the call."""

    params: SamplingParams
    ends: frozenset[int]
    stopped: Callable[[list[int]], bool] | None
    watch: Callable[[int, int], None] | None


def generate(
    model: Decoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    end_ids: Sequence[int],
    stopped: Callable[[list[int]], bool] | None = None,
    watch: Callable[[int, int], None] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[Generated]:
    """Continue every prompt until an end id, `params.max_tokens` or the model's context.

    `stopped(reply_ids)` is asked after each token and ends the reply when true; `params.stop` needs
    it, since strings are the tokenizer's business. `watch(prompt index, token)` sees every token as
    it comes. A forward holds at most `token_budget` tokens, or one longer sequence.

    Raises InputError for a prompt that is empty, too long, or at odds with its images; DataError
    where the logits are not finite.
    """
    if params.stop and stopped is None:
        raise InputError("params.stop needs a tokenizer: use whorl.models.chat.Assistant, or pass `stopped`")
    sequences = [_start(model, prompt, index, params) for index, prompt in enumerate(prompts)]
    rules = _Rules(params, frozenset(end_ids), stopped, watch)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            running = sequences
            while running:
                for batch in _batches(running, token_budget):
                    _step(model, batch, rules)
                running = [sequence for sequence in running if sequence.room]
    finally:
        model.train(training)
    return [Generated(tuple(s.reply), tuple(s.logprobs), s.finish) for s in sequences]


def _start(model: Decoder, prompt: Prompt, index: int, params: SamplingParams) -> _Sequence:
    where = f"prompt {index}"
    config, ids = model.config, list(prompt.ids)
    limit = config.context
    if config.learned_positions:
        limit = min(limit, config.learned_positions - config.position_offset)
    if not ids:
        raise InputError(f"{where} is empty; give at least one token")
    if len(ids) >= limit:
        raise InputError(f"{where} has {len(ids)} tokens but the model's context is {limit}; shorten it")
    strange = next((number for number in ids if not 0 <= number < config.vocab_size), None)
    if strange is not None:
        raise InputError(f"{where} has token {strange}, outside the vocabulary of {config.vocab_size}")
    pixels, grids, positions = _images(model, prompt, where)
    number = index if prompt.number is None else prompt.number
    room = min(params.max_tokens, limit - len(ids))
    return _Sequence(index, number, ids, len(ids), room, pixels, grids, positions)


def _images(
    model: Decoder, prompt: Prompt, where: str
) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
    patches = sum(image.grid[0] * image.grid[1] for image in prompt.images)
    if len(prompt.image_positions) != patches:
        raise InputError(
            f"{where} has {len(prompt.image_positions)} image positions for {patches} patches;"
            " each patch takes one"
        )
    if not prompt.images:
        return None, None, None
    if model.config.vision is None:
        raise InputError(f"{where} has images, but the model has no vision tower; use one that does")
    outside = [at for at in prompt.image_positions if not 0 <= at < len(prompt.ids)]
    if outside:
        raise InputError(f"{where} has image position {outside[0]} outside its {len(prompt.ids)} tokens")
    pixels = torch.cat([torch.as_tensor(image.pixels, dtype=torch.float32) for image in prompt.images])
    grids = torch.tensor([tuple(image.grid) for image in prompt.images], dtype=torch.int64)
    return pixels, grids, torch.as_tensor(prompt.image_positions, dtype=torch.int64)


def _batches(sequences: list[_Sequence], token_budget: int) -> Iterator[list[_Sequence]]:
    """Sequences of like length side by side, at most `token_budget` tokens at a time."""
    batch: list[_Sequence] = []
    tokens = 0
    for sequence in sorted(sequences, key=lambda sequence: len(sequence.ids)):
        if batch and tokens + len(sequence.ids) > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(sequence)
        tokens += len(sequence.ids)
    if batch:
        yield batch


def _step(model: Decoder, batch: list[_Sequence], rules: _Rules) -> None:
    """One more token for every sequence of the batch; `room` 0 marks those that are done."""
    logits = _last_logits(model, batch)
    draws = [Draw(rules.params, one.number, one.ids[: one.prompt_length], one.reply) for one in batch]
    chosen = torch.tensor([choice.token for choice in choose(logits, draws)], device=logits.device)
    logprobs = logits.gather(1, chosen[:, None])[:, 0] - torch.logsumexp(logits, -1)
    for sequence, token, logprob in zip(batch, chosen.tolist(), logprobs.tolist(), strict=True):
        sequence.ids.append(token)
        sequence.logprobs.append(logprob)
        sequence.room -= 1
        if rules.watch is not None:
            rules.watch(sequence.index, token)
        ended = token in rules.ends and not rules.params.ignore_end
        if ended or (rules.stopped is not None and rules.stopped(sequence.reply)):
            sequence.finish, sequence.room = "stop", 0


def _last_logits(model: Decoder, batch: list[_Sequence]) -> Tensor:
    """Logits [N, V] in fp32 after the last token of each sequence."""
    device = model.embed.weight.device
    lengths = torch.tensor([len(sequence.ids) for sequence in batch])
    ids = [token for sequence in batch for token in sequence.ids]
    ends = lengths.cumsum(0)
    images = _gather_images(batch, (ends - lengths).tolist(), device)
    spare = bucket(len(ids)) - len(ids)  # documents of one token fill up the bucket
    tokens = torch.tensor(ids + [0] * spare, device=device)
    packed = Packed(torch.cat([lengths, torch.ones(spare, dtype=torch.int64)]), device)
    last = torch.nn.functional.pad(ends - 1, (0, bucket(len(batch)) - len(batch))).to(device)

    def project_last(hidden: Tensor, projection: Projection) -> Tensor:
        return projection(hidden[last])

    logits: Tensor = model(tokens, packed, images, head=project_last)[: len(batch)]
    if not bool(torch.isfinite(logits).all()):
        raise DataError("the model's logits are not finite: its weights are damaged or overflow its dtype")
    return logits


def _gather_images(batch: list[_Sequence], starts: list[int], device: torch.device) -> Images | None:
    pixels, grids, positions = [], [], []
    for sequence, start in zip(batch, starts, strict=True):
        if sequence.pixels is not None and sequence.grids is not None and sequence.positions is not None:
            pixels.append(sequence.pixels)
            grids.append(sequence.grids)
            positions.append(sequence.positions + start)
    if not pixels:
        return None
    return Images(torch.cat(pixels).to(device), torch.cat(grids), torch.cat(positions).to(device))
