"""Interrupted runs go on as if nothing had happened: killed, asked to leave, damaged, out of disk."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import read_json, read_jsonl, sha256_file, sha256_json, write_json
from whorl.base.logbook import Logbook, read_events, read_metrics, series
from whorl.kernels.device import compiler_available
from whorl.models.config import LoraConfig
from whorl.parallel.launch import EXIT_RESUME, launch
from whorl.train.checkpoint import _IndexUnpickler
from whorl.train.loop import TrainState, fit
from whorl.train.objectives import next_token

sys.path.insert(0, str(Path(__file__).parent))
from tiny import TinyBatches, tiny_config, tiny_model

PROGRAM = Path(__file__).with_name("tiny.py")
PATIENCE = 120


def run(path: Path, **train: Any) -> TrainState:
    with Logbook(path) as logbook:
        return fit(tiny_model(), TinyBatches(), next_token, tiny_config(**train), logbook)


def losses(path: Path) -> list[float]:
    steps, values = series(read_metrics(path), "loss")
    assert steps == list(range(1, len(steps) + 1))
    return values


def start(path: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(PROGRAM.parent.parent.parent)}
    command = [sys.executable, str(PROGRAM), str(path), json.dumps(options)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_step(path: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until that many metrics are written, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    file = path / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and any(record.get("step", 0) >= step for record in read_jsonl(file)):
            return
        time.sleep(0.002)


def kill_until_done(path: Path, options: dict[str, Any], kills: int, steps: int, seed: int) -> None:
    """kill -9 at random steps and at a random moment within them, then let it end."""
    draw = random.Random(seed)
    for number in range(kills):
        process = start(path, options)
        wait_for_step(
            path, draw.randrange(number * steps // kills, (number + 1) * steps // kills) + 1, process
        )
        time.sleep(draw.random() * 0.03)
        process.kill()
        process.wait()
    assert start(path, options).wait(timeout=PATIENCE) == 0


LORA = {"lora": {"rank": 4, "dropout": 0.1}}


def test_killed_and_started_again_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = {"train": {"steps": 30, "checkpoint_every": 3, "eval_every": 10}, **LORA}
    assert start(tmp_path / "whole", options).wait(timeout=PATIENCE) == 0
    kill_until_done(tmp_path / "killed", options, kills=1, steps=20, seed=0)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, killed = (series(read_metrics(tmp_path / name), "validation_loss") for name in ("whole", "killed"))
    assert whole == killed and whole[0] == [10, 20, 30]
    assert [event["kind"] for event in read_events(tmp_path / "killed")].count("measured") == 4


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("how", [{}, LORA, {"batches": {"images": True}, "model": {"images": True}}])
def test_killed_anywhere(tmp_path: Path, seed: int, every: int, how: dict[str, Any]) -> None:
    options = {"train": {"steps": 40, "checkpoint_every": every}, **how}
    assert start(tmp_path / "whole", options).wait(timeout=PATIENCE) == 0
    kill_until_done(tmp_path / "killed", options, kills=5, steps=40, seed=seed)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_killed_while_compiled_and_in_bf16(tmp_path: Path) -> None:
    if compiler_available() is None:
        pytest.skip("no C++ compiler was found")
    train: dict[str, Any] = {"steps": 24, "checkpoint_every": 4, "compile": "on", "dtype": "bfloat16"}
    train["optim"] = {"newton_schulz": "bfloat16"}
    options = {"train": train, "model": {"n_layers": 1, "images": True}, "batches": {"images": True}}
    assert start(tmp_path / "whole", options).wait(timeout=2 * PATIENCE) == 0
    kill_until_done(tmp_path / "killed", options, kills=2, steps=24, seed=3)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.soak
def test_killed_before_its_first_checkpoint_begins_again_with_the_same_choices(tmp_path: Path) -> None:
    options = {"train": {"steps": 400, "dtype": "auto", "compile": "auto"}, "model": {"n_layers": 1}}
    options["train"]["compile"] = "off"
    path = tmp_path / "run"
    process = start(path, options)
    wait_for_step(path, 3, process)
    process.kill()
    process.wait()
    choices = read_json(path / "choices.json")
    before = losses(path)
    assert len(before) >= 3 and not list(path.glob("checkpoints/step-*"))
    options["train"]["steps"] = 400
    process = start(path, options)
    wait_for_resume(path, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == EXIT_RESUME
    after = losses(path)
    common = min(len(before), len(after))
    assert after[:common] == before[:common]
    assert read_json(path / "choices.json") == choices


def wait_for_resume(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        records = list(read_jsonl(path / "metrics.jsonl"))
        if any("restored" in record for record in records[:-4]):
            return
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGUSR1", pytest.param("SIGINT", marks=pytest.mark.soak),
                                  pytest.param("SIGTERM", marks=pytest.mark.soak)])  # fmt: skip
def test_asked_to_leave_it_saves_and_goes_on(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"train": {"steps": 60}}
    process = start(tmp_path / "run", options)
    wait_for_step(tmp_path / "run", 5, process)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=PATIENCE) == EXIT_RESUME
    saved = losses(tmp_path / "run")
    kinds = {event["kind"]: event for event in read_events(tmp_path / "run")}
    assert kinds["signal"]["signal"] == name and kinds["signal"]["step"] == len(saved)
    state = run(tmp_path / "run", steps=60)
    assert len(state.losses) == 60 - len(saved) and state.step == 60
    assert losses(tmp_path / "run") == run(tmp_path / "whole", steps=60).losses


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps with checkpoints of 15 and 20."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run(path, checkpoint_every=5)
    return path


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    with open(file, "rb+") as handle:
        handle.truncate(file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "manifest.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], harm: Any, name: str
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    harm(path / "checkpoints" / "step-00000020" / name)
    state = run(path, checkpoint_every=5)
    assert len(state.losses) == 5 and losses(path) == losses(finished)
    assert "step-00000020 is damaged" in capfd.readouterr().err
    assert [event["kind"] for event in read_events(path)].count("damaged") == 1
    names = sorted(place.name for place in (path / "checkpoints").iterdir())
    assert names == ["step-00000015", "step-00000020", "step-00000020.damaged"]


def test_the_only_good_checkpoint_is_never_deleted_for_a_damaged_one(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    flip(path / "checkpoints" / "step-00000020" / "__0_0.distcp")
    with pytest.raises(FaultError), small_files():
        run(path, checkpoint_every=2, keep_checkpoints=1)
    assert (path / "checkpoints" / "step-00000015").is_dir()
    run(path, checkpoint_every=2, keep_checkpoints=1)
    whole = [place.name for place in (path / "checkpoints").glob("step-*") if not place.suffix]
    assert whole == ["step-00000020"]


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow past 100 kB: what a full disk does, for checkpoints alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_fault_and_the_checkpoint_before_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path, steps=5, schedule={"name": "constant"})
    told = r"step 8 could not be written .*step-00000005 is saved"
    with pytest.raises(FaultError, match=told), small_files():
        run(path, steps=20, checkpoint_every=8, schedule={"name": "constant"})
    assert [place.name for place in (path / "checkpoints").iterdir()] == ["step-00000005"]
    assert [event["kind"] for event in read_events(path)].count("fault") == 1
    run(path, steps=20, schedule={"name": "constant"})
    assert losses(path) == run(tmp_path / "whole", schedule={"name": "constant"}).losses


def test_a_torn_save_is_not_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    newest = path / "checkpoints" / "step-00000020"
    (newest / "manifest.json").unlink()
    newest.rename(newest.with_suffix(".part"))
    assert len(run(path).losses) == 5
    assert not list(path.glob("checkpoints/*.part"))


class Malice:
    def __reduce__(self) -> Any:
        return (os.system, ("touch pickled",))


class Reach:
    def __init__(self, kind: type, name: str) -> None:
        self.what = kind, name

    def __reduce__(self) -> Any:
        return (getattr, self.what)


def test_an_enum_member_pickled_by_name_as_older_pythons_do_is_read() -> None:
    for member in _MEM_FORMAT_ENCODING:
        pickled = pickle.dumps(Reach(_MEM_FORMAT_ENCODING, member.name))
        assert _IndexUnpickler(io.BytesIO(pickled)).load() is member


@pytest.mark.parametrize("malice", [Malice(), Reach(torch.Size, "__subclasses__")])
def test_an_index_that_would_run_code_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, malice: object
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    newest = path / "checkpoints" / "step-00000020"
    (newest / ".metadata").write_bytes(pickle.dumps(malice))
    manifest = read_json(newest / "manifest.json")
    manifest["sha256"][".metadata"] = sha256_file(newest / ".metadata")
    del manifest["own"]
    write_json(newest / "manifest.json", manifest | {"own": sha256_json(manifest)})
    with pytest.raises(DataError, match="has no place in a checkpoint's index"):
        run(path)
    assert not (tmp_path / "pickled").exists()


# -- what does not fit ----------------------------------------------------------------------------


def test_other_settings_are_said_and_taken(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    run(path, steps=21, optim={"lr": 1e-4, "betas": (0.8, 0.9)}, schedule={"name": "constant"})
    said = capfd.readouterr().err
    assert "optim.lr 0.003 → 0.0001" in said and "optim.betas [0.9, 0.95] → [0.8, 0.9]" in said
    assert series(read_metrics(path), "lr")[1][-1] == 1e-4
    assert any("optim.lr" in event.get("text", "") for event in read_events(path))


def test_other_data_weights_or_shapes_are_refused(finished: Path) -> None:
    config = tiny_config(steps=21)
    with pytest.raises(InputError, match="different data or in a different order"):
        fit(tiny_model(), TinyBatches(seed=1), next_token, config, Logbook(finished))
    with pytest.raises(InputError, match=r"has adamw.embed.*but this run needs"):
        fit(tiny_model(d_model=16), TinyBatches(), next_token, config, Logbook(finished))
    with pytest.raises(InputError, match="trained on top of different frozen weights"):
        fit(tiny_model(lora=LoraConfig(rank=2)), TinyBatches(), next_token, config, Logbook(finished))


def test_old_checkpoints_go_and_a_run_that_is_done_stays_done(tmp_path: Path) -> None:
    run(tmp_path, checkpoint_every=4, keep_checkpoints=3)
    names = sorted(place.name for place in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000012", "step-00000016", "step-00000020"]
    again = run(tmp_path, checkpoint_every=4)
    assert again.step == 20 and again.losses == []


def test_a_choice_that_cannot_be_kept_is_said(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    choices = read_json(path / "choices.json")
    write_json(path / "choices.json", choices | {"kernel": "native of old", "threads": 1})
    run(path, steps=21)
    assert "kernel native of old →" in capfd.readouterr().err
    assert torch.get_num_threads() == 1


# -- another number of ranks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, then", [(1, 2), pytest.param(2, 1, marks=pytest.mark.soak)]
)  # fmt: skip
def test_resumed_with_another_number_of_ranks(tmp_path: Path, first: int, then: int) -> None:
    path = tmp_path / "run"

    def train(ranks: int, steps: int, parallel: str) -> None:
        options = {"train": {"steps": steps, "parallel": parallel, "schedule": {"name": "constant"}}}
        assert launch(ranks, f"{PROGRAM}:main", [str(path), json.dumps(options)]) == 0

    if first == 1:
        run(path, steps=10, schedule={"name": "constant"})
    else:
        train(first, 10, "ddp")
    train(then, 20, "fsdp")
    alone = run(tmp_path / "alone", schedule={"name": "constant"}).losses
    assert len(losses(path)) == 20
    assert max(abs(a - b) for a, b in zip(losses(path), alone, strict=True)) <= 1e-5
