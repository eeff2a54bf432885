"""`export`: what may train, in the forms the trainers read; everything else counted by its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from whorl.arena.store import Pairing, Store, chain, export
from whorl.base.errors import DataError, InputError
from whorl.base.lineage import find_trace
from whorl.base.nouns import Message, ToolCall
from whorl.text.forms import read_conversations

Fight = Callable[..., Pairing]


def said(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


@pytest.fixture
def training(address: str) -> Iterator[Store]:
    """A store where every cluster trains."""
    with Store.open(address, train_share=1.0) as made:
        for name in ("amber-1", "birch-2"):
            made.add_model(name)
        made.add_person("ann")
        yield made


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_vote_becomes_a_pair_and_a_conversation_with_weights_and_traces(
    training: Store, tmp_path: Path
) -> None:
    opening = [said("system", "Be kind."), said("user", "Sing ünï!")]
    pair = training.start_battle(
        1, opening, model_a="amber-1", model_b="birch-2", probability=0.25, consent="train", category="song"
    )
    trace = {"format": 1, "id": "chatcmpl-1", "token_ids": [5, 6], "logprobs": [-0.5, -1.0]}
    training.say(pair.id, said("assistant", "La."), side="a", weight_version="wa", trace=trace)
    training.say(pair.id, said("assistant", "No."), side="b", weight_version="wb")
    training.say(pair.id, said("user", "More!"))
    training.say(pair.id, said("assistant", "La la."), side="a", weight_version="wa")
    training.say(pair.id, said("assistant", "Never."), side="b", weight_version="wb")
    training.say(pair.id, said("user", "Enough."))
    training.vote(pair.id, "model_b", at=99.0)
    made = export(training, tmp_path / "out")
    assert (made.preferences, made.conversations, made.traces, made.left_out) == (1, 1, 1, {})
    [record] = records(tmp_path / "out" / "preferences.jsonl")
    assert record == {
        "id": pair.id, "source": "vote",
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Sing ünï!"}],
        "chosen": [
            {"role": "assistant", "content": "No."}, {"role": "user", "content": "More!"},
            {"role": "assistant", "content": "Never."},
        ],
        "rejected": [
            {"role": "assistant", "content": "La."}, {"role": "user", "content": "More!"},
            {"role": "assistant", "content": "La la."},
        ],
        "chosen_models": ["birch-2"] * 2, "chosen_weight_versions": ["wb"] * 2, "chosen_traces": [None, None],
        "rejected_models": ["amber-1"] * 2, "rejected_weight_versions": ["wa"] * 2,
        "rejected_traces": [f"{pair.id}-3", None],
        "time": 99.0, "probability": 0.25, "voter": "1", "category": "song", "cluster": str(pair.cluster),
    }  # fmt: skip
    [kept] = records(tmp_path / "out" / "traces.jsonl")
    assert kept == {"trace": f"{pair.id}-3", "conversation": pair.id, "weight_version": "wa", **trace}
    reply = {"role": "assistant", "content": "La."}
    assert find_trace(tmp_path / "out" / "traces.jsonl", f"{pair.id}-3") == kept | {"message": reply}
    [chat] = read_conversations(tmp_path / "out" / "conversations.jsonl")
    assert [message.text for message in chat.messages] == ["Be kind.", "Sing ünï!", "No.", "More!", "Never."]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["head"] == str(training.head()) and manifest["split"]["train_share"] == 1.0
    assert not list((tmp_path / "out").parent.glob(".out*"))


def test_what_may_not_train_is_left_out_and_counted(training: Store, tmp_path: Path, fight: Fight) -> None:
    def voted(text: str, winner: str, consent: str = "train") -> str:
        pair = fight(training, text, consent=consent)
        training.vote(pair.id, winner)  # type: ignore[arg-type]
        return pair.id

    good = voted("The first of these questions is about the loom", "model_a")
    voted("A second one, of quite another kind, on dyeing", "model_a", "rate")
    voted("Third: who invented the spinning jenny then?", "model_a", "none")
    voted("Fourth, and not the last: what is felt made of?", "tie")
    voted("Fifth comes a riddle that nobody can solve", "tie (bothbad)")
    training.erase(voted("Sixth, please forget what I said about Bob", "model_a"))
    fight(training, "Seventh never gets any vote at all, poor thing", consent="train")
    odd = training.start_battle(
        1,
        [said("user", "Tenth gets one answer from both of them, word for word")],
        model_a="amber-1",
        model_b="birch-2",
        probability=1,
        consent="train",
    )
    for side in ("a", "b"):
        training.say(odd.id, said("assistant", "Same."), side=side)  # type: ignore[arg-type]
    training.vote(odd.id, "model_a")
    withdrawn = voted("Eighth is taken back by the one who asked it", "model_b")
    training.set_consent(withdrawn, "rate")
    pair = fight(training, "Ninth asks the models for their names outright", consent="train")
    training.say(pair.id, said("user", "Who are you?"))
    for side in ("a", "b"):
        training.say(pair.id, said("assistant", "I am amber-1."), side=side)  # type: ignore[arg-type]
    training.vote(pair.id, "model_a")
    made = export(training, tmp_path / "out")
    assert [record["id"] for record in records(tmp_path / "out" / "preferences.jsonl")] == [good]
    assert made.left_out == {
        "a tie has no preference": 1, "both were bad": 1, "consent is none": 1, "consent is rate": 2,
        "erased": 1,
        "reply a names itself: amber-1": 1, "both replies are the same": 1,
    }  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"Bob" not in everything and b"Eighth" not in everything


def test_what_rates_is_not_exported(store: Store, tmp_path: Path, fight: Fight) -> None:
    store.vote(fight(store, consent="train").id, "model_a")
    made = export(store, tmp_path / "out")
    assert (made.preferences, made.conversations) == (0, 0)
    assert made.left_out == {"its prompt is reserved for rating": 1}


def test_thumbs_and_better_replies_become_pairs_and_chats(training: Store, tmp_path: Path) -> None:
    chat = training.start_chat(1, [said("user", "Tell me of flax.")], consent="train")
    asked = training.turns(chat)[0].id
    bad = training.say(chat, said("assistant", "No."), model="amber-1", weight_version="w1")
    good = training.say(chat, said("assistant", "It is spun."), parent=asked, model="birch-2")
    training.thumb(bad, -1, person=1)
    training.thumb(good, -1, person=1)
    training.thumb(good, 1, person=1)  # changed their mind: the last one counts
    training.say(chat, said("user", "And wool?"), parent=good)
    dull = training.say(chat, said("assistant", "Dunno."), model="amber-1")
    training.write_better(dull, said("assistant", "Wool is carded first."), person=1)
    made = export(training, tmp_path / "out")
    pairs = {record["source"]: record for record in records(tmp_path / "out" / "preferences.jsonl")}
    assert made.preferences == 2
    thumbs, better = pairs["thumbs"], pairs["better"]
    assert [message["content"] for message in thumbs["prompt"]] == ["Tell me of flax."]
    assert (thumbs["chosen"][0]["content"], thumbs["rejected"][0]["content"]) == ("It is spun.", "No.")
    assert thumbs["rejected_weight_versions"] == ["w1"]
    texts = [message["content"] for message in better["prompt"]]
    assert texts == ["Tell me of flax.", "It is spun.", "And wool?"]
    assert better["chosen"][0]["content"] == "Wool is carded first." and better["chosen_models"] == [None]
    assert better["rejected"][0]["content"] == "Dunno."
    [kept] = read_conversations(tmp_path / "out" / "conversations.jsonl")
    assert [message.text for message in kept.messages] == [*texts, "Wool is carded first."]


def test_a_reply_asked_for_again_is_not_learnt(training: Store, tmp_path: Path) -> None:
    chat = training.start_chat(1, [said("user", "Tell me of flax.")], consent="train")
    asked = training.turns(chat)[0].id
    training.say(chat, said("assistant", "First."))
    training.say(chat, said("assistant", "Second."), parent=asked)
    lonely = training.start_chat(1, [said("user", "Nobody ever answered this one, alas.")], consent="train")
    made = export(training, tmp_path / "out")
    [kept] = read_conversations(tmp_path / "out" / "conversations.jsonl")
    assert [message.text for message in kept.messages] == ["Tell me of flax.", "Second."]
    assert made.left_out == {"no reply rated well": 1} and lonely


def test_a_chat_whose_consent_was_taken_back_is_left_out(training: Store, tmp_path: Path) -> None:
    for number, consent in enumerate(("none", "rate", "train")):
        chat = training.start_chat(1, [said("user", f"Secret {number} of {number * 7}")], consent="train")
        training.say(chat, said("assistant", "I keep it."))
        training.set_consent(chat, consent)  # type: ignore[arg-type]
    made = export(training, tmp_path / "out")
    assert made.left_out == {"consent is none": 1, "consent is rate": 1}
    [kept] = read_conversations(tmp_path / "out" / "conversations.jsonl")
    assert kept.messages[0].text == "Secret 2 of 14"


def test_tools_and_their_calls_come_along(training: Store, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}
    chat = training.start_chat(1, [said("user", "How heavy?")], consent="train", tools=[tool])
    call = ToolCall(name="weigh", arguments={"what": "wool"}, id="c1")
    training.say(chat, Message(role="assistant", tool_calls=(call,)))
    training.say(chat, Message(role="tool", content=("3 kg",), tool_call_id="c1"))
    training.say(chat, said("assistant", "3 kg."))
    assert training.conversation(chat).tools == (tool,)
    export(training, tmp_path / "out")
    [kept] = read_conversations(tmp_path / "out" / "conversations.jsonl")
    assert kept.tools == (tool,) and kept.messages[1].tool_calls == (call,)
    training.erase(chat)
    assert training.conversation(chat).tools == ()


def test_an_export_is_the_same_again_and_never_written_over(
    training: Store, tmp_path: Path, fight: Fight
) -> None:
    for number in range(3):
        pair = fight(training, f"Question {number} about {number * 7}", consent="train")
        training.vote(pair.id, "model_a")
    export(training, tmp_path / "one")
    export(training, tmp_path / "two")
    for name in ("preferences.jsonl", "conversations.jsonl", "traces.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        export(training, tmp_path / "one")


def test_a_long_trace_is_kept_packed_and_exported_whole(training: Store, tmp_path: Path) -> None:
    trace = {
        "prompt_ids": list(range(3000)), "token_ids": list(range(7, 507)), "template_hash": "t" * 64,
        "logprobs": [-1 / (n + 3) for n in range(500)], "weight_version": "w1", "id": "chatcmpl-9",
    }  # fmt: skip
    chat = training.start_chat(1, [said("user", "Tell me all of flax.")], consent="train")
    turn = training.say(chat, said("assistant", "It is spun."), weight_version="w1", trace=trace)
    assert training.turn(turn).trace == trace
    with training.database.read() as connection:
        query = "SELECT body FROM arena_contents WHERE id = (SELECT trace FROM arena_turns WHERE id = :turn)"
        body = connection.execute(sa.text(query), {"turn": turn}).scalar_one()
    assert len(body) < len(json.dumps(trace)) / 2
    export(training, tmp_path / "out")
    kept = find_trace(tmp_path / "out" / "traces.jsonl", "chatcmpl-9")
    assert {name: kept[name] for name in trace} == trace
    assert training.verify().ok


def test_a_packed_trace_that_is_broken_is_said(training: Store) -> None:
    for body in ('{"packed":"!"}', '{"packed":"AAAA"}', '{"packed":7}'):
        with pytest.raises(DataError, match="turn 7: its trace cannot be read"):
            chain.unpacked(body, "turn 7")


def test_what_killed_exports_left_is_removed(training: Store, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, alive, other = (
        tmp_path / f".out.{dead.pid}.part", tmp_path / f".out.{os.getppid()}.part",
        tmp_path / f".mine.{dead.pid}.part",
    )  # fmt: skip
    for folder in (left, alive, other):
        folder.mkdir()
    (left / "conversations.jsonl").write_text("private")
    (other / "precious.txt").write_text("not ours")
    export(training, tmp_path / "out")
    assert not left.exists() and alive.exists() and other.exists()
