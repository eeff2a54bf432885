"""How images become patches."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from whorl.base.config import Config


class ImageConfig(Config):
    """The Pixtral processor's settings: what `preprocessor_config.json` and `processor_config.json` say."""

    patch_size: int = Field(default=16, ge=1, le=256)  # pixels on a side
    max_size: int = Field(default=1024, ge=1, le=8192)  # the longest edge after resizing, in pixels
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of RGB in [0, 1]
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    breaks: bool = True  # a break token after each row of patches and an end token after the last
    max_pixels: int = Field(default=64_000_000, ge=1)  # of an image as given; more is refused unread

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.max_size < self.patch_size:
            raise ValueError("max_size must be at least patch_size")
        return self
