"""`whorl runs trace`: from a reply back to weights, runs and documents, over real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whorl.arena.store.exporting import export
from whorl.arena.store.store import Store
from whorl.base.config import Config
from whorl.base.files import JsonLines, sha256_file, sha256_input
from whorl.base.logbook import Logbook
from whorl.base.nouns import Message
from whorl.data.dataset import read_dataset
from whorl.data.pipeline import run as run_data
from whorl.data.steps import ExactDedup
from whorl.data.tokens import write_tokens
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.models.init import init_weights
from whorl.models.weights import weight_version
from whorl.text.bpe import train_bpe


class Recipe(Config):
    steps: int = 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents → dataset → tokens → base → chat, each as its own verb leaves it, without the training."""
    root = tmp_path_factory.mktemp("workspace")
    for number in range(3):
        (root / f"note{number}.txt").write_text(f"A note of some length, number {number}.\n" * 5)
    run_data([str(root / "note0.txt"), str(root / "note1.txt")], [ExactDedup()], root / "dataset", workers=1)
    tokenizer = train_bpe([(root / "note0.txt").read_text()], 300)
    dataset = root / "dataset"
    tokens = write_tokens(
        read_dataset(dataset), tokenizer, root / "tokens", workers=1,
        parents={"dataset": sha256_file(dataset / "manifest.json")},
    )  # fmt: skip
    chats = root / "chats.jsonl"
    chats.write_text("{}\n")
    model = Decoder(ModelConfig(vocab_size=tokenizer.vocab_size, d_model=8, n_layers=1, n_heads=1,
                                n_kv_heads=1, head_dim=8, d_ff=8, context=32))  # fmt: skip
    for name, seed in (("base", 0), ("chat", 1)):
        save(init_weights(model, seed), root / "runs" / name / "model", tokenizer)
        with Logbook(root / "runs" / name) as logbook:
            inputs = {str(tokens.directory): tokens.fingerprint}
            if name == "chat":
                inputs = {
                    str(chats): sha256_input(chats),
                    "model": weight_version(root / "runs" / "base" / "model"),
                }
            logbook.config(Recipe(), inputs)
            place = root / "runs" / name / "model"
            logbook.event("exported", path=str(place), weights=weight_version(place), step=9)
            logbook.event("finish", step=9)
    torch.manual_seed(0)
    return root


def trace(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whorl", "runs", "trace", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_a_version_to_the_documents(root: Path) -> None:
    version = weight_version(root / "runs" / "chat" / "model")
    done = trace(version[:16], "--root", str(root), "--json")
    assert done.returncode == 0, done.stderr
    chat = json.loads(done.stdout)["origin"]
    assert (chat["kind"], chat["hash"], chat["note"]) == ("weights", version, "after step 9")
    [run] = chat["origins"]
    assert run["name"] == "chat"
    chats, base = run["origins"]
    assert (chats["name"], chats["note"]) == ("chats.jsonl", "")
    assert base["path"] == str(root / "runs" / "base" / "model")
    [tokens] = base["origins"][0]["origins"]
    assert (tokens["kind"], tokens["note"]) == ("tokens", "")
    [dataset] = tokens["origins"]
    assert dataset["note"] == "2 documents of 2 read"
    assert {one["name"]: one["hash"] for one in dataset["origins"]} == {
        name: sha256_file(root / name) for name in ("note0.txt", "note1.txt")
    }


def test_from_a_reply_as_a_tree(root: Path, tmp_path: Path) -> None:
    version = weight_version(root / "runs" / "base" / "model")
    file = JsonLines(tmp_path / "traces.jsonl")
    for id in ("chatcmpl-1", "chatcmpl-2"):
        message = {"role": "assistant", "content": f"I am {id}."}
        file.append({"format": 1, "id": id, "weight_version": version, "message": message})
    file.close()
    shown = trace(str(tmp_path / "traces.jsonl"), "--root", str(root)).stdout
    assert "I am chatcmpl-2." in shown and "note1.txt" in shown and version[:12] in shown
    assert "I am chatcmpl-1." in trace(str(tmp_path / "traces.jsonl"), "--root", str(root),
                                       "--id", "chatcmpl-1").stdout  # fmt: skip
    missing = trace(str(tmp_path / "traces.jsonl"), "--root", str(root), "--id", "other")
    assert missing.returncode == 2


def test_what_changed_or_is_gone_is_said(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "workspace"
    shutil.copytree(root, moved)
    version = weight_version(moved / "runs" / "chat" / "model")
    text = (moved / "runs" / "chat" / "events.jsonl").read_text().replace(str(root), str(moved))
    (moved / "runs" / "chat" / "events.jsonl").write_text(text)
    (moved / "chats.jsonl").write_text("{}\n{}\n")
    text = (moved / "runs" / "base" / "events.jsonl").read_text().replace(str(root), str(moved / "gone"))
    (moved / "runs" / "base" / "events.jsonl").write_text(text)
    shown = trace(version, "--root", str(moved)).stdout
    assert "chats.jsonl" in shown and "changed since" in shown and "not found" in shown


@pytest.mark.parametrize(("version", "said"), [("a" * 64, "no run under"), ("abc", "too short")])
def test_versions_that_nobody_made(root: Path, version: str, said: str) -> None:
    done = trace(version, "--root", str(root))
    assert done.returncode == 2 and said in done.stderr


def test_an_adapter_names_both(root: Path) -> None:
    version = weight_version(root / "runs" / "base" / "model")
    with Logbook(root / "runs" / "tuned") as logbook:
        logbook.config(Recipe(), {"model": version})
        logbook.event("exported", path=str(root / "runs" / "tuned" / "adapter"), adapter="ad" * 32)
    done = trace(f"{version}+{'ad' * 32}", "--root", str(root), "--json")
    both = json.loads(done.stdout)["origin"]["origins"]
    assert [one["kind"] for one in both] == ["weights", "adapter"]
    assert both[1]["origins"][0]["name"] == "tuned"


def exported(folder: Path, version: str) -> Path:
    """An export of the arena, from a store with one battle whose replies have traces."""
    with Store.open(folder / "arena.sqlite", train_share=1.0) as store:
        judge = store.add_person("judge")
        for name in ("x", "y"):
            store.add_model(name)
        asked = (Message(role="user", content=("Which town is the capital of Peru?",)),)
        pair = store.start_battle(judge.id, asked, model_a="x", model_b="y", probability=1.0, consent="train")
        for side, text in (("a", "Lima."), ("b", "No idea.")):
            said = Message(role="assistant", content=(text,))
            store.say(
                pair.id, said, side=side, weight_version=version,  # type: ignore[arg-type]
                trace={"prompt_ids": [1, 2], "token_ids": [3, 4], "finish": "stop"},
            )  # fmt: skip
        store.vote(pair.id, "model_a", person=judge.id)
        return export(store, folder / "votes").path


def test_from_a_trace_of_an_export(root: Path, tmp_path: Path) -> None:
    version = weight_version(root / "runs" / "chat" / "model")
    votes = exported(tmp_path, version)
    records = [json.loads(line) for line in (votes / "traces.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        done = trace(str(votes / "traces.jsonl"), "--id", record["trace"], "--root", str(root), "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["origin"]["hash"] == version and found["reply"]["id"] == record["trace"]
        assert found["reply"]["message"]["content"] in ("Lima.", "No idea.")
    shown = trace(str(votes / "traces.jsonl"), "--root", str(root))
    assert shown.returncode == 0 and "reply" in shown.stdout
    for name in ("conversations.jsonl", "preferences.jsonl"):
        (votes / name).unlink()
    alone = trace(str(votes / "traces.jsonl"), "--root", str(root), "--json")
    assert json.loads(alone.stdout)["origin"]["hash"] == version, "a trace names its weights by itself"
    nameless = [{name: one[name] for name in one if name != "weight_version"} for one in records]
    (votes / "traces.jsonl").write_text("".join(json.dumps(one) + "\n" for one in nameless))
    lost = trace(str(votes / "traces.jsonl"), "--root", str(root))
    assert lost.returncode == 2 and "names no weight_version" in lost.stderr
