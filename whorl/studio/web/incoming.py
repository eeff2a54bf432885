"""What a person sends: text and images, checked before anything is kept or asked of a model."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import ImagePart, Message, Part
from whorl.serve.api.errors import ApiError
from whorl.studio.config import StudioLimits

MOST_IMAGES = 8
LARGEST_IMAGE = 4 << 20  # bytes of the encoded file
MOST_PIXELS = 50_000_000  # a small file may hold a picture that fills the memory
KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
# What Pillow's readers raise on damaged files, besides OSError.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, TypeError)


class Incoming(BaseModel):
    """A message as a page posts it; `images` are data URIs."""

    text: str = ""
    images: list[str] = []


def read_message(asked: Incoming, limits: StudioLimits) -> Message:
    """The person's message: images first, as they were put, then the text.

    Decodes images, so call it from a thread. ApiError 413 where the text is too long, InputError (400)
    for what is empty, too much, or no image.
    """
    check_length(asked.text, limits)
    if len(asked.images) > MOST_IMAGES:
        raise InputError(f"{len(asked.images)} images are too many; the limit per message is {MOST_IMAGES}")
    images = [_read_image(uri, number) for number, uri in enumerate(asked.images, 1)]
    content: list[Part] = [*images]
    if asked.text.strip():
        content.append(asked.text)
    if not content:
        raise InputError("the message is empty; write something")
    return Message(role="user", content=tuple(content))


def check_length(text: str, limits: StudioLimits, what: str = "message") -> None:
    """ApiError 413 for what is longer than the studio takes."""
    if len(text) > limits.prompt:
        said = f"the {what} has {len(text):,} characters, more than {limits.prompt:,}; shorten it"
        raise ApiError(413, said, code="too_long")


def known_number(number: int, what: str) -> None:
    """ApiError 404 for a number of an address that no database could hold."""
    if not 0 <= number < 2**63:
        raise ApiError(404, f"there is no such {what}")


def _read_image(uri: str, number: int) -> ImagePart:
    try:
        data = ImagePart.from_data_uri(uri).data
    except DataError as error:
        raise InputError(f"image {number}: {error}") from error
    if len(data) > LARGEST_IMAGE:
        size = len(data) / (1 << 20)
        raise InputError(f"image {number} has {size:.1f} MB; at most {LARGEST_IMAGE >> 20} MB, so shrink it")
    return ImagePart(data=data, media_type=_kind(data, number))


def _kind(data: bytes, number: int) -> str:
    """The media type by what the bytes are, whatever the URI said. Every pixel is decoded once: a JPEG's
    `verify` looks at no more than its head."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have our own limit
            with Image.open(io.BytesIO(data), formats=list(KINDS)) as image:
                kind, pixels = KINDS[str(image.format)], image.width * image.height
                if pixels > MOST_PIXELS:
                    raise InputError(
                        f"image {number} has {pixels:,} pixels; at most {MOST_PIXELS:,}, so shrink it"
                    )
                image.verify()
            with Image.open(io.BytesIO(data), formats=list(KINDS)) as image:
                image.draft("RGB", (64, 64))  # a JPEG comes at an eighth of its size, and eight times as fast
                image.load()
    except UnidentifiedImageError as error:
        raise InputError(f"image {number} is not a PNG, JPEG, WebP or GIF") from error
    except InputError:
        raise
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise InputError(f"image {number} cannot be decoded ({error}); is the file complete?") from error
    return kind
