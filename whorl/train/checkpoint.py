"""Checkpoints: torch's distributed checkpoint, made atomic and hashed.

    run/checkpoints/step-00000040/     __0_0.distcp … .metadata    (torch.distributed.checkpoint)
                                       manifest.json               state, settings, SHA-256 of every file
                                                                   and of itself

A checkpoint is written beside its place and renamed into it, so one that has its name is whole; one
whose files do not match their hashes is set aside for the one before, and said. Only tensors go into
torch's files: weights that are trained and their optimiser's state. Randomness and data are functions
of the step, so nothing else needs saving.

torch keeps an index of the tensors as a pickle. It is read after its hash is checked, and by a reader
that makes nothing but the index's own classes; tensors are read with `weights_only`.
"""

from __future__ import annotations

import pickle
import shutil
import time
import warnings
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import read_json, sha256_file, sha256_json, write_json
from whorl.base.logbook import Logbook, read_metrics
from whorl.base.posix import fsync_directory
from whorl.base.progress import say
from whorl.parallel.group import Group
from whorl.train.config import TrainConfig
from whorl.train.optim import fill_state
from whorl.train.setup import hash_frozen

if TYPE_CHECKING:
    from whorl.models.decoder import Decoder
    from whorl.train.loop import TrainState
    from whorl.train.setup import Setup

FORMAT = 1
FOLDER, MANIFEST = "checkpoints", "manifest.json"
PART, DAMAGED = ".part", ".damaged"
UNSAVED = ("left", "losses")  # of a TrainState: what is this process's own


class Checkpoints:
    """The checkpoints of one run, in `run/checkpoints`; a null logbook on rank 0 keeps none."""

    def __init__(
        self, logbook: Logbook, config: TrainConfig, fingerprint: str, setup: Setup, group: Group
    ) -> None:
        run = group.first(str(logbook.path) if logbook.path else None)  # the other ranks' is null
        self.directory = Path(run) / FOLDER if run else None
        self.newest = ""  # the name of the last whole one
        self.logbook, self.config, self.fingerprint, self.setup, self.group = (
            logbook, config, fingerprint, setup, group,
        )  # fmt: skip

    def save(self, state: TrainState) -> None:
        """Write the checkpoint of `state.step`, then remove all but the newest `keep_checkpoints`.

        `FaultError` where it cannot be written (disk full); those there stay as they were.
        """
        if self.directory is None:
            return
        started = time.perf_counter()
        place = self.directory / f"step-{state.step:08d}"
        partial = place.with_suffix(PART)
        problem = self._write(partial)
        if self.group.rank == 0 and not problem:
            try:
                self._seal(partial, place, state)
            except OSError as error:
                problem = str(error)
        if problem := self.group.first(problem):
            self._give_up(partial, state.step, problem)
        self.newest = place.name
        if self.group.rank == 0:
            seconds = time.perf_counter() - started
            size = sum(file.stat().st_size for file in place.iterdir())
            self.logbook.event("checkpoint", step=state.step, path=place.name, bytes=size, seconds=seconds)
            for old in _whole(self.directory)[: -self.config.keep_checkpoints]:
                shutil.rmtree(old)
        self.group.barrier()

    def _write(self, partial: Path) -> str:
        """Every rank's part of the tensors; returns what went wrong on any of them."""
        problem = ""
        if self.group.rank == 0:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            except OSError as error:
                problem = str(error)
        if problem := self.group.first(problem):
            return problem
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process
                dcp.save(_tensors(self.setup), checkpoint_id=partial, no_dist=self.group.world == 1)
        except CheckpointException as error:  # raised on every rank where one fails
            return _cause(error)
        return ""

    def _seal(self, partial: Path, place: Path, state: TrainState) -> None:
        """Rank 0, when every rank's files are there: the manifest, then the name."""
        tensors = {name: list(tensor.shape) for name, tensor in _tensors(self.setup).items()}
        kept = {key: value for key, value in asdict(state).items() if key not in UNSAVED}
        manifest = {
            "format": FORMAT, "state": kept, "data": self.fingerprint, "frozen": self.setup.frozen,
            "choices": asdict(self.setup.choices), "config": self.config.model_dump(mode="json"),
            "tensors": tensors, "sha256": {f.name: sha256_file(f) for f in sorted(partial.iterdir())},
        }  # fmt: skip
        write_json(partial / MANIFEST, manifest | {"own": sha256_json(manifest)})
        if place.exists():  # left by a run that was told to begin anew; never what was restored from
            shutil.rmtree(place)
        partial.rename(place)
        fsync_directory(place.parent)

    def _give_up(self, partial: Path, step: int, problem: str) -> None:
        if self.group.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise FaultError(
            f"the checkpoint of step {step} could not be written to {self.directory} ({problem});"
            " free some space and run the same command to continue"
        )

    def restore(self, state: TrainState) -> TrainState:
        """Load the newest whole checkpoint into model and optimisers, or return `state` as it is.

        `InputError` where the data, the frozen weights, or the shapes are not the checkpoint's; other
        settings are taken as asked for, and the differences said.
        """
        if self.directory is None:
            return state
        found = _newest(self.directory, self.logbook) if self.group.rank == 0 else None
        found = self.group.first(found)
        if found is None:
            if self.logbook.path is not None and read_metrics(self.logbook.path):
                self.logbook.resume(0)  # killed before its first checkpoint: those metrics are superseded
            return state
        place, manifest = found
        fill_state(self.setup.optimisers)
        target = _tensors(self.setup)
        self._check(place, manifest, target)
        reader = _Reader(place)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process
                dcp.load(dict(target), storage_reader=reader, no_dist=self.group.world == 1)  # in place
        except CheckpointException as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"{place} cannot be read ({reason}); remove it to use the one before") from error
        known = {field.name for field in fields(state)}
        restored = type(state)(**{key: value for key, value in manifest["state"].items() if key in known})
        self.newest = place.name
        self.logbook.resume(restored.step, place.name)
        say(f"resuming from step {restored.step} ({place})")
        self._tell_differences(manifest["config"], restored.step)
        return restored

    def _check(self, place: Path, manifest: dict[str, Any], target: dict[str, Tensor]) -> None:
        mine = {name: tuple(tensor.shape) for name, tensor in target.items()}
        _check_manifest(place, manifest, self.fingerprint, self.setup.frozen, mine)

    def _tell_differences(self, saved: dict[str, Any], step: int) -> None:
        before, now = _flat(saved), _flat(self.config.model_dump(mode="json"))
        changed = [
            f"{key} {before.get(key)} → {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            text = f"settings differ from those of step {step}; using the new ones: {', '.join(changed)}"
            say(text)
            self.logbook.event("note", text=text, step=step)


def check_resumable(run: Path, fingerprint: str, model: Decoder) -> None:
    """`InputError` where the run's newest checkpoint is of other data or of another model, before anything of
    the run is written. Whether its files are whole is seen later, where they are read."""
    places = _whole(run / FOLDER) if (run / FOLDER).is_dir() else []
    if not places or not (places[-1] / MANIFEST).exists():
        return
    try:
        manifest = read_json(places[-1] / MANIFEST)
        saved = {name: shape for name, shape in manifest["tensors"].items() if name.startswith("model.")}
        known = {"data": manifest["data"], "frozen": manifest["frozen"], "tensors": saved}
    except (DataError, KeyError, TypeError):
        return
    mine = {f"model.{name}": tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    _check_manifest(places[-1], known, fingerprint, hash_frozen(model), mine)


def has_checkpoint(run: Path) -> bool:
    return (run / FOLDER).is_dir() and bool(_whole(run / FOLDER))


def _check_manifest(
    place: Path, manifest: dict[str, Any], fingerprint: str, frozen: str, mine: dict[str, tuple[int, ...]]
) -> None:
    """`InputError` where a checkpoint is not of these data, frozen weights and trained tensors."""
    remedy = "choose a new --name, or give the original inputs"
    if manifest["data"] != fingerprint:
        raise InputError(
            f"{place} was trained on different data or in a different order ({manifest['data'][:12]} is not"
            f" {fingerprint[:12]}); {remedy}"
        )
    if manifest["frozen"] != frozen:
        raise InputError(f"{place} was trained on top of different frozen weights; {remedy}")
    saved = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    for name in sorted(saved.keys() | mine.keys()):
        if saved.get(name) != mine.get(name):
            has, wants = saved.get(name, "none"), mine.get(name, "none")
            raise InputError(f"{place} has {name} {has}, but this run needs {wants}; {remedy}")


def _tensors(setup: Setup) -> dict[str, Tensor]:
    """What a checkpoint holds, by name: the live tensors, to be read from or loaded into."""
    names: dict[Tensor, str] = {p: name for name, p in setup.model.named_parameters() if p.requires_grad}
    tensors = {f"model.{name}": parameter.detach() for parameter, name in names.items()}
    for optimiser in setup.optimisers:
        kind = type(optimiser).__name__.lower()
        for parameter, state in optimiser.state.items():
            tensors |= {f"{kind}.{names[parameter]}.{key}": value for key, value in state.items()}
    return tensors


def _cause(error: CheckpointException) -> str:
    """What failed on the first rank that did, in one line: torch's writer hides the system's error
    behind one of its own."""
    first = next(iter(error.failures.values()))
    found: BaseException | None = first[0] if isinstance(first, tuple) else first
    seen = found
    while seen is not None:
        if isinstance(seen, OSError):
            found = seen
        seen = seen.__context__
    return " ".join(str(found).split())


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _whole(directory: Path) -> list[Path]:
    """Checkpoints under their final names, oldest first."""
    return sorted(path for path in directory.glob("step-*") if not path.suffix)


def _newest(directory: Path, logbook: Logbook) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose files all match their hashes, with its manifest. Damaged ones are
    renamed, so that they neither count as kept nor are looked at again; torn ones are removed."""
    for partial in directory.glob(f"*{PART}"):
        shutil.rmtree(partial, ignore_errors=True)
    for place in reversed(_whole(directory)):
        reason = _damage(place)
        if not reason:
            return place, read_json(place / MANIFEST)
        aside = place.with_suffix(DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        say(f"{place} is damaged ({reason}): kept as {aside.name}; using the one before")
        logbook.event("damaged", path=str(place), reason=reason)
    return None


def _damage(place: Path) -> str:
    if not (place / MANIFEST).exists():
        return f"{MANIFEST} is missing"
    try:
        manifest = read_json(place / MANIFEST)
        if manifest["format"] > FORMAT:
            raise InputError(
                f"{place} was written by a newer Whorl (format {manifest['format']}); upgrade whorl"
            )
        own, hashes = manifest.pop("own"), manifest["sha256"]
    except (DataError, KeyError, TypeError) as error:
        return f"{MANIFEST} is incomplete: {error}"
    if sha256_json(manifest) != own:
        return f"{MANIFEST} does not match its hash"
    for name, digest in hashes.items():
        file = place / name
        if not file.exists():
            return f"{name} is missing"
        if sha256_file(file) != digest:
            return f"{name} does not match its hash"
    return ""


class _IndexUnpickler(pickle.Unpickler):
    """Makes what torch's index of tensors is made of, and nothing else."""

    MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
    NAMES = frozenset({
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "BytesStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING", "_StorageInfo",
    })  # fmt: skip
    OTHERS = frozenset({
        ("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"),
        ("pathlib", "WindowsPath"), ("pathlib", "Path"), ("pathlib._local", "PosixPath"),
        ("pathlib._local", "WindowsPath"), ("collections", "OrderedDict"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        known = (module in self.MODULES and name in self.NAMES) or (module, name) in self.OTHERS
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):  # how Python before 3.11.4 pickles an enum's member
            return _member
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's index")


class _Reader(dcp.FileSystemReader):
    """torch's reader with the restricted unpickler; `DataError` where the index is not one."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        try:
            with open(place / ".metadata", "rb") as file:
                self._index: Metadata = _IndexUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise DataError(f"{place / '.metadata'}: {error}; remove it to use the one before") from error

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._index.storage_meta is None:
            self._index.storage_meta = StorageMeta()
        self._index.storage_meta.load_id = self.load_id
        return self._index


def _member(kind: Any, name: str) -> Any:
    """A member of an enum, and no other attribute of anything."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[name]
    raise pickle.UnpicklingError(f"attribute {name} of {kind} has no place in a checkpoint's index")
