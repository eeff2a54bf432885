"""Preference pairs in the forms people have them: a prompt, the reply that was preferred, and the other.

    {"prompt": [messages] | "text", "chosen": …, "rejected": …}       a text, a message or messages
    {"chosen": [whole conversation], "rejected": [whole conversation]}    the shared beginning is the prompt
    {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}
    {"conversations": […], "chosen": {"from": "gpt", …}, "rejected": …}   and Alpaca's instruction and input

with `tools`, `images`, `system` and `chat_template_kwargs` as in chats. `chosen_traces` and `rejected_traces`
name how the replies were sampled (`whorl.post.sampled`). Other fields, scores and the like, are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError
from whorl.base.nouns import Conversation, Message
from whorl.post.sampled import Sampled, read_traces
from whorl.text.forms import OPENAI_ROLES, SHAREGPT_ROLES, read_conversation
from whorl.text.records import read_records, record_files

SIDES = ("chosen", "rejected")
OPENAI_NAMES = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
SHARED = ("tools", "functions", "chat_template_kwargs", "id")  # of a record, besides its messages
HAVE = "a pair has a prompt (or messages), chosen and rejected"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt (with its tools) and two ways to go on: assistant messages, perhaps with tool results
    between them. `where` is its place for errors. `sampled` has, by side, how each of its replies was
    sampled, where that is known of all of them."""

    prompt: Conversation
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    where: str
    sampled: Mapping[str, tuple[Sampled, ...]] = field(default_factory=dict)

    def side(self, side: str) -> tuple[Message, ...]:
        return self.chosen if side == "chosen" else self.rejected

    def conversation(self, side: str) -> Conversation:
        """The prompt with its "chosen" or "rejected" end."""
        return replace(self.prompt, messages=self.prompt.messages + self.side(side))


def read_pairs(path: str | Path) -> Iterator[Pair]:
    """The pairs of a file (.jsonl, .json, .parquet, also compressed) or of all files below a folder.

    `DataError` in one line with file, place and remedy at the first that is none.
    """
    for file in record_files(Path(path), "pairs"):
        traces: dict[str, Sampled] | None = None
        for where, record in read_records(file):
            if isinstance(record, DataError):
                raise record
            pair = read_pair(record, where, folder=file.parent)
            named = {side: record.get(f"{side}_traces") for side in SIDES}
            if any(named.values()):
                traces = read_traces(file) if traces is None else traces
                pair = replace(pair, sampled=_sampled(named, traces))
            yield pair


def _sampled(named: Mapping[str, Any], traces: Mapping[str, Sampled]) -> dict[str, tuple[Sampled, ...]]:
    """Of each side whose replies all have a trace that is there."""
    return {
        side: tuple(traces[id] for id in ids)
        for side, ids in named.items()
        if isinstance(ids, list) and ids and all(isinstance(id, str) and id in traces for id in ids)
    }


def read_pair(record: Any, where: str, *, folder: Path | None = None) -> Pair:
    """One record in any of the forms; image paths are relative to `folder`."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: a record must be a JSON object, not {type(record).__name__}; {HAVE}")
    record = {key: value for key, value in record.items() if value is not None}
    if isinstance(record.get("input"), dict):  # OpenAI's form for preference fine-tuning
        record = record.pop("input") | record
    turns = {side: _turns(record, side, where) for side in SIDES}
    whole = {side: _is_whole(turns[side]) for side in SIDES}
    if whole["chosen"] != whole["rejected"]:
        long, short = sorted(SIDES, key=lambda side: not whole[side])
        raise DataError(
            f"{where}: {long} is a whole conversation and {short} is not; give both in the same form"
        )
    prompt = None if whole["chosen"] and not _names_prompt(record) else _prompt(record, where, folder)
    shared = {key: record[key] for key in SHARED if key in record}
    read = {
        side: read_conversation({"messages": turns[side], **shared}, f"{where}: {side}", folder=folder)
        for side in SIDES
    }
    chosen, rejected = read["chosen"].messages, read["rejected"].messages
    if chosen == rejected:
        raise DataError(
            f"{where}: chosen and rejected are identical, so there is nothing to prefer; drop the pair"
        )
    if whole["chosen"]:
        size = _agreement(chosen, rejected)
        _check_begins(prompt, chosen[:size], where)
        prompt = replace(read["chosen"], messages=chosen[:size]) if size else None
        chosen, rejected = chosen[size:], rejected[size:]
    if prompt is None:
        raise DataError(f"{where}: chosen and rejected have no common prefix; {HAVE}")
    if prompt.messages[-1].role == "assistant":
        raise DataError(f"{where}: the prompt ends with the assistant's turn; it must end with the user's")
    for side, messages in zip(SIDES, (chosen, rejected), strict=True):
        _check_reply(messages, f"{where}: {side}")
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, where=where)


def _turns(record: dict[str, Any], side: str, where: str) -> list[Any]:
    """One side's turns, in OpenAI's form."""
    given = record.get(side, record.get(OPENAI_NAMES[side]))
    if given is None:
        found = ", ".join(sorted(map(str, record))) or "none"
        raise DataError(f"{where}: {side} is missing (fields are {found}); {HAVE}")
    if isinstance(given, str):
        return [{"role": "assistant", "content": given}]
    turns = [given] if isinstance(given, dict) else given
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: {side} must be a text, a message or a list of messages; {HAVE}")
    return [_openai_turn(turn) for turn in turns]


def _openai_turn(turn: Any) -> Any:
    """ShareGPT's `from` and `value` as `role` and `content`; all else is read, and refused, as it is."""
    if not isinstance(turn, dict) or "from" not in turn or turn["from"] == "function_call":
        return turn
    speaker = turn["from"]
    role = SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": turn.get("value")}


def _is_whole(turns: list[Any]) -> bool:
    """Whether it begins with what the model would be asked, not with what it says."""
    first = turns[0].get("role") if isinstance(turns[0], dict) else None
    return isinstance(first, str) and OPENAI_ROLES.get(first) in ("system", "user")


def _names_prompt(record: dict[str, Any]) -> bool:
    return any(key in record for key in ("prompt", "question", "messages", "conversations", "instruction"))


def _prompt(record: dict[str, Any], where: str, folder: Path | None) -> Conversation:
    """What is asked, as a conversation that ends before the reply."""
    shared = {key: record[key] for key in (*SHARED, "system", "images", "image") if key in record}
    given = record.get("prompt", record.get("question", record.get("messages")))
    if given is None and "conversations" in record:
        return read_conversation(shared | {"conversations": record["conversations"]}, where, folder=folder)
    if given is None and "instruction" in record:
        rest = {key: record[key] for key in ("instruction", "input", "history") if key in record}
        asked = read_conversation(shared | rest | {"output": ""}, where, folder=folder)
        return replace(asked, messages=asked.messages[:-1])
    if given is None:
        found = ", ".join(sorted(map(str, record)))
        raise DataError(f"{where}: prompt is missing (fields are {found}); {HAVE}")
    if isinstance(given, str) and not given.strip():
        raise DataError(f"{where}: prompt is empty; {HAVE}")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: prompt must be a text or a list of messages, not {type(given).__name__}")
    if "system" in shared:
        turns = [{"role": "system", "content": shared.pop("system")}, *turns]
    images = shared.pop("images", shared.pop("image", []))
    turns = _place_images(turns, images if isinstance(images, list) else [images], where)
    name = "prompt" if "prompt" in record else "question" if "question" in record else ""
    try:
        return read_conversation(shared | {"messages": turns}, where, folder=folder)
    except DataError as error:  # the reader knows the turns as `messages`
        raise DataError(str(error).replace(": messages", f": {name}", 1) if name else str(error)) from error


def _place_images(turns: list[Any], images: list[Any], where: str) -> list[Any]:
    """Each part {"type": "image"} that names none gets the next of the record's images."""
    left = list(images)
    wanted = 0

    def filled(part: Any) -> Any:
        nonlocal wanted
        if not isinstance(part, dict) or part.get("type") != "image":
            return part
        if any(part.get(key) is not None for key in ("image", "path", "url")):
            return part
        wanted += 1
        return part | {"image": left.pop(0)} if left else part

    placed = [
        turn | {"content": [filled(part) for part in turn["content"]]}
        if isinstance(turn, dict) and isinstance(turn.get("content"), list)
        else turn
        for turn in turns
    ]
    if wanted != len(images):
        raise DataError(
            f'{where}: images: {len(images)} given for {wanted} parts {{"type": "image"}} of the prompt;'
            " write one part for each image"
        )
    return placed


def _agreement(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """How many messages both begin with."""
    size = 0
    for mine, other in zip(chosen, rejected, strict=False):
        if mine != other:
            break
        size += 1
    return size


def _check_begins(prompt: Conversation | None, beginning: tuple[Message, ...], where: str) -> None:
    """A prompt given beside whole conversations is one they begin with."""
    if prompt is None:
        return
    asked = next((one.text.strip() for one in reversed(prompt.messages) if one.role == "user"), "")
    if all(asked != one.text.strip() for one in beginning):
        raise DataError(
            f"{where}: chosen and rejected are whole conversations that do not both begin with the prompt;"
            " remove the prompt, or give only the replies"
        )


def _check_reply(messages: tuple[Message, ...], where: str) -> None:
    if not messages:
        raise DataError(f"{where} has no turn after the prompt; add the reply")
    if messages[0].role != "assistant":
        raise DataError(
            f"{where} begins with the {messages[0].role}'s turn after the prompt; the two may differ"
            " only in the assistant's turns"
        )
    if messages[-1].role != "assistant":
        raise DataError(f"{where} ends with the {messages[-1].role}'s turn; end it with the assistant's")
