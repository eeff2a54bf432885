"""Likelihood of texts: bits per byte, which compares models of any tokenizer, and compressors too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Trace
from whorl.tasks.estimate import Estimate
from whorl.tasks.task import Example, Grade


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How well a model predicts `texts`: split → (id, text) pairs."""

    texts: Mapping[str, Sequence[tuple[str, str]]]
    name: str = "likelihood"

    def examples(self, split: str) -> Iterator[Example]:
        if split not in self.texts:
            raise InputError(f"task {self.name} has no split {split!r}; it has {', '.join(self.texts)}")
        for id, text in self.texts[split]:
            yield Example.of_text(id, text)

    async def grade(self, example: Example, trace: Trace) -> Grade:
        """From the log-probs of the text's tokens. The score is 2^(-bits per byte): the geometric
        mean of the probability given to each byte. `parts` hold bits and bytes, to be summed."""
        if not trace.logprobs:
            raise DataError(f"example {example.id!r}: the trace has no log-probs of the text's tokens")
        if len(trace.logprobs) != len(trace.token_ids):
            raise DataError(f"example {example.id!r}: the trace needs one log-prob per token of the text")
        size = len(example.reference.encode("utf-8"))
        bits = -math.fsum(trace.logprobs) / math.log(2)
        parts = {"bits": bits, "bytes": float(size), "bits_per_byte": bits / size}
        return Grade(score=min(1.0, 2 ** (-bits / size)), parts=parts)


def bits_per_byte(grades: Iterable[Grade]) -> Estimate:
    """All bits over all bytes, so that long texts count for what they are."""
    parts = [grade.parts for grade in grades]
    return Estimate.ratio([part["bits"] for part in parts], [part["bytes"] for part in parts])
