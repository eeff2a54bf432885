"""`whorl dpo` end to end on tiny models: what is learnt, kept, resumed, shared between ranks and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.post.preferences import LANDS, records, save_tiny, settings, write
from whorl.base.config import load_config
from whorl.base.errors import InputError
from whorl.base.files import read_json, read_jsonl
from whorl.base.logbook import read_events, read_metrics, series
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.models.chat import Assistant
from whorl.models.config import LoraConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.post.config import PreferenceLoss, SftConfig, SftTrainConfig
from whorl.post.dpo import _samples, dpo
from whorl.post.pair_batches import PairBatches
from whorl.post.preference import Preference
from whorl.post.reference import FILE, compute_reference
from whorl.post.sft import sft
from whorl.post.start import open_start
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.train.batches import MicroBatch
from whorl.train.recipe import TrainRecipe

PATIENCE = 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees images and knows nothing."""
    return save_tiny(tmp_path_factory.mktemp("base") / "model", vision=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", records(images=True))


@pytest.fixture(scope="module")
def boaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says either kind of reply to each prompt, the boastful one a little more often."""
    folder = tmp_path_factory.mktemp("boaster")
    chats = []
    for number, land in enumerate(LANDS):
        for reply in ("I know it well.", "I know it well.", "No idea."):
            asked = {"role": "user", "content": f"The capital of {land}?"}
            chats.append({"messages": [asked, {"role": "assistant", "content": reply}], "id": f"{number}"})
    train = SftTrainConfig.model_validate({
        "steps": 60, "compile": "off", "dtype": "float32", "device": "cpu",
        "optim": {"lr": 3e-3, "muon_lr": 2e-2},
    })  # fmt: skip
    sft(SftConfig(
        model=str(save_tiny(folder / "start")), chats=(str(write(folder / "chats.jsonl", chats)),),
        runs=str(folder), length=1024, validation=0.0, train=train,
    ))  # fmt: skip
    return folder / "sft" / "model"


def replies(directory: Path, model: Decoder) -> list[str]:
    assistant = Assistant(
        model, Tokenizer.load(directory), ChatTemplate.load(directory), None, SamplingParams(max_tokens=12)
    )
    asked = [Message(role="user", content=(f"The capital of {land}?",)) for land in LANDS]
    return [trace.message.text for trace in assistant.reply([Conversation(messages=(one,)) for one in asked])]


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "ipo"])
def test_what_it_says_becomes_what_is_preferred(boaster: Path, tmp_path: Path, loss: PreferenceLoss) -> None:
    prefer = [
        {"prompt": f"The capital of {land}?", "chosen": "No idea.", "rejected": "I know it well."}
        for land in LANDS
    ]
    assert set(replies(boaster, load(boaster))) == {"I know it well."}
    pairs = write(tmp_path / "pairs.jsonl", prefer)
    dpo(settings(boaster, pairs, tmp_path, 14, loss=loss, nll=1.0, length=512))
    run = tmp_path / "dpo"
    assert set(replies(run / "model", load(run / "model"))) == {"No idea."}
    figures = {
        name: series(read_metrics(run), name)[1] for name in ("margin", "accuracy", "loss", "divergence")
    }
    assert abs(figures["margin"][0]) < 1e-4 and figures["margin"][-1] > 10 * abs(figures["margin"][0])
    assert figures["accuracy"][-1] == pytest.approx(1.0) and figures["loss"][-1] < figures["loss"][0]
    assert figures["divergence"][0] == pytest.approx(0, abs=1e-4) and figures["divergence"][-1] > 0


def test_lora_moves_only_its_adapter_and_the_reference_is_the_base(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    before = weight_version(base)
    config = settings(base, pairs, tmp_path, 8, lora=LoraConfig(rank=4, dropout=0.1), validation=0.4)
    dpo(config)
    run = tmp_path / "dpo"
    assert weight_version(base) == before and not (run / "model").exists()
    margins = series(read_metrics(run), "margin")[1]
    assert abs(margins[0]) < 1e-3 < margins[-1]
    _, held_out = _samples(config, open_start(str(base), {}))
    known = compute_reference(load(base), held_out, 256, torch.device("cpu"), Group())
    (batch,) = PairBatches(held_out, length=256, micro_batches=1, seed=0, reference=known).in_order()
    adapted = load(base, adapter=run / "adapter")
    found = Preference().measure(adapted, MicroBatch.of(batch, torch.device("cpu")))
    (told,) = series(read_metrics(run), "validation_margin")[1]
    assert found["margin"].item() / batch.weight == pytest.approx(told, abs=1e-5), (
        "base and adapter are what was trained, and nothing else was"
    )


def test_another_reference_than_the_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    dpo(settings(base, pairs, tmp_path, 6))
    moved = tmp_path / "dpo" / "model"
    dpo(settings(moved, pairs, tmp_path, 1, reference=str(base), name="kept"))
    dpo(settings(moved, pairs, tmp_path, 1, name="own"))
    kept, own = (series(read_metrics(tmp_path / name), "margin")[1][0] for name in ("kept", "own"))
    assert kept > 0.01 and abs(own) < 1e-4, "against the base the moved model has a margin already"
    other = save_tiny(tmp_path / "other")
    config = read_json(other / "tokenizer.json")
    config["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="different tokenizer from the model"):
        dpo(settings(moved, pairs, tmp_path, 1, reference=str(other), name="wrong"))


def test_validation_is_by_prompt_and_told(base: Path, tmp_path: Path) -> None:
    lines = [line | {"chosen": f"No idea {number}."} for line in records() for number in range(23)]
    path = write(tmp_path / "pairs.jsonl", lines)
    dpo(settings(base, path, tmp_path, 2, validation=0.4, length=128, train={"eval_every": 1}))
    run = tmp_path / "dpo"
    results = {event["name"]: event for event in read_events(run) if event["kind"] == "result"}
    held = results["preference accuracy"]["cases"]
    assert 0 < held < len(lines) and held % 23 == 0, "all 23 pairs of a prompt are on one side"
    metrics = read_metrics(run)
    assert series(metrics, "validation_accuracy")[1][-1] == results["preference accuracy"]["value"]
    assert len(series(metrics, "validation_margin")[1]) == 2


def command(model: Path, pairs: Path, folder: Path, name: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "whorl", "dpo", str(model), str(pairs), "--runs", str(folder), "--name", name,
        "--length", "128", "--validation", "0", "--train.device", "cpu", "--train.compile", "off",
        "--train.dtype", "float32", "--train.optim.newton-schulz", "float32", "--beta", "0.5", *more,
    ]  # fmt: skip


def run_to_end(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_two_ranks_learn_as_one_does(base: Path, pairs: Path, tmp_path: Path) -> None:
    steps = ["--micro-batches", "3", "--train.steps", "4", "--loss", "ipo", "--nll", "0.2"]
    said = run_to_end(command(base, pairs, tmp_path, "one", *steps))
    assert "8 pairs of 8 read" in said and "[[No idea" in said, "the pairs are shown before the first step"
    run_to_end(command(base, pairs, tmp_path, "two", *steps, "--gpus", "2"))
    for name in ("loss", "margin", "divergence"):
        one, two = (series(read_metrics(tmp_path / run), name)[1] for run in ("one", "two"))
        assert len(one) == 4
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.soak
def test_killed_it_goes_on_bit_for_bit_without_a_second_pass(base: Path, pairs: Path, tmp_path: Path) -> None:
    steps = ["--train.steps", "12", "--train.checkpoint-every", "3"]
    run_to_end(command(base, pairs, tmp_path, "whole", *steps))
    words, metrics = command(base, pairs, tmp_path, "killed", *steps), tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and any(record.get("step", 0) >= 5 for record in read_jsonl(metrics)):
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = (tmp_path / "killed" / FILE).stat()
    assert not (tmp_path / "killed" / "model").exists(), "it was killed before its end"
    said = run_to_end(words)
    after = (tmp_path / "killed" / FILE).stat()
    assert (kept.st_mtime_ns, kept.st_ino) == (after.st_mtime_ns, after.st_ino) and "reference" not in said
    one, two = (series(read_metrics(tmp_path / name), "loss")[1] for name in ("whole", "killed"))
    assert one == two and len(one) == 12
    mine, theirs = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    said = run_to_end([*words, "--beta", "0.7"])
    assert "beta 0.5 → 0.7" in said, "another objective is taken as asked for, and said"
    changed = write(tmp_path / "fewer.jsonl", records(images=True)[:5])
    done = subprocess.run(command(base, changed, tmp_path, "killed", *steps, "--train.steps", "13"),
                          capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 2, "other pairs are another run"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '{"prompt": "a", "chosen": "b", "rejected": "b"}',
            "pairs.jsonl:1: chosen and rejected are identical",
        ),
        (
            '{"prompt": "a", "chosen": "", "rejected": "b"}',
            "pairs.jsonl:1: chosen: message 2 (assistant) is empty",
        ),
        ('{"prompt": "a", "chosen": "b"}', "pairs.jsonl:1: rejected is missing"),
        ('{"prompt": ', "pairs.jsonl:1"),
        ("", "contains no pairs"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    base: Path, tmp_path: Path, complaint: Callable[..., list[str]], line: str, told: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    assert told in complaint(*command(base, tmp_path / "pairs.jsonl", tmp_path / "runs", "x")[3:])[-1]
    assert not (tmp_path / "runs").exists()


def test_help_names_the_keys_without_torch() -> None:
    code = (
        "import sys\nfrom whorl.cli.main import main\ntry: main(['dpo', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr.strip().endswith("False"), done.stderr
    assert all(word in done.stdout for word in ("--reference", "--beta", "--nll", "sigmoid_norm", "--lora"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_a_start_that_is_refused_leaves_the_run_as_it_was(base: Path, pairs: Path, tmp_path: Path) -> None:
    dpo(settings(base, pairs, tmp_path, 2))
    run = tmp_path / "dpo"
    before = contents(run)
    fewer = write(tmp_path / "fewer.jsonl", records(images=True)[:-1])
    other = save_tiny(tmp_path / "other")
    config = read_json(other / "tokenizer.json")
    config["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(config))
    for given, changed, said in (
        (fewer, {}, "trained on different pairs or against another reference"),
        (pairs, {"reference": str(other)}, "against another reference"),
        (pairs, {"length": 512}, "different data or in a different order"),
        (pairs, {"lora": LoraConfig(rank=4)}, "different frozen weights"),
    ):
        with pytest.raises(InputError, match=said):
            dpo(settings(base, given, tmp_path, 4, **changed))
        assert contents(run) == before, changed
    dpo(settings(base, pairs, tmp_path, 3))
    assert len(series(read_metrics(run), "loss")[1]) == 3, "what it began with goes on"


def test_a_short_run_is_not_all_warm_up(
    base: Path, pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dpo(settings(base, pairs, tmp_path, 8, train={"schedule": {"name": "constant"}}))
    assert "8 steps in all, so the warm-up is 2 of them and not 10" in capfd.readouterr().err
    rates = series(read_metrics(tmp_path / "dpo"), "lr")[1]
    assert rates == pytest.approx([5e-4] + [1e-3] * 7)


def test_runs_are_in_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": "m", "chats": ("c",)}
    monkeypatch.delenv("WHORL_WORKSPACE", raising=False)
    assert SftConfig.model_validate(asked).runs == "runs"
    monkeypatch.setenv("WHORL_WORKSPACE", "/somewhere/work")
    assert SftConfig.model_validate(asked).runs == "/somewhere/work/runs"
    recipe = load_config(TrainRecipe, None, ["--tokens=t", "--start=m", "--train.steps=1"])
    assert recipe.runs == "/somewhere/work/runs"
    assert SftConfig.model_validate(asked | {"runs": "mine"}).runs == "mine"
