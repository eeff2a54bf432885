"""Real models meet without people: `whorl arena simulate`, its votes, board and export."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.models.learnt import learnt_tokenizer, save_learnt
from whorl.arena import Battles, Store, fit_bradley_terry
from whorl.arena.scripted import play, verdict
from whorl.arena.store import export
from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.tasks.task import Example, Grade
from whorl.text.template import ChatTemplate


@dataclass(frozen=True)
class Echo:
    """Replies are their number of letters: more is better, up to a limit."""

    name: str = "echo"

    def examples(self, split: str) -> Iterator[Example]:
        for number in range(40):
            words = f"Prompt {number * 7919 % 1000} about {'abcdefghij'[number % 10] * 5} and {number}"
            message = Message(role="user", content=(words,))
            yield Example(id=str(number), conversation=Conversation(messages=(message,)), reference="")

    async def grade(self, example: Example, trace: Trace) -> Grade:
        return Grade(score=min(len(trace.message.text), 6) / 6)


@dataclass
class Says:
    """A client that says one thing, and counts how often it was asked."""

    text: str
    asked: list[Conversation] = field(default_factory=list)

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
        self.asked.append(conversation)
        await asyncio.sleep(0)
        return Trace(
            message=Message(role="assistant", content=(self.text,)),
            weight_version=f"weights of {self.text!r}",
        )


def meet(store: Store, clients: Mapping[str, Says], battles: int = 24, seed: int = 0) -> Mapping[str, int]:
    played = asyncio.run(play(store, clients, [(Echo(), ())], battles=battles, seed=seed))
    assert played.battles == battles
    return played.votes


def test_the_better_grade_wins_and_all_is_kept(tmp_path: Path) -> None:
    clients = {"long": Says("abcdef"), "short": Says("ab"), "also long": Says("ghijkl")}
    with Store.open(tmp_path / "arena.sqlite", train_share=0.0) as store:
        votes = meet(store, clients)
        kept = list(store.battles())
        assert len(kept) == 24 == sum(votes.values()) == sum(len(one.asked) for one in clients.values()) / 2
        for battle in kept:
            short_left, short_right = battle.model_a == "short", battle.model_b == "short"
            wanted = "model_b" if short_left else "model_a" if short_right else "tie"
            assert battle.winner == wanted and 0 < battle.probability <= 1 and battle.category == "echo"
            assert battle.weights_a == (f"weights of {clients[battle.model_a].text!r}",)
        ratings = fit_bradley_terry(Battles.from_rows(kept))
        assert ratings.rows()[-1]["model"] == "short"
        assert store.verify().ok


def test_rounds_take_other_examples_and_say_when_there_are_none_left(tmp_path: Path) -> None:
    first, second = {"x": Says("a"), "y": Says("b")}, {"x": Says("a"), "y": Says("b")}
    with Store.open(tmp_path / "arena.sqlite", train_share=0.0) as store:
        meet(store, first, battles=20)
        meet(store, second, battles=20, seed=1)
        seen = [{one.messages[0].text for one in clients["x"].asked} for clients in (first, second)]
        assert len(seen[0]) == len(seen[1]) == 20 and not seen[0] & seen[1]
        with pytest.raises(InputError, match="play fewer"):
            meet(store, {"x": Says("a"), "y": Says("b")}, battles=20, seed=2)
        with pytest.raises(InputError, match="two models"):
            meet(store, {"x": Says("a")})
        assert len(list(store.battles())) == 40, "what was refused has left no battle"


def test_votes_that_train_become_pairs(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite", train_share=1.0) as store:
        meet(store, {"long": Says("abcdef"), "short": Says("ab")}, battles=10)
        assert not list(store.battles()), "what trains does not rate"
        made = export(store, tmp_path / "out")
    assert made.preferences == 10
    lines = (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        assert record["chosen"][-1]["content"] == "abcdef" and record["rejected"][-1]["content"] == "ab"


@pytest.mark.parametrize(
    ("left", "right", "winner"),
    [(1, 0, "model_a"), (0.2, 0.3, "model_b"), (1, 1, "tie"), (0, 0, "tie (bothbad)")],
)
def test_verdicts(left: float, right: float, winner: str) -> None:
    assert verdict(left, right) == winner


def test_the_command_serves_directories_and_prints_the_board(tmp_path: Path) -> None:
    knows = save_learnt(tmp_path / "knows")
    tokenizer = learnt_tokenizer()
    torch.manual_seed(0)
    untaught = Decoder(ModelConfig(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, n_heads=2,
                                   n_kv_heads=2, head_dim=16, d_ff=32, context=512))  # fmt: skip
    torch.nn.init.normal_(untaught.embed.weight, std=0.02)
    save(untaught, tmp_path / "untaught", tokenizer, template=ChatTemplate.default())
    tasks = tmp_path / "tasks.jsonl"
    rows = [{"prompt": "2+3?", "reference": "five", "grade": "contains"}] * 3
    rows += [{"prompt": f"{number}? Say it.", "reference": "zzz", "grade": "contains"} for number in range(3)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = tmp_path / "arena.sqlite"
    Store.open(store, train_share=0.0).close()
    command = [
        sys.executable, "-m", "whorl", "arena", "simulate", f"taught={knows}", str(tmp_path / "untaught"),
        "--tasks", str(tasks), "--battles", "6", "--max-tokens", "24", "--store", str(store), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(told["votes"].values()) == told["rated"] == 6
    assert told["votes"].get("tie (bothbad)", 0) >= 3
    assert {row["model"] for row in told["ratings"]} == {"taught", "untaught"}
    again = subprocess.run(
        [*command[:6], *command[5:6], *command[7:]], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2 and "two models are called" in again.stderr


def test_synthetic_models_have_their_own_options() -> None:
    command = [sys.executable, "-m", "whorl", "arena", "simulate"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--tasks" in shown and "--spread" not in shown
    other = subprocess.run([*command, "--synthetic", "--help"], capture_output=True, text=True, check=True)
    assert "--spread" in other.stdout
