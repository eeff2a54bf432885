"""A message as a page posts it, before anything is kept of it."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from whorl.base.errors import InputError
from whorl.serve.api.errors import ApiError
from whorl.studio.config import StudioLimits
from whorl.studio.web.incoming import LARGEST_IMAGE, Incoming, read_message

LIMITS = StudioLimits(prompt=20)


def encoded(kind: str, size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, kind)
    return file.getvalue()


def uri(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_images_come_before_the_text_with_their_own_kind(kind: str) -> None:
    data = encoded(kind)
    message = read_message(Incoming(text=" hi\n", images=[uri(data, "text/html")]), LIMITS)
    image, text = message.content
    assert text == " hi\n" and message.images == (image,)
    assert image.data == data and image.media_type == f"image/{kind.lower()}"


def test_too_long_is_refused_with_the_limit() -> None:
    assert read_message(Incoming(text="x" * 20), LIMITS).text == "x" * 20
    with pytest.raises(ApiError, match="21 characters, more than 20; shorten it") as refused:
        read_message(Incoming(text="x" * 21), LIMITS)
    assert refused.value.status == 413


def bomb(side: int) -> bytes:
    """A PNG's head that promises side² pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([uri(b"GIF89a")], "image 1"), ([uri(b"<svg/>")], "image 1 is not a PNG"),
        ([uri(encoded("PNG")), uri(encoded("PNG")[:60])], "image 2 cannot be decoded"),
        ([uri(encoded("JPEG", (400, 400))[:9000])], "image 1 cannot be decoded"),
        ([uri(bomb(30_000))], "pixels"), ([uri(bomb(8_000))], "pixels"),
        ([uri(b"x" * (LARGEST_IMAGE + 1))], "at most 4 MB"),
        ([uri(encoded("GIF"))] * 9, "the limit per message is 8"),
        (["https://example.org/a.png"], "data URI"), (["data:image/png;base64,!!"], "not valid base64"),
    ],
)  # fmt: skip
def test_what_is_no_image(images: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_message(Incoming(text="see", images=images), LIMITS)


def test_an_empty_message_is_none() -> None:
    with pytest.raises(InputError, match="empty"):
        read_message(Incoming(text=" \n"), LIMITS)
