"""Images to patches, by the Pixtral processor's rules (Agrawal et al. 2024): any size and shape within
a limit, resized to whole patches, several images anywhere in the text."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, write_json
from whorl.base.nouns import ImagePart
from whorl.text.config import ImageConfig
from whorl.text.tokenizer import Tokenizer

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # none that runs another program to decode
BREAK, END = "[IMG_BREAK]", "[IMG_END]"
# What Pillow's decoders raise on damaged files, besides OSError.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, TypeError)


@dataclass(frozen=True)
class Patches:
    """`pixels` float32 [h·w, 3·p·p], patches row by row, each channel by channel (the layout of a
    `Conv2d(3, d, p, stride=p)` weight flattened); `grid` is (h, w) in patches."""

    pixels: np.ndarray
    grid: tuple[int, int]


def preprocess(image: ImagePart | bytes, config: ImageConfig) -> Patches:
    """Decode, resize to whole patches, normalise. DataError for what is no image, is damaged, or has
    more than `config.max_pixels`."""
    decoded = _decode(_bytes(image), config)
    height, width = resized(decoded.height, decoded.width, config)
    if (decoded.height, decoded.width) != (height, width):
        decoded = decoded.resize((width, height), Image.Resampling.BICUBIC)
    values: np.ndarray = np.asarray(decoded, dtype=np.float32) / np.float32(255)
    values = (values - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    patch = config.patch_size
    grid = (height // patch, width // patch)
    tiles = values.reshape(grid[0], patch, grid[1], patch, 3).transpose(0, 2, 4, 1, 3)
    return Patches(np.ascontiguousarray(tiles.reshape(grid[0] * grid[1], 3 * patch * patch)), grid)


def resized(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """The size in pixels an image is brought to: its longest edge at most `max_size` with the ratio
    kept, then each edge up to whole patches."""
    ratio = max(height, width) / config.max_size
    if ratio > 1:
        height, width = max(1, math.floor(height / ratio)), max(1, math.floor(width / ratio))
    patch = config.patch_size
    return math.ceil(height / patch) * patch, math.ceil(width / patch) * patch


def grid_of(image: ImagePart | bytes, config: ImageConfig) -> tuple[int, int]:
    """(h, w) in patches, from the file's header alone."""
    opened = _open(_bytes(image), config)
    width, height = opened.size
    if _orientation(opened) >= 5:  # EXIF orientations 5 to 8 turn the picture by a quarter
        width, height = height, width
    tall, wide = resized(height, width, config)
    return tall // config.patch_size, wide // config.patch_size


def image_tokens(tokenizer: Tokenizer, config: ImageConfig) -> Callable[[ImagePart], list[int]]:
    """What `ChatTemplate.render` takes: the tokens an image stands for.

    With `config.breaks`, rows of the image token with a break token between rows and an end token
    last, as `PixtralProcessor` writes them; else one image token a patch. Only image tokens take
    features.
    """
    if tokenizer.image_token is None:
        raise InputError("the tokenizer has no image token; set image_token in processor_config.json")
    token = tokenizer.id_of(tokenizer.image_token)
    names = tokenizer.special_tokens
    ends = [names.get("image_break_token", BREAK), names.get("image_end_token", END)]
    if config.breaks and not all(map(tokenizer.has, ends)):
        raise InputError(f"the tokenizer has no {' and '.join(ends)}; set images.breaks = false")
    between, last = [tokenizer.id_of(text) for text in ends] if config.breaks else (token, token)

    def tokens_of(image: ImagePart) -> list[int]:
        height, width = grid_of(image, config)
        if not config.breaks:
            return [token] * (height * width)
        rows = [*[token] * width, between] * height
        rows[-1] = last
        return rows

    return tokens_of


# -- the files transformers reads ---------------------------------------------------------------


def save_processor(directory: str | Path, config: ImageConfig, tokenizer: Tokenizer) -> None:
    """Write `preprocessor_config.json` and `processor_config.json`: with them a llava directory loads
    as a `PixtralProcessor`. Without breaks their tokens are empty strings there."""
    directory = Path(directory)
    names = tokenizer.special_tokens
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": "PixtralProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_pad": True,
            "image_mean": list(config.mean),
            "image_std": list(config.std),
            "patch_size": {"height": config.patch_size, "width": config.patch_size},
            "resample": int(Image.Resampling.BICUBIC),
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": config.max_size},
        },
    )
    write_json(
        directory / "processor_config.json",
        {
            "processor_class": "PixtralProcessor",
            "patch_size": config.patch_size,
            "spatial_merge_size": 1,
            "image_token": tokenizer.image_token or "[IMG]",
            "image_break_token": names.get("image_break_token", BREAK) if config.breaks else "",
            "image_end_token": names.get("image_end_token", END) if config.breaks else "",
        },
    )


def load_processor(directory: str | Path) -> ImageConfig:
    """Read what `save_processor` or transformers' `PixtralProcessor` wrote; InputError where the
    directory is of another processor."""
    directory = Path(directory)
    path = directory / "processor_config.json"
    processor = _object(read_json(path, what="processor config"), path) if path.is_file() else {}
    settings = processor.get("image_processor")  # newer files nest the image processor
    if not isinstance(settings, dict):
        path = directory / "preprocessor_config.json"
        settings = _object(read_json(path, what="image processor config"), path)
    kind = settings.get("image_processor_type", settings.get("feature_extractor_type", "none named"))
    if not str(kind).startswith("PixtralImageProcessor"):
        raise InputError(f"{path}: image_processor_type is {kind}; Whorl reads PixtralImageProcessor")
    merge = processor.get("spatial_merge_size", 1)
    if merge != 1:
        raise InputError(f"{directory}: spatial_merge_size {merge} is not supported; it must be 1")
    patch, size = settings.get("patch_size", 16), settings.get("size", {"longest_edge": 1024})
    fields: dict[str, Any] = {
        "patch_size": patch.get("height") if isinstance(patch, dict) else patch,
        "max_size": size.get("longest_edge", size.get("height")) if isinstance(size, dict) else size,
        "breaks": processor.get("image_break_token", BREAK) != "",
    }
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in settings:
            fields[ours] = settings[theirs]
    try:
        return ImageConfig(**fields)
    except ValueError as error:
        shown = json.dumps(fields)
        raise DataError(f"{path}: settings {shown} are not an image processor's: {_first(error)}") from error


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


def _first(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]


# -- decoding -----------------------------------------------------------------------------------


def _bytes(image: ImagePart | bytes) -> bytes:
    return image.data if isinstance(image, ImagePart) else image


def _open(data: bytes, config: ImageConfig) -> Image.Image:
    """The image with its header read and its pixels not."""
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise DataError(f"image of {len(data)} bytes is not one of {kinds}; convert or drop it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image was rejected unread: {error}") from error
    except BROKEN as error:
        raise DataError(f"image of {len(data)} bytes is damaged: {error}; replace or drop it") from error
    pixels = opened.width * opened.height
    if pixels > config.max_pixels:
        raise DataError(
            f"image of {opened.width}×{opened.height} has {pixels} pixels, over the limit of"
            f" {config.max_pixels}; shrink it or raise images.max_pixels"
        )
    if pixels == 0:
        raise DataError("image has no pixels; drop it")
    return opened


def _orientation(opened: Image.Image) -> int:
    """How EXIF says to turn the picture, 1 to 8 (1: not at all)."""
    try:
        # Pillow reads a whole PNG in search of EXIF at its end; only what comes first counts here.
        data = opened.info.get("exif") if opened.format == "PNG" else None
        exif = Image.Exif() if opened.format == "PNG" else opened.getexif()
        if data is not None:
            exif.load(data)
        return int(exif.get(0x0112, 1))
    except BROKEN as error:
        raise DataError(f"image's EXIF data is damaged: {error}; save it without EXIF") from error


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _decode(data: bytes, config: ImageConfig) -> Image.Image:
    opened = _open(data, config)
    turn = TURNS.get(_orientation(opened))
    try:
        decoded = opened.convert("RGB")
    except Image.DecompressionBombError as error:
        raise DataError(f"image was rejected: {error}") from error
    except BROKEN as error:
        raise DataError(f"image of {len(data)} bytes is damaged: {error}; replace or drop it") from error
    return decoded if turn is None else decoded.transpose(turn)
