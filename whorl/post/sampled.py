"""Replies as they were sampled: the very tokens, so that nothing that a server kept is rendered again.

An export's pairs name the traces of their replies (`chosen_traces`, `rejected_traces`), which lie beside
them in `traces.jsonl`. Such a reply is learnt from these tokens where they are ones of this model: under the
same chat template, and read by its tokenizer as the message that the pair has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.base.files import read_jsonl
from whorl.base.nouns import Message
from whorl.text.reply import parse_reply
from whorl.text.samples import TrainSample
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

TRACES = "traces.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What one reply was conditioned on and what it was; `tokenizer_hash` "" where its server told none."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    template_hash: str
    tokenizer_hash: str = ""
    finish: str = "stop"

    @classmethod
    def of(cls, record: dict[str, Any]) -> Sampled | None:
        """From a trace; None where it has no tokens, as of a server that is not ours."""
        ids = [record.get(name) for name in ("prompt_ids", "token_ids")]
        if not all(isinstance(one, list) and one and all(type(id) is int for id in one) for one in ids):
            return None
        return cls(
            prompt_ids=tuple(ids[0] or ()), token_ids=tuple(ids[1] or ()),
            template_hash=str(record.get("template_hash") or ""),
            tokenizer_hash=str(record.get("tokenizer_hash") or ""), finish=str(record.get("finish") or ""),
        )  # fmt: skip

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.token_ids


def read_traces(pairs: Path) -> dict[str, Sampled]:
    """The traces beside a file of pairs, by their ids."""
    place = pairs.with_name(TRACES)
    records = read_jsonl(place) if place.exists() else iter(())
    found = {str(record.get("trace") or record.get("id")): Sampled.of(record) for record in records}
    return {id: one for id, one in found.items() if one is not None}


def sampled_side(
    replies: Sequence[Message], traces: Sequence[Sampled], tokenizer: Tokenizer, template: ChatTemplate
) -> TrainSample | None:
    """The last trace's tokens, with the mask on what the model itself has written of them; None where they
    are not this model's, are not these replies, or where an earlier reply was written otherwise later on."""
    if not traces or len(traces) != len(replies):
        return None
    if not all(_fits(*one, tokenizer, template) for one in zip(replies, traces, strict=True)):
        return None
    ids = traces[-1].ids
    mask = [False] * len(ids)
    for trace in traces:
        if ids[: len(trace.ids)] != trace.ids:
            return None
        mask[len(trace.prompt_ids) : len(trace.ids)] = [True] * len(trace.token_ids)
    return TrainSample(list(ids), mask, [], (), "", tuple(range(len(replies))))


def _fits(reply: Message, trace: Sampled, tokenizer: Tokenizer, template: ChatTemplate) -> bool:
    if trace.template_hash != template.hash or trace.tokenizer_hash not in ("", tokenizer.hash):
        return False
    if min(trace.ids) < 0 or max(trace.ids) >= tokenizer.vocab_size:
        return False
    if trace.finish != "length" and trace.token_ids[-1] not in tokenizer.end_ids:
        return False  # it ended at a stop string, or was broken off: it would not learn to end its turn
    # A prompt may have opened the thinking. Words and calls are compared, ids of calls are the server's own.
    return any(
        _said(parse_reply(trace.token_ids, tokenizer, thinking=thinking)) == _said(reply)
        for thinking in (False, True)
    )


def _said(message: Message) -> tuple[str, str, list[tuple[str, dict[str, Any]]]]:
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.text.strip(), (message.reasoning or "").strip(), calls
