"""Images named or held by a record: data URIs, bytes, files beside the data; checked by decoding."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError
from whorl.base.nouns import ImagePart
from whorl.data.config import ReadConfig
from whorl.data.readers.text import BadTextError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def read_images(record: dict[str, Any], folder: Path, config: ReadConfig) -> tuple[ImagePart, ...]:
    """The images of a record's image fields, in order. Raises `BadTextError` for one that cannot be read.

    A value is encoded bytes, a data URI, a path below the data file's folder, `{"bytes": …}` or
    `{"path": …}` (the form of Hugging Face image columns), or a list of these.
    """
    found: list[ImagePart] = []
    for field in config.image_fields:
        value = record.get(field)
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                found.append(_checked(_image_bytes(item, field, folder, config), field, config))
    return tuple(found)


def _image_bytes(value: Any, field: str, folder: Path, config: ReadConfig) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise BadTextError("image", f"field {field!r} contains neither bytes, a data URI nor a path")
    if value.startswith("data:"):
        try:
            return ImagePart.from_data_uri(value).data
        except DataError as error:
            raise BadTextError("image", f"field {field!r}: {error}") from error
    if "://" in value:
        raise BadTextError("image", f"field {field!r} is a web address; download the image and give its path")
    path = (folder / value).resolve()
    if not path.is_relative_to(folder.resolve()):  # a data set must not read the rest of the disk
        raise BadTextError("image", f"field {field!r}: {value} is outside the data file's folder")
    try:
        if path.stat().st_size > config.max_record_bytes:
            raise BadTextError(
                "image", f"{value} is over read.max_record_bytes ({config.max_record_bytes:,})"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadTextError("image", f"field {field!r}: cannot read {value}: {error}") from error


def _checked(data: bytes, field: str, config: ReadConfig) -> ImagePart:
    """Decode once: a header alone does not tell a cut file from a whole one."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > config.max_image_pixels:
                limit = f"read.max_image_pixels is {config.max_image_pixels:,}"
                raise BadTextError("image", f"field {field!r}: {width} x {height} pixels; {limit}")
            image.load()
            media_type = Image.MIME[image.format or "PNG"]
    except BadTextError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadTextError("image", f"field {field!r} cannot be decoded: {str(error)[:200]}") from error
    return ImagePart(data=data, media_type=media_type)
