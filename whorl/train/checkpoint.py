"""Checkpoints: torch's distributed checkpoint, made atomic and hashed.

    run/checkpoints/step-00000040/     __0_0.distcp … .metadata    (torch.distributed.checkpoint)
                                       manifest.json               state, choices, SHA-256 of every file

A checkpoint is written beside its place and renamed into it, so one that has its name is whole; one
whose files do not match their hashes is passed over for the one before, and said.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from whorl.base.errors import InputError
from whorl.base.files import read_json, sha256_file, write_json
from whorl.base.logbook import Logbook
from whorl.base.posix import fsync_directory
from whorl.base.progress import say
from whorl.parallel.group import Group
from whorl.train.config import TrainConfig

if TYPE_CHECKING:
    from whorl.train.loop import TrainState
    from whorl.train.setup import Setup

FORMAT = 1
MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one run, in `run/checkpoints`; a null logbook keeps none."""

    def __init__(
        self, logbook: Logbook, config: TrainConfig, fingerprint: str, setup: Setup, group: Group
    ) -> None:
        self.directory = logbook.path / "checkpoints" if logbook.path else None
        self.logbook, self.config, self.fingerprint, self.setup, self.group = (
            logbook, config, fingerprint, setup, group,
        )  # fmt: skip

    def save(self, state: TrainState) -> None:
        """Write the checkpoint of `state.step`, then remove all but the newest `keep_checkpoints`."""
        if self.directory is None:
            return
        started = time.perf_counter()
        place = self.directory / f"step-{state.step:08d}"
        partial = place.with_suffix(".part")
        if self.group.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.group.barrier()
        model, optimisers = get_state_dict(self.setup.model, self.setup.optimisers)
        dcp.save(
            {"model": model, "optimisers": optimisers}, checkpoint_id=partial, no_dist=self.group.world == 1
        )
        self.group.barrier()
        if self.group.rank == 0:
            self._seal(partial, place, state)
            seconds = time.perf_counter() - started
            size = sum(file.stat().st_size for file in place.iterdir())
            self.logbook.event("checkpoint", step=state.step, path=place.name, bytes=size, seconds=seconds)
            for old in _steps(self.directory)[: -self.config.keep_checkpoints]:
                shutil.rmtree(old)
        self.group.barrier()

    def _seal(self, partial: Path, place: Path, state: TrainState) -> None:
        hashes = {file.name: sha256_file(file) for file in sorted(partial.iterdir())}
        write_json(partial / MANIFEST, {
            "format": FORMAT, "state": asdict(state), "data": self.fingerprint, "world": self.group.world,
            "measured": {
                "dtype": str(self.setup.dtype).removeprefix("torch."),
                "compile": "on" if self.setup.compiled else "off",
                "threads": str(torch.get_num_threads()),
            },
            "sha256": hashes,
        })  # fmt: skip
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        fsync_directory(place.parent)

    def restore(self, state: TrainState) -> TrainState:
        """Load the newest whole checkpoint into model and optimisers, or return `state` as it is."""
        found = newest(self.directory, self.logbook) if self.directory else None
        if found is None:
            return state
        place, manifest = found
        if manifest["data"] != self.fingerprint:
            raise InputError(
                f"{place} was trained on other data or another order ({manifest['data'][:12]} is not "
                f"{self.fingerprint[:12]}); give the run a new directory, or the data it began with"
            )
        model, optimisers = get_state_dict(self.setup.model, self.setup.optimisers)
        target: dict[str, Any] = {"model": model, "optimisers": optimisers}
        dcp.load(target, checkpoint_id=place, no_dist=self.group.world == 1)
        set_state_dict(
            self.setup.model, self.setup.optimisers,
            model_state_dict=target["model"], optim_state_dict=target["optimisers"], options=StateDictOptions(),
        )  # fmt: skip
        known = {field.name for field in fields(state)}
        restored = type(state)(**{key: value for key, value in manifest["state"].items() if key in known})
        restored.left = ""
        self.logbook.resume(restored.step, place.name)
        say(f"going on from step {restored.step} ({place})")
        return restored


def _steps(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("step-*") if path.suffix != ".part")


def newest(directory: Path, logbook: Logbook) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose files all match their hashes, with its manifest."""
    for place in reversed(_steps(directory)):
        reason = _damage(place)
        if not reason:
            return place, read_json(place / MANIFEST)
        say(f"{place} is damaged ({reason}); using the one before")
        logbook.event("damaged", path=str(place), reason=reason)
    return None


def measured(logbook: Logbook) -> dict[str, str]:
    """What the run measured when it began: kept, so that a resumed run goes on bit for bit."""
    found = newest(logbook.path / "checkpoints", logbook) if logbook.path else None
    return found[1]["measured"] if found else {}


def _damage(place: Path) -> str:
    if not (place / MANIFEST).exists():
        return f"{MANIFEST} is missing"
    manifest = read_json(place / MANIFEST)
    if manifest["format"] > FORMAT:
        raise InputError(f"{place} was written by a newer Whorl (format {manifest['format']}); upgrade whorl")
    for name, digest in manifest["sha256"].items():
        file = place / name
        if not file.exists():
            return f"{name} is missing"
        if sha256_file(file) != digest:
            return f"{name} does not match its hash"
    return ""
