"""`whorl train` as a person runs it: the repository's recipe on tokens of our own, to a model that loads."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from whorl.base.config import load_config
from whorl.base.errors import InputError
from whorl.base.logbook import read_events, read_metrics, series
from whorl.base.runs import read_run
from whorl.data.document import Document
from whorl.data.tokens import write_tokens
from whorl.models import Packed, load
from whorl.text.bpe import train_bpe
from whorl.text.tokenizer import Tokenizer
from whorl.train.pretrain import pretrain
from whorl.train.recipe import TrainRecipe

ROOT = Path(__file__).parents[2]
SMALL = [
    "--model.d_model=32", "--model.n_layers=1", "--model.n_heads=2", "--model.n_kv_heads=2",
    "--model.head_dim=16", "--model.d_ff=48", "--batch.length=128", "--batch.sequence=64",
    "--train.compile=off", "--train.dtype=float32", "--train.device=cpu", "--sample_tokens=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    words = ["the", "spindle", "turns", "fibre", "becomes", "thread"]
    texts = [" ".join(itertools.islice(itertools.cycle(words[n % 6 :] + words), 40)) for n in range(90)]
    tokenizer = train_bpe(texts, 300)
    tokenizer.save(path / "tokenizer")
    documents = [
        Document(id=f"d{n}", text=text, split="validation" if n % 9 == 0 else "train")
        for n, text in enumerate(texts)
    ]
    write_tokens(documents, tokenizer, path)
    return path


def whorl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "whorl", "train", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200)


def small(tokens: Path, *more: str) -> list[str]:
    recipe = ROOT / "recipes" / "small.toml"
    return [str(recipe), f"--tokens={tokens}", *SMALL, "--train.steps=6", "--train.sample_every=3", *more]


def test_the_recipe_ends_in_a_model_directory_and_a_run(tokens: Path, tmp_path: Path) -> None:
    done = whorl(tmp_path, *small(tokens, "--train.eval_every=3"))
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stderr and "The  →" not in done.stdout
    run = tmp_path / "runs" / "small"
    assert read_run(run).run.state == "done"
    assert series(read_metrics(run), "validation_loss")[0] == [3, 6]
    kinds = [event["kind"] for event in read_events(run)]
    assert {"start", "sample", "checkpoint", "exported", "result", "finish"} <= set(kinds)
    model, tokenizer = load(run / "model"), Tokenizer.load(run / "model")
    ids = tokenizer.encode("the spindle turns")
    with torch.no_grad():
        logits = model.logits(model(torch.tensor(ids), Packed([len(ids)])))
    assert logits.shape == (len(ids), model.config.vocab_size) and bool(logits.isfinite().all())
    again = whorl(tmp_path, str(run / "config.toml"), "--train.steps=8")  # the resolved recipe runs
    assert again.returncode == 0, again.stderr
    assert series(read_metrics(run), "loss")[0] == list(range(1, 9))


def contents(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_a_start_that_is_refused_leaves_the_run_as_it_was(tokens: Path, tmp_path: Path) -> None:
    def recipe(*more: str) -> TrainRecipe:
        words = [
            word for word in small(tokens, f"--runs={tmp_path}", "--name=run", *more) if word[:2] == "--"
        ]
        return load_config(TrainRecipe, ROOT / "recipes" / "small.toml", words)

    pretrain(recipe("--train.steps=2"))
    run = tmp_path / "run"
    before = contents(run)
    for words, said in (
        (["--batch.length=256"], "different data or in a different order"),
        (["--model.d_ff=64"], "but this run needs"),
    ):
        with pytest.raises(InputError, match=said):
            pretrain(recipe("--train.steps=4", *words))
        assert contents(run) == before, words
    pretrain(recipe("--train.steps=3"))
    assert len(series(read_metrics(run), "loss")[0]) == 3, "what it began with goes on"


@pytest.mark.soak
def test_two_processes_give_the_losses_of_one(tokens: Path, tmp_path: Path) -> None:
    words = small(tokens, "--batch.micro_batches=2", "--train.optim.newton_schulz=float32")
    for name, more in (("one", []), ("two", ["--gpus", "2"])):
        done = whorl(tmp_path, *words, "--name", name, *more)
        assert done.returncode == 0, done.stderr
    one, two = (series(read_metrics(tmp_path / "runs" / name), "loss")[1] for name in ("one", "two"))
    assert len(one) == 6 and max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1e-5
    assert (tmp_path / "runs" / "two" / "model" / "model.safetensors").is_file()


@pytest.mark.soak
@pytest.mark.parametrize("gpus", ["1", "2"])
def test_asked_to_leave_the_same_command_goes_on(tokens: Path, tmp_path: Path, gpus: str) -> None:
    words = small(tokens, "--gpus", gpus, "--train.sample_every=0", "--batch.micro_batches=2")
    words[words.index("--train.steps=6")] = "--train.steps=400"
    command = [sys.executable, "-m", "whorl", "train", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs" / "small"
    while process.poll() is None and (
        not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < 3
    ):
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    assert read_run(run).run.state == "left"
    saved = len(series(read_metrics(run), "loss")[0])
    assert 3 <= saved < 400
    words[words.index("--train.steps=400")] = f"--train.steps={saved + 2}"
    done = whorl(tmp_path, *words)
    assert done.returncode == 0 and f"resuming from step {saved}" in done.stderr, done.stderr
    assert series(read_metrics(run), "loss")[0] == list(range(1, saved + 3))


@pytest.mark.parametrize(
    "words, line",
    [
        (["--name=x", "--train.steps=3", "--start=m"], "tokens is empty"),
        (["--name=x", "--train.steps=3", "--tokens=none"], "give either start"),
        (["--name=x", "--train.steps=3", "--tokens=none", "--start=m"], "none has no finished tokens"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complaint: Callable[..., list[str]],
    words: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (said,) = complaint("train", *words)
    assert line in said


@pytest.mark.soak
def test_a_mistake_on_two_ranks_is_one_line_too(tokens: Path, tmp_path: Path) -> None:
    done = whorl(tmp_path, *small(tokens, "--gpus", "2", "--epochs", "0.01"))
    assert done.returncode == 2, done.stderr
    assert "but the data ends after" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("whorl:") == 1
