"""The whole quickstart as a user runs it, on a tiny budget: real processes, real files."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from tests.serve.conftest import drive, make_engine, mixed_requests
from tests.serve.contract import furthest
from whorl.arena.store.store import Store, default_store
from whorl.base.lineage import trace_back
from whorl.models.context import Packed
from whorl.models.directory import load
from whorl.models.weights import weight_version
from whorl.quickstart.arena_rows import ABOVE, LOST, NOT_BELOW
from whorl.quickstart.plan import ROUND_TRIP, Plan
from whorl.text.tokenizer import Tokenizer

TINY = ["--minutes", "0.1", "--cases", "4", "--compile", "off"]


def command(workspace: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "whorl", "quickstart", *TINY, "--workspace", str(workspace), *more]


def run(workspace: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(workspace, *more), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run's folder and what it printed."""
    workspace = tmp_path_factory.mktemp("work space")
    done = run(workspace)
    assert done.returncode == 0, done.stderr
    assert "too few to reach all targets" in done.stderr.partition("── data")[0], (
        "said before the work begins"
    )
    return workspace / "runs" / "quickstart", done.stdout


def test_it_ends_with_the_table_the_model_and_the_report(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    for row in (
        "held-out bits per byte",
        "digits read",
        "arithmetic on unseen",
        "correct look-up call",
        "whole run",
        "above base in the arena",
        "votes lost",
    ):
        assert row in printed
    figures = json.loads((folder / "figures.json").read_text())
    assert len(figures["rows"]) == 10 and figures["samples"]
    assert "<html" in (folder / "report.html").read_text()
    stages = json.loads((folder / "stages.json").read_text())["stages"]
    assert list(stages) == ["plan", "data", "pretrain", "chat", "figures", *ROUND_TRIP]
    assert all(stage["done"] and stage["memory"] > 0 for stage in stages.values())


def test_too_little_time_is_said_beforehand(finished: tuple[Path, str]) -> None:
    """Before the work begins: see `finished`; and it is kept with the plan."""
    stages = json.loads((finished[0] / "stages.json").read_text())["stages"]
    plan = Plan(**stages["plan"]["value"])
    assert "too few to reach all targets" in plan.warning and plan.warning in plan.lines()[-1]


def test_transformers_reads_the_assistant_with_equal_logits(finished: tuple[Path, str]) -> None:
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    path = finished[0] / "model"
    theirs = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    ours = load(path, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(path)("def main():", return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = theirs(input_ids=ids).logits[0]
        given = ours.logits(ours(ids[0], Packed([ids.shape[1]])))
    np.testing.assert_allclose(given.numpy(), wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.12)], ids=str)
def test_its_server_gives_the_trainers_log_probs(
    finished: tuple[Path, str], dtype: torch.dtype, bound: float
) -> None:
    path = finished[0] / "model"
    model, tokenizer = load(path, dtype=dtype), Tokenizer.load(path)
    requests = mixed_requests(model.config.vocab_size, 200, count=12)
    options = {"page": 32, "budget": 64, "memory": 0.05}
    engine = make_engine(load(path, dtype=dtype), tokenizer, **options)
    for start in ("cold", "warm"):
        named = [replace(request, id=f"{start} {request.id}") for request in requests]
        worst = furthest(model, named, drive(engine, named))
        print(f"{dtype}, {start}: largest difference in log-prob {worst:.2g}")
        assert worst < bound


def test_a_reply_leads_back_to_its_documents(finished: tuple[Path, str]) -> None:
    found = trace_back(weight_version(finished[0] / "model"), finished[0].parent)
    kinds = []
    while found.origins:
        kinds.append(found.kind)
        found = next((one for one in found.origins if one.kind == "weights"), found.origins[0])
    assert kinds == ["weights", "run", "weights", "run", "tokens", "dataset"]
    assert found.name == "python.jsonl" and "since" not in found.note


def test_a_finished_run_is_shown_again_and_not_trained_again(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    again = run(folder.parent.parent)
    assert again.returncode == 0 and "training:" not in again.stderr and "--fresh" in again.stderr
    assert again.stdout == printed


def test_the_workspaces_store_has_the_battles(finished: tuple[Path, str]) -> None:
    folder = finished[0]
    with Store.open(default_store(folder.parent.parent), create=False) as store:
        known = {model.name: Path(model.address) for model in store.models()}
        assert known["quickstart-base"] == folder.resolve() / "base"
        assert known["quickstart-chat"] == folder.resolve() / "model"
        votes = list(store.battles(consent="none", rated=None))
        assert {vote.purpose for vote in votes} == {"rate", "train"} and store.verify().votes == len(votes)
        assert {vote.category for vote in votes} == {"digits", "arithmetic", "lookups"}
        served = {weights for vote in votes for weights in (*vote.weights_a, *vote.weights_b)}
        assert served >= {weight_version(folder / "base"), weight_version(folder / "model")}


def test_without_the_round_trip_its_rows_say_so(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart"
    shutil.copytree(finished[0], folder)
    stages = json.loads((folder / "stages.json").read_text())
    stages["stages"] = {name: one for name, one in stages["stages"].items() if name not in ROUND_TRIP}
    (folder / "stages.json").write_text(json.dumps(stages))
    done = run(tmp_path, "--no-round-trip")
    assert done.returncode == 0 and "is finished" in done.stderr and "── arena" not in done.stderr
    rows = [line for line in done.stdout.splitlines() if "skipped: --no-round-trip" in line]
    assert [row.split("  ")[0] for row in rows] == [
        "whole run, including the round trip",
        ABOVE,
        NOT_BELOW,
        LOST,
    ]
    assert not default_store(tmp_path).exists()


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_it_goes_on_where_it_stopped(tmp_path: Path, how: signal.Signals) -> None:
    first = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    chat = tmp_path / "runs" / "quickstart" / "chat" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (chat.exists() and chat.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, how)
    first.wait()
    done = run(tmp_path)
    assert done.returncode == 0 and "── pretrain" not in done.stderr and "correct look-up call" in done.stdout


@pytest.mark.soak
def test_your_own_notes_in_any_language(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number, word in enumerate(("Café", "Straße", "Łódź", "東京", "Garten", "Brot") * 8):
        (notes / f"n{number}.md").write_text(
            f"# {word} {number}\n\nÜber {word} Nummer {number} ist wenig bekannt.\n"
        )
    done = run(tmp_path, "--data", str(notes))
    assert done.returncode == 0, done.stderr
    assert "Python's documentation is mixed in" in done.stderr and "correct look-up call" in done.stdout


def test_a_wrong_path_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "--data", "no/such/folder")
    assert done.returncode == 2 and "no/such/folder" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def look_around(entrance: str, model: Path) -> None:
    """Every page of the studio works with the models just trained, and the model can be asked there."""
    address = entrance.partition("/enter?")[0]
    with httpx.Client(base_url=address, follow_redirects=True, timeout=120) as http:
        assert http.get(entrance).status_code == 200
        for page in ("chat", "arena", "board", "runs", "runs/quickstart", "data", "models", "people"):
            assert http.get(f"/{page}").status_code == 200, page
        names = {one["address"]: one["name"] for one in http.get("/api/models").json()["models"]}
        name = names[str(model.resolve())]
        assert http.post("/api/models/start", params={"name": name}).json()["state"] == "ready"


def test_on_a_terminal_it_ends_with_its_model_served(finished: tuple[Path, str]) -> None:
    folder = finished[0]
    words = command(folder.parent.parent)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, start_new_session=True,
        # A shell that puts the tests into the background makes their children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(slave)
    seen = b""
    try:
        while b"YOUR_FILES" not in seen and process.poll() is None:
            seen += os.read(master, 4096)
        text = seen.decode()
        found = re.search(r"served at (http://127\.0\.0\.1:\d+)/v1", text)
        assert found is not None, text
        assert f"whorl chat {found[1]}" in text and str(folder / "model") in text.replace("'", "")
        assert httpx.get(found[1]).json()["models"] == ["model"]
        studio = re.search(r"studio +(http://127\.0\.0\.1:\d+/enter\?key=\S+)", text)
        assert studio is not None, text
        look_around(studio[1], folder / "model")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(master)
    with pytest.raises(httpx.ConnectError):
        httpx.get(found[1])
