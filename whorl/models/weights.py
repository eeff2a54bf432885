"""Tensors of a model directory: safetensors, one file or shards with an index, read as they are needed.

Every tensor's name and shape is checked against the config before any is read. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import read_json, sha256_file, sha256_json, write_json
from whorl.base.posix import fsync_directory
from whorl.models.families.family import Family, Stored

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHARD_BYTES = 5_000_000_000
INTEGERS = {"weight_packed": "I32", "weight_shape": "I64"}  # by the end of a tensor's name
AS_STORED = (*INTEGERS, "weight_scale")  # never cast: parts of a quantised weight
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


# -- which files ----------------------------------------------------------------------------------


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a model directory, sorted; an error with the remedy where there are none."""
    directory = Path(directory)
    index = directory / INDEX
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        for name in names:
            if not (directory / name).is_file():
                raise DataError(f"{index} names {name}, which is missing; download the model again")
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        raise InputError(
            f"{directory / pickled[0]} is a pickle, which can run code when opened, so Whorl does"
            " not read it; use the model's safetensors, or convert it with transformers'"
            " save_pretrained"
        )
    raise InputError(f"{directory} has no {SINGLE} and no {INDEX}; is it a model directory?")


def _weight_map(index: Path) -> dict[str, str]:
    value = read_json(index, what="index")
    found = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found:
        raise DataError(f"{index} has no weight_map of tensor names to files")
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise DataError(
                f"{index}: tensor {name} is listed in {file!r}, which is not a file of this folder"
            )
    return found


_hashes: dict[tuple[str, int, int, int], str] = {}  # of files as they were: path, size, time, inode


def weight_manifest(directory: str | Path) -> dict[str, str]:
    """SHA-256 of each weight file, by name."""
    return {path.name: _file_hash(path) for path in weight_files(directory)}


def weight_version(directory: str | Path) -> str:
    """What the weights are, as one hash: of the manifest of the safetensors files.

    Files already hashed by this process are not read again while size and time of change stay.
    """
    return sha256_json(weight_manifest(directory))


def _file_hash(path: Path) -> str:
    stat = path.stat()
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if key not in _hashes:
        _hashes[key] = sha256_file(path)
    return _hashes[key]


# -- reading --------------------------------------------------------------------------------------


class Checkpoint:
    """The tensors of a directory by their names as the family writes them; only headers are read."""

    def __init__(self, directory: str | Path, family: Family) -> None:
        self.directory, self.family = Path(directory), family
        self._stack = ExitStack()
        self.files: dict[str, tuple[Path, str, Any]] = {}  # name → file, its name there, the open file
        for path in weight_files(directory):
            handle = _open(path)
            self._stack.enter_context(handle)
            for name in handle.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                if name.endswith(family.buffers):
                    continue
                known = family.alias(name)
                if known in self.files:
                    raise DataError(f"{path}: tensor {name} is also in {self.files[known][0].name}")
                self.files[known] = (path, name, handle)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, wanted: Sequence[Stored], shapes: Mapping[str, tuple[int, ...]], tied: bool) -> None:
        """Hold names and shapes against what the config asks for; `shapes` are our parameters'."""
        names = {stored.name for stored in wanted}
        missing = [stored.name for stored in wanted if stored.name not in self.files]
        if missing:
            raise DataError(
                f"{_where(self.directory)}: tensor {missing[0]} is missing{_more(missing)};"
                f" config.json asks for it in a {self.family.model_type} model"
            )
        extra = [name for name in self.files if name not in names]
        if tied:
            extra = [name for name in extra if not self._is_copy_of_embedding(name, wanted)]
        if extra:
            path, name, _ = self.files[extra[0]]
            raise DataError(
                f"{path}: tensor {name} is not part of the {self.family.model_type} model that config.json"
                f" describes{_more(extra)}"
            )
        for stored in wanted:
            path, name, handle = self.files[stored.name]
            header = handle.get_slice(name)
            integer = INTEGERS.get(stored.name.rsplit(".", 1)[-1])
            if header.get_dtype() not in ([integer] if integer else FLOATS):
                known = integer or ", ".join(FLOATS)
                raise DataError(f"{path}: tensor {name} is {header.get_dtype()}; Whorl reads {known}")
            have, need = tuple(header.get_shape()), stored_shape(stored, shapes)
            if have != need:
                raise DataError(
                    f"{path}: tensor {name} is {list(have)}, but config.json asks for {list(need)}"
                )

    def dtype(self, wanted: Sequence[Stored]) -> torch.dtype:
        """The dtype of the first tensor: what the directory's weights are, where config.json is silent."""
        _, name, handle = self.files[wanted[0].name]
        return FLOATS[handle.get_slice(name).get_dtype()]

    def read(
        self,
        wanted: Sequence[Stored],
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype | None,
        device: Any,
    ) -> Iterator[tuple[str, Tensor]]:
        """Our parameters, one tensor of the file at a time, in `dtype` (None: as stored) on `device`."""
        for stored in wanted:
            tensor = self._tensor(stored.name)
            if stored.transposed:
                tensor = tensor.T
            sizes = [shapes[part][0] for part in stored.parts]
            pieces = tensor.split(sizes) if len(sizes) > 1 else (tensor,)
            for part, piece in zip(stored.parts, pieces, strict=True):
                # A copy, so that neither the file's mapping nor its alignment stays with the parameter.
                kind = piece.dtype if part.endswith(AS_STORED) else dtype or piece.dtype
                fresh = torch.empty(shapes[part], dtype=kind, device=device)
                yield part, fresh.copy_(piece.reshape(shapes[part]))

    def _tensor(self, name: str) -> Tensor:
        path, stored, handle = self.files[name]
        try:
            return handle.get_tensor(stored)
        except SafetensorError as error:
            raise DataError(
                f"{path}: tensor {stored} cannot be read: {error}; download the file again"
            ) from error

    def _is_copy_of_embedding(self, name: str, wanted: Sequence[Stored]) -> bool:
        """A tied model's checkpoint may hold the embedding a second time; another matrix is an error."""
        if not name.endswith("lm_head.weight"):
            return False
        embed = next(stored.name for stored in wanted if stored.parts == ("embed.weight",))
        if torch.equal(self._tensor(name), self._tensor(embed)):
            return True
        path, stored_name, _ = self.files[name]
        raise DataError(
            f"{path}: tensor {stored_name} differs from the embedding, but config.json ties them;"
            " set tie_word_embeddings to false there, or remove the tensor"
        )


def stored_shape(stored: Stored, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a tensor in its file, from those of the parameters it holds."""
    if stored.shape is not None:
        return stored.shape
    first, *_ = parts = [shapes[part] for part in stored.parts]
    stacked = (sum(part[0] for part in parts), *first[1:])
    return stacked[::-1] if stored.transposed else stacked


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a complete safetensors file: {reason}; download it again") from error


def _where(directory: Path) -> Path:
    index = directory / INDEX
    return index if index.is_file() else directory / SINGLE


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


# -- writing --------------------------------------------------------------------------------------


def write_weights(
    directory: str | Path,
    wanted: Sequence[Stored],
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `state` (our names) as the family names it, in one file or in shards of at most
    `shard_bytes` (a larger tensor has one for itself).

    Files of an earlier save stay until the new ones are whole on disk; only then are names changed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _check_state(wanted, state)
    shards = _shards(wanted, state, dtype, shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [_shard_name(at, len(shards)) for at in range(len(shards))]
    with tempfile.TemporaryDirectory(prefix=".weights.", dir=directory) as fresh:
        for name, shard in zip(names, shards, strict=True):
            _write_file(Path(fresh) / name, {stored.name: _pack(stored, state, dtype) for stored in shard})
        for name in names:
            os.replace(Path(fresh) / name, directory / name)
    if len(shards) > 1:
        weight_map = {
            stored.name: name for name, shard in zip(names, shards, strict=True) for stored in shard
        }
        size = sum(_bytes(stored, state, dtype) for shard in shards for stored in shard)
        write_json(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    else:
        (directory / INDEX).unlink(missing_ok=True)
    for old in directory.glob("model*.safetensors"):
        if old.name not in names:
            old.unlink()
    fsync_directory(directory)


def _check_state(wanted: Sequence[Stored], state: Mapping[str, Tensor]) -> None:
    parts = {part for stored in wanted for part in stored.parts}
    missing, extra = sorted(parts - state.keys()), sorted(state.keys() - parts)
    if extra:
        raise InputError(
            f"parameter {extra[0]} is not part of the model being saved{_more(extra)};"
            " an adapter is saved on its own, or merged first"
        )
    if missing:
        raise InputError(f"parameter {missing[0]} is missing from the model being saved{_more(missing)}")


def _shards(
    wanted: Sequence[Stored], state: Mapping[str, Tensor], dtype: torch.dtype | None, limit: int
) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    filled = 0
    for stored in wanted:
        size = _bytes(stored, state, dtype)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(stored)
        filled += size
    return shards


def _bytes(stored: Stored, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> int:
    return sum(state[part].numel() * (_written(part, state[part], dtype)).itemsize for part in stored.parts)


def _written(part: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return tensor.dtype if dtype is None or part.endswith(AS_STORED) else dtype


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _pack(stored: Stored, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    parts = [state[part].detach().cpu() for part in stored.parts]
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if stored.transposed:
        tensor = tensor.T
    if stored.shape is not None:
        tensor = tensor.reshape(stored.shape)
    return tensor.to(_written(stored.parts[0], tensor, dtype)).contiguous()


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, str(path), metadata={"format": "pt"})
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        place, reason = path.parent.parent, " ".join(str(error).split())
        raise FaultError(
            f"{place / path.name} cannot be written: {reason}; free some space or give another"
            " directory (existing files are untouched)"
        ) from error


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: name → dtype, shape, offsets."""
    with _open(path):  # checks that the file is whole
        pass
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header
