"""Content-addressed image shards: once each, checked on read, whole after a crash."""

import hashlib
from pathlib import Path

import pytest

from whorl.base.errors import DataError, InputError
from whorl.data.images import ImageShards, ImageWriter

IMAGES = [bytes([n]) * (50 + n) for n in range(10)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, images: list[bytes]) -> list[str]:
    with ImageWriter(folder, shard_bytes=200) as writer:
        return [writer.put(image) for image in images]


def test_equal_images_are_kept_once_and_read_back(tmp_path: Path) -> None:
    digests = write(tmp_path, IMAGES + IMAGES[:4])
    shards = ImageShards(tmp_path)
    assert len(shards) == 10 and list(shards) == digests[:10]
    for image, digest in zip(IMAGES, digests, strict=False):
        assert digest == hashlib.sha256(image).hexdigest()
        assert shards[digest] == image
    bins = sorted(tmp_path.glob("*.bin"))
    assert len(bins) == 4 and sum(path.stat().st_size for path in bins) == sum(map(len, IMAGES))
    assert "0" * 64 not in shards
    with pytest.raises(DataError, match="contains no image"):
        shards["0" * 64]


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_crash_between_bytes_and_index_leaves_no_trace(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "whole", IMAGES)
    write(tmp_path / "torn", IMAGES[:5])
    last = max((tmp_path / "torn").glob("*.bin"))
    last.write_bytes(last.read_bytes() + IMAGES[5][:cut])
    index = tmp_path / "torn" / "index.jsonl"
    index.write_bytes(index.read_bytes() + b'{"digest": "ab'[:cut])
    write(tmp_path / "torn", IMAGES)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    digests = write(tmp_path, IMAGES)
    path = tmp_path / "00000.bin"
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 1
    path.write_bytes(damaged)
    shards = ImageShards(tmp_path)
    assert shards[digests[0]] == IMAGES[0]
    with pytest.raises(DataError, match=r"00000.bin is damaged at byte 50"):
        shards[digests[1]]
    path.unlink()
    with pytest.raises(DataError, match=r"00000.bin is missing"):
        shards[digests[0]]
    last = max(tmp_path.glob("*.bin"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(DataError, match="shorter than its index"):
        ImageWriter(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        ImageShards(tmp_path / "elsewhere")
