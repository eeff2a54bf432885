"""The run's battles: which prompts, which votes, and that none is lost or cast twice, killed or not."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.quickstart import player
from tests.quickstart.player import ALL, ASKED, TASK, Reckoner, play
from whorl.arena import scripted
from whorl.arena.journal import Journal, lost_votes
from whorl.arena.scripted import questions
from whorl.arena.store.records import BattleVote
from whorl.arena.store.store import Store
from whorl.base.errors import FaultError
from whorl.base.files import read_jsonl
from whorl.base.nouns import Conversation, SamplingParams, Trace
from whorl.quickstart.arena_rows import arena_rows
from whorl.quickstart.round_trip import is_silent, model_names, move_models, shared_cores

ROOT = Path(__file__).parents[2]
TEST = {example.conversation.messages[0].text for example in TASK.examples("test")}


def votes_and_prompts(folder: Path) -> list[tuple[BattleVote, str]]:
    with Store.open(folder / "arena.sqlite", create=False) as store:
        kept = list(store.battles(consent="none", rated=None))
        asked = [store.turns(vote.battle)[0].message for vote in kept]
        return [(vote, message.text) for vote, message in zip(kept, asked, strict=True) if message]


def test_held_out_prompts_rate_and_others_train(tmp_path: Path) -> None:
    clients = play(tmp_path, 60)
    found = votes_and_prompts(tmp_path)
    assert 105 <= len(found) <= 120, "a few prompts are set aside, being like ones of the other purpose"
    assert {vote.winner for vote, _ in found} <= {"model_a", "model_b"}
    for vote, prompt in found:
        assert (vote.model_a if vote.winner == "model_a" else vote.model_b) == "knows"
        assert vote.rated == (vote.purpose == "rate") == (prompt in TEST)
        assert vote.consent == vote.purpose and vote.probability == 1 and vote.category == "arithmetic"
        assert {*vote.weights_a, *vote.weights_b} == {"reckoner", "guesser"}
    assert sorted(clients["knows"].asked) == sorted(clients["guesses"].asked)
    with Store.open(tmp_path / "arena.sqlite") as store:
        journal = Journal(tmp_path / "votes.jsonl")
        names = {"base": "guesses", "chat": "knows", "dpo": "not there"}
        above, below, lost = arena_rows(store, journal, ("to rate",), names, learnt=False)
    assert above.met and above.cases == sum(vote.rated for vote, _ in found) and above.value > 200
    assert below.met is None and "nothing was learnt" in below.note
    assert lost.met and lost.value == 0 and lost.cases == len(found)


def test_killed_in_the_midst_it_goes_on_without_a_vote_lost_or_doubled(tmp_path: Path) -> None:
    journal, command = tmp_path / "votes.jsonl", [sys.executable, "-m", "tests.quickstart.player"]
    enough, killed = 0, 0
    while enough < 60:
        enough += 15
        process = subprocess.Popen([*command, str(tmp_path), "40", "0.002"], cwd=ROOT)
        while process.poll() is None and lines(journal) < enough:
            time.sleep(0.005)
        killed += process.poll() is None
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)
    assert killed >= 3
    play(tmp_path, 40)
    found = votes_and_prompts(tmp_path)
    prompts = [prompt for _, prompt in found]
    assert len(prompts) == len(set(prompts)), "a prompt has two votes"
    with Store.open(tmp_path / "arena.sqlite") as store:
        noted = Journal(journal)
        assert len(noted.done("to train")) == len(noted.done("to rate")) == 40
        assert noted.votes() == {vote.battle: vote.winner for vote, _ in found}
        assert lost_votes(store, noted) == 0 and store.verify().votes == len(found) >= 70


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_vote_that_is_gone_is_counted(tmp_path: Path) -> None:
    play(tmp_path, 4)
    journal = Journal(tmp_path / "votes.jsonl")
    cast = len(journal.votes())
    with Store.open(tmp_path / "arena.sqlite") as store:
        journal.note("to rate", 99, "never there", "model_a")
        assert lost_votes(store, journal) == 1
    with sqlite3.connect(tmp_path / "arena.sqlite") as raw:
        for (name,) in raw.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            raw.execute(f"drop trigger {name}")
        raw.execute(
            "delete from arena_log where seq = (select max(seq) from arena_log where kind = 'vote') - 1"
        )
    with Store.open(tmp_path / "arena.sqlite") as store:
        assert lost_votes(store, journal) == cast + 1, "a chain that does not verify vouches for none"


def test_prompts_are_the_stores_split_and_end_where_the_task_does(tmp_path: Path) -> None:
    with Store.open(tmp_path / "all.sqlite", train_share=1.0) as store:
        assert questions(store, ASKED, "rate", 10) == []
        assert [one.example for one in questions(store, ASKED, "train", 10)] == ALL[200:210]
    with Store.open(tmp_path / "none.sqlite", train_share=0.0) as store:
        assert len(questions(store, ASKED, "rate", 1000)) == 200
        assert questions(store, ASKED, "train", 2) == []


def test_a_second_run_has_names_of_its_own_and_the_first_is_found_again(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "quickstart"
    with Store.open(tmp_path / "arena.sqlite") as store:
        first = model_names(run, store)
        assert set(first.values()) == {"quickstart-base", "quickstart-chat", "quickstart-dpo"}
        for part, name in first.items():
            store.add_model(name, address=str(run / part), aliases=("Whirl",))
        store.add_model("other", address="http://127.0.0.1:8000")
        assert model_names(run, store) == first
        run.rename(run.with_name("quickstart-1"))
        move_models(store, run, run.with_name("quickstart-1"))
        again = model_names(run, store)
        assert again["chat"] == "quickstart-2-chat" and not set(again.values()) & set(first.values())
        known = {model.name: model for model in store.models()}
        assert known["quickstart-chat"].address == str(tmp_path / "runs" / "quickstart-1" / "chat")
        assert known["quickstart-chat"].aliases == ("Whirl",) and known["other"].address.startswith("http")


def test_the_journal_is_a_line_a_step(tmp_path: Path) -> None:
    play(tmp_path, 3)
    states = [record["state"] for record in read_jsonl(tmp_path / "votes.jsonl")]
    assert states.count("begun") == len([s for s in states if s.startswith("model_")]) and len(states) >= 6
    with open(tmp_path / "votes.jsonl", "a") as file:
        file.write('{"round": "to rate", "num')
    before = os.path.getsize(tmp_path / "votes.jsonl")
    journal = Journal(tmp_path / "votes.jsonl")
    assert len(journal.done("to rate")) == 3 and os.path.getsize(tmp_path / "votes.jsonl") < before


@pytest.mark.parametrize(("said", "given"), [(None, "4"), ("2", "2"), ("64", "4"), ("4,2", "4")])
def test_servers_share_the_cores(monkeypatch: pytest.MonkeyPatch, said: str | None, given: str) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    with shared_cores(2):
        assert os.environ["OMP_NUM_THREADS"] == given
    assert os.environ.get("OMP_NUM_THREADS") == said


def test_a_reply_without_words_is_no_text_to_learn() -> None:
    def pair(rejected: dict[str, object]) -> dict[str, object]:
        chosen = [{"role": "assistant", "content": "It is 3."}]
        return {"chosen": chosen, "rejected": [{"role": "assistant", **rejected}]}

    assert is_silent(pair({"content": ""})) and is_silent(pair({"content": " \n"}))
    assert is_silent(pair({"content": None})) and not is_silent(pair({"content": "3"}))
    assert not is_silent(pair({"content": "", "tool_calls": [{"id": "1"}]}))


class Hasty(Reckoner):
    """Breaks every first request off."""

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
        if conversation not in self.seen:
            self.seen.append(conversation)
            raise FaultError("http://127.0.0.1 does not answer (ReadError); is the server running?")
        return await super().reply(conversation, params)


def test_a_reply_that_was_broken_off_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "PAUSE", 0.0)
    monkeypatch.setattr(player, "Reckoner", Hasty)
    play(tmp_path, 4)
    assert len(votes_and_prompts(tmp_path)) == 8
    monkeypatch.setattr(scripted, "ATTEMPTS", 1)
    with pytest.raises(FaultError, match="does not answer"):
        play(tmp_path, 5)
    monkeypatch.undo()
    play(tmp_path, 5)
    assert len(votes_and_prompts(tmp_path)) == 10
