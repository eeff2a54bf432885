"""Real models meet without people: `whorl arena simulate`, its votes, board and export."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.learnt import learnt_tokenizer, save_learnt
from whorl.arena import Battles, Store, fit_bradley_terry, scripted
from whorl.arena.scripted import play, verdict
from whorl.arena.store import export
from whorl.arena.store.records import BattleVote
from whorl.base.errors import FaultError, InputError
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.tasks.arithmetic import Arithmetic
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
            message=Message(role="assistant", content=(self.text,)), prompt_ids=(1, 2),
            token_ids=tuple(range(len(self.text))), logprobs=(-0.5,) * len(self.text),
            weight_version=f"weights of {self.text!r}",
        )  # fmt: skip


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
    assert made.preferences == 10 and made.traces == 20
    lines = (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        assert record["chosen"][-1]["content"] == "abcdef" and record["rejected"][-1]["content"] == "ab"


def test_replies_keep_their_traces(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite", train_share=0.5) as store:
        meet(store, {"long": Says("abcdef"), "short": Says("ab")}, battles=10)
        for vote in store.battles(consent="none", rated=None):
            lengths = {"long": 6, "short": 2}
            assert ("tokens", lengths[vote.model_a], lengths[vote.model_b]) in vote.style, "words otherwise"
            for turn in store.turns(vote.battle)[1:]:
                assert turn.trace is not None and turn.trace["prompt_ids"] == [1, 2]
                assert turn.trace["token_ids"] == list(range(lengths[turn.model or ""]))
                assert turn.trace["weight_version"] == turn.weight_version != ""
        made = export(store, tmp_path / "out")
    traces = [json.loads(line) for line in (tmp_path / "out" / "traces.jsonl").read_text().splitlines()]
    assert made.traces == len(traces) == 2 * made.preferences == 10
    for trace in traces:
        assert len(trace["token_ids"]) == len(trace["logprobs"]) > 0 and trace["weight_version"]


TASK = Arithmetic(n_test=200)


def prompts_of(store: Store, **which: Any) -> list[tuple[BattleVote, str]]:
    return [
        (vote, said.text)
        for vote in store.battles(consent="none", rated=None, **which)
        if (said := store.turns(vote.battle)[0].message) is not None
    ]


def test_no_held_out_prompt_ever_trains(tmp_path: Path) -> None:
    held_out = {example.conversation.messages[0].text for example in TASK.examples("test")}
    with Store.open(tmp_path / "arena.sqlite") as store:
        for seed in (0, 1):
            asyncio.run(play(store, {"x": Says("a"), "y": Says("b")}, [(TASK, ())], battles=60, seed=seed))
        found = prompts_of(store)
        assert len(found) >= 100
        for vote, prompt in found:
            assert vote.consent == vote.purpose == ("rate" if prompt in held_out else "train")
            assert vote.rated == (prompt in held_out)
        assert sum(vote.rated for vote, _ in found) > 40
        assert len({prompt for _, prompt in found}) == len(found)


class Frail(Says):
    """Breaks off at every third prompt's first asking; from its 20th reply on it is gone for good."""

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
        prompts = [asked.messages[-1].text for asked in self.asked]
        made = await super().reply(conversation, params)
        first = conversation.messages[-1].text not in prompts
        if len(prompts) > 20 or (first and len(set(prompts)) % 3 == 0):
            raise FaultError("the server does not answer")
        return made


def test_a_model_that_dies_costs_no_vote_that_was_cast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "PAUSE", 0.0)
    with Store.open(tmp_path / "arena.sqlite", train_share=0.0) as store:
        with pytest.raises(FaultError, match=r"does not answer; (\d+) votes of round 0 are kept") as caught:
            meet(store, {"x": Says("a"), "frail": Frail("b")}, battles=40)
        kept = list(store.battles())
        assert len(kept) == int(str(caught.value).split("; ")[1].split()[0]) >= 8, "asked again, and kept"
        assert store.verify().ok
        meet(store, {"x": Says("a"), "y": Says("b")}, battles=3, seed=4)


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
    with Store.open(store) as opened:
        for vote, _ in prompts_of(opened):
            _, *replies = opened.turns(vote.battle)
            assert len(replies) == 2
            for turn in replies:
                assert turn.trace is not None and turn.message is not None
                assert turn.trace["weight_version"] == turn.weight_version
                assert len(turn.trace["token_ids"]) == len(turn.trace["logprobs"]) > 0
                assert len(turn.trace["prompt_ids"]) > 0
                ended = [id for id in turn.trace["token_ids"] if id not in tokenizer.end_ids]
                assert tokenizer.decode(ended).strip() == turn.message.text.strip()
    assert {row["model"] for row in told["ratings"]} == {"taught", "untaught"}
    again = subprocess.run(
        [*command[:6], *command[5:6], *command[7:]], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2 and "two models are named" in again.stderr


def test_synthetic_models_have_their_own_options() -> None:
    command = [sys.executable, "-m", "whorl", "arena", "simulate"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--tasks" in shown and "--spread" not in shown
    other = subprocess.run([*command, "--synthetic", "--help"], capture_output=True, text=True, check=True)
    assert "--spread" in other.stdout
