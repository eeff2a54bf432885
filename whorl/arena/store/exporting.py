"""The way back: preference pairs and conversations that may train the next model.

Three files, each record on its own line: `preferences.jsonl` (`prompt`, `chosen`, `rejected` as lists of
OpenAI messages, the form `whorl dpo` reads), `conversations.jsonl` (`messages`, which `whorl sft`
reads) and `traces.jsonl` (the replies as they were sampled, found by the ids in the other two). Only
conversations whose people said `train`, that are not erased, and whose prompts are in clusters kept for
training. What is left out is counted by its reason in `manifest.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, parts, sides, talks
from whorl.arena.store.preferences import read_preferences
from whorl.arena.store.records import BattleVote, Preference, Side, Turn
from whorl.arena.store.schema import conversations, prompts
from whorl.arena.store.store import Store
from whorl.arena.store.votes import read_votes
from whorl.base.errors import InputError
from whorl.base.files import sha256_file, write_json
from whorl.base.nouns import Message
from whorl.base.posix import fsync_directory

Tools = tuple[dict[str, Any], ...]
FORMAT = 1
PAIRS, CHATS, TRACES, MANIFEST = "preferences.jsonl", "conversations.jsonl", "traces.jsonl", "manifest.json"
TIES = {"tie": "a tie has no preference", "tie (bothbad)": "both were bad"}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written and, by reason, what was not."""

    path: Path
    preferences: int
    conversations: int
    traces: int
    left_out: dict[str, int]
    head: str  # of the votes it was made from


def export(store: Store, directory: str | Path) -> ExportReport:
    """Write what may train to `directory`, which must not exist; the same store gives the same files."""

    def write(connection: Connection, writer: _Writer) -> None:
        _export_battles(connection, writer)
        _export_chats(connection, writer)

    return _export(store, Path(directory), "whorl arena export", write)


def export_person(store: Store, person: int, directory: str | Path) -> ExportReport:
    """Write a person's own chats in the same forms, for themselves: whatever they let others do with them.
    Battles are not among them: before its vote nobody is told who answered."""

    def write(connection: Connection, writer: _Writer) -> None:
        _export_chats(connection, writer, person)

    return _export(store, Path(directory), "whorl chats of a person", write)


def _export(
    store: Store, directory: Path, kind: str, write: Callable[[Connection, _Writer], None]
) -> ExportReport:
    if directory.exists() or directory.is_symlink():
        raise InputError(f"{directory} exists; choose a new name, since exports are never overwritten")
    part = parts.fresh(directory)
    try:
        with store.read() as connection, _Writer(part) as writer:
            head = str(chain.head(connection))
            write(connection, writer)
        files = {name: sha256_file(part / name) for name in (PAIRS, CHATS, TRACES)}
        write_json(part / MANIFEST, {
            "format": FORMAT, "kind": kind, "created": time.time(), "head": head,
            "split": dict(store.settings), "counts": writer.counts, "left_out": dict(writer.left_out),
            "sha256": files,
        })  # fmt: skip
        part.rename(directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    fsync_directory(directory.parent)
    store.note()
    return ExportReport(
        path=directory, preferences=writer.counts[PAIRS], conversations=writer.counts[CHATS],
        traces=writer.counts[TRACES], left_out=dict(sorted(writer.left_out.items())), head=head,
    )  # fmt: skip


class _Writer:
    """The three files, and counts of what went into them and what did not."""

    def __init__(self, folder: Path) -> None:
        names = (PAIRS, CHATS, TRACES)
        self.files: dict[str, IO[str]] = {
            name: open(folder / name, "w", encoding="utf-8", newline="\n") for name in names
        }
        self.counts = dict.fromkeys(names, 0)
        self.left_out: Counter[str] = Counter()
        self._traced: set[int] = set()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *raised: object) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def write(self, name: str, record: dict[str, Any]) -> None:
        self.files[name].write(json.dumps(record, ensure_ascii=False) + "\n")
        self.counts[name] += 1

    def pair(
        self, identifier: str, prompt: Sequence[Turn], chosen: Sequence[Turn], rejected: Sequence[Turn],
        source: str, tools: Tools, **more: Any,
    ) -> None:  # fmt: skip
        chosen, rejected = _up_to_reply(chosen), _up_to_reply(rejected)
        if reason := _no_pair(prompt, chosen, rejected):
            self.left_out[reason] += 1
            return
        record: dict[str, Any] = {"id": identifier, "source": source, "prompt": messages(prompt)}
        record |= {"tools": list(tools)} if tools else {}
        for name, said in (("chosen", chosen), ("rejected", rejected)):
            record[name] = messages(said)
            record |= {f"{name}_{key}": value for key, value in self.pedigree(said).items()}
        self.write(PAIRS, {**record, **more})

    def chat(self, identifier: str, said: Sequence[Turn], source: str, tools: Tools) -> None:
        record: dict[str, Any] = {"id": identifier, "source": source, "messages": messages(said)}
        record |= {"tools": list(tools)} if tools else {}
        self.write(CHATS, {**record, **self.pedigree(said)})

    def pedigree(self, said: Sequence[Turn]) -> dict[str, Any]:
        """Which weights gave the replies, and their traces' ids; one of each for every reply."""
        replies = [turn for turn in said if turn.message is not None and turn.message.role == "assistant"]
        for turn in replies:
            self.trace(turn)
        return {
            "models": [turn.model for turn in replies],
            "weight_versions": [turn.weight_version for turn in replies],
            "traces": [trace_id(turn) for turn in replies],
        }

    def trace(self, turn: Turn) -> None:
        if turn.trace is not None and turn.id not in self._traced:
            self._traced.add(turn.id)
            # With an id and its weights each is as `whorl runs trace` reads it.
            kept: dict[str, Any] = {"id": trace_id(turn), "weight_version": turn.weight_version, **turn.trace}
            self.write(TRACES, {"trace": trace_id(turn), "conversation": turn.conversation, **kept})


def _no_pair(prompt: Sequence[Turn], chosen: Sequence[Turn], rejected: Sequence[Turn]) -> str:
    """Why two replies are no pair to learn from, "" for one that is."""
    if not prompt or _is_reply(prompt[-1]):
        return "a reply without a question"
    if any(not said or not _is_reply(said[0]) for said in (chosen, rejected)):
        return "a side does not start with a reply"
    if any(not any(_says_something(turn) for turn in said) for said in (chosen, rejected)):
        return "an empty reply"
    return "both replies are the same" if messages(chosen) == messages(rejected) else ""


def _says_something(turn: Turn) -> bool:
    """Whether a reply has words or calls: one may vote against silence, and cannot learn it."""
    message = turn.message
    return _is_reply(turn) and message is not None and bool(message.text.strip() or message.tool_calls)


def trace_id(turn: Turn) -> str | None:
    return None if turn.trace is None else f"{turn.conversation}-{turn.id}"


def messages(said: Sequence[Turn]) -> list[dict[str, Any]]:
    return [turn.message.to_openai() for turn in said if turn.message is not None]


# -- battles ---------------------------------------------------------------------------------------


def _export_battles(connection: Connection, writer: _Writer) -> None:
    """A pair for each vote that prefers one, and the winner's side as a conversation."""
    split = sides.Sides(connection)
    for vote in read_votes(connection):
        if reason := _why_not(connection, vote):
            writer.left_out[reason] += 1
            continue
        said, tools = talks.read_turns(connection, vote.battle), talks.head(connection, vote.battle).tools
        if reason := sides.reason(said, split.barred(vote.battle, said, vote.purpose)):
            writer.left_out[reason] += 1
            continue
        winner: Side = "a" if vote.winner == "model_a" else "b"
        loser: Side = "b" if winner == "a" else "a"
        won, lost = talks.side_of(said, winner), talks.side_of(said, loser)
        shared = next(number for number, turn in enumerate(said) if turn.side)  # what both began with
        writer.pair(
            vote.battle, won[:shared], won[shared:], lost[shared:], "vote", tools, time=vote.time,
            probability=vote.probability, voter=vote.voter, category=vote.category, cluster=vote.prompt,
        )  # fmt: skip
        writer.chat(vote.battle, _up_to_reply(won), "vote", tools)


def _why_not(connection: Connection, vote: BattleVote) -> str:
    if talks.head(connection, vote.battle).erased is not None:
        return "erased"
    if vote.consent != "train":
        return f"consent is {vote.consent}"
    if vote.purpose != "train":
        return sides.BEGINNING[vote.purpose]
    if vote.winner in TIES:
        return TIES[vote.winner]
    return vote.reason if vote.about_a_reply else ""


def _up_to_reply(said: Sequence[Turn]) -> list[Turn]:
    """Without what comes after the last reply: nothing would be learnt from it."""
    kept = list(said)
    while kept and not _is_reply(kept[-1]):
        kept.pop()
    return kept


def _is_reply(turn: Turn) -> bool:
    return turn.message is not None and turn.message.role == "assistant"


# -- chats -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    """What a chat's person said of its replies; the last word on each counts."""

    thumbs: dict[int, int]
    better: dict[int, Message]

    @classmethod
    def of(cls, preferences: Sequence[Preference]) -> _Said:
        thumbs = {one.turn: one.value for one in preferences if one.kind == "thumb"}
        better = {one.turn: one.better for one in preferences if one.better is not None}
        return cls(thumbs, better)


def _export_chats(connection: Connection, writer: _Writer, owner: int | None = None) -> None:
    """The chats that may train, or all those of `owner`."""
    query = (
        sa.select(conversations, prompts.c.purpose)
        .outerjoin(prompts, prompts.c.id == conversations.c.prompt)
        .where(conversations.c.kind == "chat")
        .order_by(conversations.c.started, conversations.c.id)
    )
    if owner is not None:
        query = query.where(conversations.c.person == owner)
    split = sides.Sides(connection)
    for row in connection.execute(query).all():
        if row.erased is not None:
            writer.left_out["erased"] += 1
            continue
        if owner is None and row.consent != "train":
            writer.left_out[f"consent is {row.consent}"] += 1
            continue
        said = talks.read_turns(connection, row.id)
        barred = split.barred(row.id, said, row.purpose) if owner is None else {}
        begun = sides.beginnings(said)
        if begun and all(turn.id in barred for turn in begun):
            writer.left_out[barred[begun[0].id]] += 1
            continue
        heard = _Said.of(read_preferences(connection, row.id))
        tools = talks.head(connection, row.id).tools
        _export_pairs(writer, said, heard, tools, barred)
        _export_paths(writer, row.id, said, heard, tools, barred)


def _export_pairs(
    writer: _Writer, said: Sequence[Turn], heard: _Said, tools: Tools, barred: dict[int, str]
) -> None:
    """The better reply before the one it was written for, and of two replies to one message the one
    with the thumb up before the one with the thumb down."""
    for turn in filter(_is_reply, said):
        above = talks.path(said, turn.id)[:-1]
        if sides.reason(above, barred):
            continue  # counted with its path
        if (better := heard.better.get(turn.id)) is not None and better != turn.message:
            name = f"{turn.conversation}-{turn.id}"
            writer.pair(name, above, [_written(turn, better)], [turn], "better", tools)
        if heard.thumbs.get(turn.id) != 1:
            continue
        for other in filter(_is_reply, said):
            worse = heard.thumbs.get(other.id) == -1 and other.message != turn.message
            if worse and other.parent == turn.parent:
                name = f"{turn.conversation}-{turn.id}-{other.id}"
                writer.pair(name, above, [turn], [other], "thumbs", tools)


def _written(turn: Turn, better: Message) -> Turn:
    """A reply that a person wrote: of no model and without a trace."""
    return Turn(
        id=turn.id, conversation=turn.conversation, parent=turn.parent, side="", message=better,
        time=turn.time,
    )  # fmt: skip


def _export_paths(
    writer: _Writer, conversation: str, said: Sequence[Turn], heard: _Said, tools: Tools,
    barred: dict[int, str],
) -> None:  # fmt: skip
    """Every branch down to its last reply. A reply with a better one ends its branch with that; one
    with a thumb down, or in whose place another was asked for, ends it before."""
    found = {}
    for leaf in _leaves(said):
        if reason := sides.reason(talks.path(said, leaf.id), barred):
            writer.left_out[reason] += 1
            continue
        kept = _up_to_reply(_wanted(talks.path(said, leaf.id), said, heard))
        if kept:
            found[tuple(turn.id for turn in kept)] = kept
    for numbers, kept in found.items():
        if not any(other[: len(numbers)] == numbers for other in found if other != numbers):
            writer.chat(f"{conversation}-{kept[-1].id}", kept, "chat", tools)
    if not found and not barred:
        writer.left_out["no reply rated well"] += 1


def _wanted(path: Sequence[Turn], said: Sequence[Turn], heard: _Said) -> list[Turn]:
    """The path as far as its person was content with it."""
    kept: list[Turn] = []
    for turn in path:
        if turn.id in heard.better:
            return [*kept, _written(turn, heard.better[turn.id])]
        thumb = heard.thumbs.get(turn.id)
        if thumb == -1 or (thumb != 1 and _asked_again(turn, said)):
            return kept
        kept.append(turn)
    return kept


def _asked_again(turn: Turn, said: Sequence[Turn]) -> bool:
    """Whether a later reply was asked for in this one's place."""
    return _is_reply(turn) and any(
        _is_reply(other) and other.parent == turn.parent and other.id > turn.id for other in said
    )


def _leaves(said: Sequence[Turn]) -> Iterator[Turn]:
    parents = {turn.parent for turn in said}
    return (turn for turn in said if turn.id not in parents)
