from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import ImagePart
from whorl.text.config import ImageConfig
from whorl.text.images import grid_of, image_tokens, load_processor, preprocess, resized, save_processor
from whorl.text.tokenizer import Tokenizer

SMALL = ImageConfig(patch_size=8, max_size=64)


def picture(height: int, width: int, mode: str = "RGB", format: str = "PNG", **save) -> bytes:
    rng = np.random.default_rng(height * 1000 + width)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, format, **save)
    return file.getvalue()


@pytest.fixture(scope="module")
def processor_directory(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("processor")
    ours.save(directory)
    save_processor(directory, SMALL, ours)
    return directory


@pytest.mark.parametrize("size", [(50, 100), (64, 64), (8, 8), (1, 1), (100, 30), (63, 65), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_pixels_are_those_of_the_pixtral_processor(
    size: tuple[int, int], mode: str, processor_directory: Path
) -> None:
    from transformers import AutoImageProcessor

    oracle = AutoImageProcessor.from_pretrained(processor_directory)
    data = picture(*size, mode)
    expected = oracle(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    made = preprocess(data, SMALL)
    rows, columns = made.grid
    assert made.pixels.shape == (rows * columns, 3 * 8 * 8)
    assert made.pixels.dtype == np.float32
    assert grid_of(data, SMALL) == made.grid
    tiles = made.pixels.reshape(rows, columns, 3, 8, 8).transpose(2, 0, 3, 1, 4)
    image = tiles.reshape(3, rows * 8, columns * 8)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_patches_are_what_a_convolution_sees() -> None:
    """Layout: patch · weight.reshape(d, -1) equals the strided convolution, by its definition."""
    data = picture(16, 24)
    made = preprocess(data, SMALL)
    pixels = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64) / 255
    pixels = ((pixels - np.array(SMALL.mean)) / np.array(SMALL.std)).transpose(2, 0, 1)
    weight = np.random.default_rng(0).normal(size=(5, 3, 8, 8))
    for row in range(2):
        for column in range(3):
            window = pixels[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            expected = np.einsum("dcij,cij->d", weight, window)
            got = weight.reshape(5, -1) @ made.pixels[row * 3 + column]
            np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_image_thinner_than_a_patch_keeps_one(ours: Tokenizer) -> None:
    assert resized(1, 5000, SMALL) == (8, 64)  # transformers would make it 0 high and fail
    assert preprocess(picture(1, 5000), SMALL).grid == (1, 8)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_says(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture(16, 32, format=format, exif=exif)
    upright = io.BytesIO()
    ImageOps.exif_transpose(Image.open(io.BytesIO(data))).save(upright, "PNG")
    made, expected = preprocess(data, SMALL), preprocess(upright.getvalue(), SMALL)
    assert grid_of(data, SMALL) == made.grid == ((4, 2) if orientation >= 5 else (2, 4))
    np.testing.assert_array_equal(made.pixels, expected.pixels)


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"hello", "is not one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not one of"),
        (picture(40, 40)[:-300], "is damaged"),
        (picture(40, 40, format="JPEG")[:300], "is damaged"),
        (picture(40, 40)[:20], "damaged|not one of"),
        (bomb(9_000, 9_000), "over the limit of 64000000"),
        (bomb(60_000, 60_000), "rejected unread|over the limit"),
    ],
)
def test_what_is_no_sound_image_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        preprocess(ImagePart(data=data), SMALL)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_refused_or_read_never_a_crash() -> None:
    data = bytearray(picture(30, 30))
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(data), 200):
        broken = bytes(data[:at]) + bytes([data[at] ^ 0xFF]) + bytes(data[at + 1 :])
        try:
            assert preprocess(broken, SMALL).pixels.dtype == np.float32
        except DataError as error:
            assert "\n" not in str(error)


def test_tokens_of_an_image_have_rows(ours: Tokenizer) -> None:
    image = ImagePart(data=picture(16, 24))
    token, between, last = (ours.id_of(text) for text in ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    assert image_tokens(ours, SMALL)(image) == [token] * 3 + [between] + [token] * 3 + [last]
    plain = SMALL.model_copy(update={"breaks": False})
    assert image_tokens(ours, plain)(image) == [token] * 6


def test_a_tokenizer_without_break_tokens_says_so(foreign: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"no \[IMG_BREAK\] and \[IMG_END\]; set images.breaks = false"):
        image_tokens(foreign, SMALL)


@pytest.mark.parametrize("breaks", [True, False])
def test_processor_files_come_back(breaks: bool, ours: Tokenizer, tmp_path: Path) -> None:
    config = ImageConfig(patch_size=4, max_size=32, mean=(0, 0.5, 1), breaks=breaks)
    save_processor(tmp_path, config, ours)
    assert load_processor(tmp_path) == config


def test_processor_written_by_transformers_is_read(tmp_path: Path) -> None:
    from transformers import PixtralImageProcessorPil

    theirs = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 4, "width": 4})
    theirs.save_pretrained(tmp_path)
    read = load_processor(tmp_path)
    assert (read.patch_size, read.max_size, read.breaks) == (4, 48, True)


def test_another_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preprocessor_config\.json does not exist"):
        load_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    with pytest.raises(InputError, match="image_processor_type is CLIPImageProcessor"):
        load_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": -1}}'
    )
    with pytest.raises(DataError, match="are not an image processor's"):
        load_processor(tmp_path)


def test_pixtral_processor_writes_the_same_tokens(ours: Tokenizer, processor_directory: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers' PixtralProcessor needs torchvision")
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(processor_directory)
    images = [picture(16, 24), picture(60, 20)]
    opened = [[Image.open(io.BytesIO(data)) for data in images]]
    made = processor(text="[IMG] and [IMG]", images=opened, return_tensors="np")
    tokens = image_tokens(ours, SMALL)
    first, second = (tokens(ImagePart(data=data)) for data in images)
    assert made["input_ids"][0].tolist() == [*first, *ours.encode(" and "), *second]
