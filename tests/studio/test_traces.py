"""What a reply was made of stays with it: from a battle and a chat with a served model to the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.studio.conftest import StudioProcess, studio_process
from tests.studio.test_battles import begin
from whorl.arena.store import Store, export
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, learnt: Path) -> Path:
    """A workspace with two models, where every prompt trains."""
    made = tmp_path_factory.mktemp("traced")
    for name in ("tiny", "other"):
        shutil.copytree(learnt, made / "models" / name)
    (made / "arena").mkdir()
    Store.open(made / "arena" / "arena.sqlite", train_share=1.0).close()
    return made


@pytest.fixture(scope="module")
def studio(folder: Path) -> Iterator[StudioProcess]:
    with studio_process(folder) as process:
        yield process


def chat(http: httpx.Client, text: str) -> str:
    body = {"text": text, "model": "tiny", "consent": "train", "sampling": {"max_tokens": 8, "seed": 3}}
    told = http.post("/api/chat", json=body).json()
    http.get(f"/api/chat/{told['id']}/stream?exchange={told['exchange']}")
    return str(told["id"])


def test_traces_of_battles_and_chats_are_exported(
    studio: StudioProcess, folder: Path, learnt: Path, tmp_path: Path
) -> None:
    with studio.voter("vera") as vera:
        battle = begin(vera, "2+3?", consent="train")
        assert battle["state"] == "open", battle["why"]
        seen = json.dumps(battle) + vera.get(f"/arena/{battle['id']}").text
        seen += vera.get(f"/api/arena/{battle['id']}/stream").text
        for secret in ("token_ids", "prompt_ids", "logprob", "template_hash", "seed"):
            assert secret not in seen
        vera.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"})
        talk = chat(vera, "2+3?")
        whole = vera.get(f"/api/chat/{talk}/whole").json()
        assert "token_ids" not in json.dumps(whole) and "counted" not in whole["turns"][1]
    with Store.open(folder / "arena" / "arena.sqlite") as store:
        assert export(store, tmp_path / "out").traces >= 2 and store.verify().ok
    traces = [json.loads(line) for line in (tmp_path / "out" / "traces.jsonl").read_text().splitlines()]
    assert {one["conversation"] for one in traces} == {battle["id"], talk}
    template, tokenizer = ChatTemplate.load(learnt), Tokenizer.load(learnt)
    for trace in traces:
        check(trace, tokenizer)
        assert trace["template_hash"] == template.hash
    (of_chat,) = [one for one in traces if one["conversation"] == talk]
    assert of_chat["sampling"]["max_tokens"] == 8 and of_chat["seed"] == 3
    assert len(of_chat["token_ids"]) == of_chat["tokens"] <= 8
    chats = [json.loads(line) for line in (tmp_path / "out" / "conversations.jsonl").read_text().splitlines()]
    named = {trace for one in chats for trace in one["traces"]}
    assert named == {one["trace"] for one in traces}


def check(trace: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert len(trace["token_ids"]) == len(trace["logprobs"]) > 0
    assert all(logprob <= 0 for logprob in trace["logprobs"])
    assert trace["weight_version"] and trace["ending"] in ("stop", "length", "tool_calls")
    assert "2+3?" in tokenizer.decode(trace["prompt_ids"])
