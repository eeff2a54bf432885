"""One step on the device: chunks of sequences to flat tensors, through the `Decoder`, to logits."""

from __future__ import annotations

from collections.abc import Sequence as Many
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.base.errors import one_line
from whorl.kernels.buckets import bucket
from whorl.kernels.logits import likeliest
from whorl.models.decoder import Decoder, Projection
from whorl.models.sampling import Choice, Draw, choose
from whorl.models.vision import Features, Images
from whorl.serve.cache import Cache, PagedContext
from whorl.serve.decode_step import DecodeSteps
from whorl.serve.lora import Adapters
from whorl.serve.scheduler import Chunk
from whorl.serve.sequence import Sequence

SMALL_STEP = 32  # tokens up to which a step is not rounded up: those that only generate
ROWS = 64  # prompt rows whose logits are made at a time

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Sampled:
    """A chosen token with its log-prob (of the model's own logits), the likeliest at its place, and how it
    was drawn: see `whorl.models.sampling.Choice`."""

    token: int
    logprob: float
    top: Top = ()
    drawn: float = 0.0
    kept: int = 1


@dataclass
class StepResult:
    """What a step gave: a token for each sequence that was due one, the log-probs of prompt tokens
    (by sequence, from token `start` + 1 on) and sums of hidden states for embeddings."""

    sampled: dict[str, Sampled]
    prompts: dict[str, list[Sampled]]
    hidden: dict[str, Tensor]
    broken: dict[str, str]  # sequences whose numbers are not finite


class Runner:
    """Runs chunks of sequences of up to `context` tokens through `model` with its paged cache. One thread
    at a time."""

    def __init__(self, model: Decoder, cache: Cache, adapters: Adapters, context: int) -> None:
        self.model, self.cache, self.adapters = model.eval(), cache, adapters
        self._decode_steps = DecodeSteps(model, cache, context)
        self.device = model.embed.weight.device
        self._features: dict[str, Tensor] = {}  # of images whose sequences are not through them yet

    def forget(self, id: str) -> None:
        self._features.pop(id, None)

    @torch.inference_mode()
    def step(self, chunks: Many[Chunk], allowed: dict[str, Tensor]) -> StepResult:
        """Compute the chunks and sample where they end their sequence; `allowed` [V] by sequence."""
        chunks = self.adapters.sort(chunks)
        rows = _Rows(chunks)
        result = StepResult({}, {}, {}, {})

        def head(hidden: Tensor, projection: Projection) -> None:
            self._finish(hidden, projection, rows, allowed, result)

        if not any(chunk.sequence.request.adapter for chunk in chunks):
            hidden = self._decode_steps.run(chunks)
            if hidden is not None:
                head(hidden, self.model.projection)
                return result
        with self.adapters.use(chunks):
            self.model(rows.tokens(self.device), self._context(rows), self._images(rows), head)
        return result

    # -- in ---------------------------------------------------------------------------------------

    def _context(self, rows: _Rows) -> PagedContext:
        """Padding is one more sequence: it is stored nowhere and reads a page that nobody writes."""
        size, chunks, spare = self.cache.size, rows.chunks, rows.spare
        positions: list[int] = []
        slots: list[int] = []
        for chunk in chunks:
            positions += range(chunk.start, chunk.stop)
            pages = chunk.sequence.pages
            slots += [pages[at // size] * size + at % size for at in range(chunk.start, chunk.stop)]
        tables = [chunk.sequence.pages[: -(-chunk.stop // size)] for chunk in chunks]
        lengths = [chunk.stop for chunk in chunks]
        offsets = rows.offsets
        if spare:
            positions += range(spare)
            slots += [-1] * spare
            tables.append([self.cache.padding_page] * -(-spare // size))
            lengths.append(spare)
            offsets = [*offsets, offsets[-1] + spare]
        widest = max(map(len, tables))
        padded = [[*table, *[-1] * (widest - len(table))] for table in tables]
        return PagedContext(
            positions=torch.tensor(positions, device=self.device),
            slots=torch.tensor(slots, device=self.device),
            offsets=torch.tensor(offsets, dtype=torch.int32),
            tables=torch.tensor(padded, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            keys=self.cache.keys,
            values=self.cache.values,
        )

    def _images(self, rows: _Rows) -> Features | None:
        """The features that fall into these chunks. A sequence's images go through the tower once."""
        values, positions = [], []
        for chunk, first in zip(rows.chunks, rows.offsets, strict=False):
            places = torch.tensor(chunk.sequence.request.image_positions, dtype=torch.int64)
            inside = ((places >= chunk.start) & (places < chunk.stop)).nonzero()[:, 0]
            if not len(inside):
                continue
            values.append(self._features_of(chunk.sequence)[inside.to(self.device)])
            positions.append(places[inside] - chunk.start + first)
            if chunk.stop > int(places[-1]):
                self.forget(chunk.sequence.id)
        if not values:
            return None
        return Features(torch.cat(values), torch.cat(positions).to(self.device))

    def _features_of(self, sequence: Sequence) -> Tensor:
        if sequence.id not in self._features:
            given = sequence.request.images
            pixels = torch.cat([torch.tensor(image.pixels, dtype=torch.float32) for image in given])
            grids = torch.tensor([tuple(image.grid) for image in given], dtype=torch.int64)
            places = torch.tensor(sequence.request.image_positions, dtype=torch.int64)
            images = Images(pixels.to(self.device), grids, places.to(self.device))
            self._features[sequence.id] = self.model.features(images)
        return self._features[sequence.id]

    # -- out --------------------------------------------------------------------------------------

    def _finish(
        self,
        hidden: Tensor,
        projection: Projection,
        rows: _Rows,
        allowed: dict[str, Tensor],
        result: StepResult,
    ) -> None:
        due = []
        for chunk, first in zip(rows.chunks, rows.offsets, strict=False):
            request, last = chunk.sequence.request, first + chunk.stop - chunk.start
            if request.kind == "embed":
                result.hidden[request.id] = hidden[first:last].float().sum(0)
            scored = request.kind == "score" or request.prompt_logprobs
            if scored and chunk.start < chunk.sequence.prompt_length:
                result.prompts[request.id] = _prompt(hidden[first:last], projection, chunk, result)
            if chunk.samples and request.kind in ("chat", "text"):
                due.append((chunk.sequence, last - 1))
        if due:
            self._sample(hidden, projection, due, allowed, result)

    def _sample(
        self,
        hidden: Tensor,
        projection: Projection,
        due: list[tuple[Sequence, int]],
        allowed: dict[str, Tensor],
        result: StepResult,
    ) -> None:
        logits = projection(hidden[torch.tensor([row for _, row in due], device=self.device)])
        draws = [
            Draw(
                one.request.params, one.request.number, one.request.ids, one.reply, allowed.get(one.id)
            )
            for one, _ in due
        ]  # fmt: skip
        best, lse = likeliest(logits)
        finite = torch.isfinite(lse).tolist()
        choices, undrawn = _choose(logits, draws, best, finite)
        chosen = torch.tensor([choice.token for choice in choices], device=self.device)
        logprobs = (logits.gather(1, chosen[:, None])[:, 0] - lse).tolist()
        for row, (sequence, _) in enumerate(due):
            if not finite[row] or row in undrawn:
                result.broken[sequence.id] = undrawn.get(row, BROKEN)
                continue
            top = _top(logits[row], lse[row], sequence.request.top_logprobs)
            token, drawn, kept = choices[row]
            result.sampled[sequence.id] = Sampled(token, logprobs[row], top, drawn, kept)


BROKEN = "the model's logits are not finite: its weights are damaged or overflow its dtype"


def _choose(
    logits: Tensor, draws: list[Draw], best: Tensor, finite: list[bool]
) -> tuple[list[Choice], dict[int, str]]:
    """`choose`, and what went wrong by row: one request's failure is not the others'. Rows that are not
    finite get some token."""
    chosen = best.clamp(0, logits.shape[1] - 1)
    if all(finite):
        with suppress(Exception):  # whose row it is that fails is found below
            return choose(logits, draws, chosen), {}
    undrawn: dict[int, str] = {}
    choices = [Choice(token) for token in chosen.tolist()]
    for row, draw in enumerate(draws):
        if finite[row]:
            try:
                [choices[row]] = choose(logits[row : row + 1], [draw], chosen[row : row + 1])
            except Exception as error:  # noqa: BLE001 - it is this row's request that ends
                undrawn[row] = f"no token could be drawn: {type(error).__name__}: {one_line(error)}"
    return choices, undrawn


class _Rows:
    """Where the chunks lie in the flat sequence, and the padding behind them."""

    def __init__(self, chunks: Many[Chunk]) -> None:
        self.chunks = chunks
        self.offsets = [0]
        for chunk in chunks:
            self.offsets.append(self.offsets[-1] + chunk.stop - chunk.start)
        count = self.offsets[-1]
        self.spare = bucket(count) - count if count > SMALL_STEP else 0

    def tokens(self, device: torch.device) -> Tensor:
        ids: list[int] = []
        for chunk in self.chunks:
            ids += chunk.sequence.tokens[chunk.start : chunk.stop]
        return torch.tensor(ids + [0] * self.spare, device=device)


def _prompt(hidden: Tensor, projection: Projection, chunk: Chunk, result: StepResult) -> list[Sampled]:
    """The log-probs of the prompt tokens that follow the chunk's, a block of rows at a time."""
    sequence = chunk.sequence
    following = sequence.tokens[chunk.start + 1 : min(chunk.stop + 1, sequence.prompt_length)]
    scored: list[Sampled] = []
    for start in range(0, len(following), ROWS):
        targets = torch.tensor(following[start : start + ROWS], device=hidden.device)
        logits = projection(hidden[start : start + len(targets)])
        lse = torch.logsumexp(logits, -1)
        if not bool(torch.isfinite(lse).all()):
            result.broken[sequence.id] = BROKEN
        found = (logits.gather(1, targets[:, None])[:, 0] - lse).tolist()
        count = sequence.request.top_logprobs
        for row, (token, logprob) in enumerate(zip(targets.tolist(), found, strict=True)):
            scored.append(Sampled(token, logprob, _top(logits[row], lse[row], count)))
    return scored


def _top(logits: Tensor, lse: Tensor, count: int) -> Top:
    if not count:
        return ()
    values, ids = logits.topk(min(count, len(logits)))
    return tuple(zip(ids.tolist(), (values - lse).tolist(), strict=True))
