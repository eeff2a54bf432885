"""Handwritten digits as small images: which digit is this?

The 1,797 images (8×8, 17 grey levels) come with scikit-learn; E. Alpaydin, C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI, 1998. They are enlarged by a whole factor, so that a
vision tower with patches of 4 sees 16 patches at factor 2.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np
from PIL import Image

from whorl.base.errors import InputError
from whorl.base.nouns import ImagePart, Message, Trace
from whorl.tasks.numbers import numbers
from whorl.tasks.replies import ask, saying
from whorl.tasks.task import Example, Grade, check_split, randomness

QUESTIONS = (
    "Which digit is this?",
    "What digit do you see?",
    "Read the digit.",
    "Which number is in the picture?",
)
SIDE = 8
MAX_SHIFT = 0.5  # pixels of the 8×8 image; of the augmented copies
MAX_TURN = 8.0  # degrees
MAX_STRETCH = 0.08


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's handwritten digits, `n_test` of them held out by a seeded permutation.

    "train" is endless: first every training image as it is, then, time and again, each a little
    shifted, turned and stretched (`augment=False`: as it is). Equal images are on one side.
    """

    scale: int = 2
    resample: Literal["nearest", "bicubic"] = "bicubic"
    augment: bool = True
    n_test: int = 360
    seed: int = 0
    name: str = "digits"

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 64:
            raise InputError(f"task {self.name}: scale {self.scale} must be between 1 and 64")

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        """images uint8 [N, 8, 8] in 0…255 and labels [N]."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise InputError("the digits task needs scikit-learn: pip install 'whorl[tasks]'") from error
        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target

    @cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """Which images belong to each split, in the order they are asked."""
        images, _ = self._data
        if not 0 < self.n_test < len(images):
            raise InputError(
                f"task {self.name}: n_test {self.n_test} must be between 1 and {len(images) - 1}"
            )
        order = [int(index) for index in randomness(self.seed, "digits split").permutation(len(images))]
        test = order[: self.n_test]
        shown = {images[index].tobytes() for index in test}
        train = [index for index in order[self.n_test :] if images[index].tobytes() not in shown]
        return {"train": tuple(train), "test": tuple(test)}

    def examples(self, split: str) -> Iterator[Example]:
        check_split(self.name, split)
        images, labels = self._data
        for turn in count():
            for place, index in enumerate(self.indices[split]):
                rng = randomness(self.seed, f"digits {split}", turn, place)
                question = QUESTIONS[rng.integers(len(QUESTIONS))]
                pixels = self._enlarge(images[index], rng if turn and self.augment else None)
                id = f"{self.name}-{split}-{index}" + (f"-{turn}" if turn else "")
                yield Example(
                    id=id,
                    conversation=ask(_png(pixels), question, id=id),
                    reference=str(labels[index]),
                    meta={"index": index},
                )
            if split == "test":
                return

    def _enlarge(self, image: np.ndarray, rng: np.random.Generator | None) -> Image.Image:
        side = SIDE * self.scale
        resample = Image.Resampling.NEAREST if self.resample == "nearest" else Image.Resampling.BICUBIC
        picture = Image.fromarray(image)
        if rng is None:
            return picture.resize((side, side), resample)
        angle = np.radians(rng.uniform(-MAX_TURN, MAX_TURN))
        stretch = rng.uniform(1 - MAX_STRETCH, 1 + MAX_STRETCH, size=2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn / (self.scale * stretch)  # from output to input coordinates
        middle = SIDE / 2 + rng.uniform(-MAX_SHIFT, MAX_SHIFT, size=2)
        offset = middle - matrix @ np.full(2, side / 2)
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        return picture.transform((side, side), Image.Transform.AFFINE, coefficients, resample)

    def solution(self, example: Example) -> tuple[Message]:
        """The right reply."""
        return (saying(f"It is {example.reference}."),)

    async def grade(self, example: Example, trace: Trace) -> Grade:
        """1 where the digit is the only number in the reply."""
        right = numbers(trace.message.text) == [int(example.reference)]
        reason = "" if right else f"read {trace.message.text!r}, not {example.reference}"
        return Grade(score=float(right), parts={"digit": float(right)}, reason=reason)


def _png(picture: Image.Image) -> ImagePart:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return ImagePart(data=buffer.getvalue())
