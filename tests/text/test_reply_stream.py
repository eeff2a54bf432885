"""A streamed reply is the parsed one, piece by piece, and nothing shown is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whorl.base.nouns import Message
from whorl.text.reply import MARKERS, ReplyPart, parse_reply
from whorl.text.reply_stream import ReplyStream, StopText, TextStream, held
from whorl.text.tokenizer import Tokenizer

CALL = '{"name": "add", "arguments": {"a": "é\\n"}}'
PIECES = [
    *MARKERS,
    "\n",
    "\n\n",
    " ",
    "so",
    "é漢🙂",
    CALL,
    f"[{CALL}, {CALL}]",
    "{broken",
    "<",
    "<tool",
    "</thin",
    "[",
]
replies = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def stream(ids: Iterable[int], tokenizer: Tokenizer, **args: bool) -> list[ReplyPart]:
    streamed = ReplyStream(tokenizer, **args)
    parts = [part for number in ids for part in streamed.push(number)]
    return parts + streamed.finish()


def joined(parts: list[ReplyPart]) -> tuple[str, str, list[tuple[str, object]]]:
    def texts(kind: str, index: int = 0) -> str:
        return "".join(part.text for part in parts if part.kind == kind and part.index == index)

    names = [part for part in parts if part.kind == "call"]
    assert [part.index for part in names] == list(range(len(names)))
    calls = [(part.text, json.loads(texts("arguments", part.index))) for part in names]
    return texts("content"), texts("reasoning"), calls


def shown(message: Message) -> tuple[str, str, list[tuple[str, object]]]:
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.text, message.reasoning or "", calls


@settings(max_examples=600, deadline=None)
@given(text=replies, thinking=st.booleans(), spelled=st.booleans())
@example(
    text="<think>\n\n</think>\n\n\n<tool_call>\n" + CALL + "\n</tool_call>", thinking=False, spelled=False
)
def test_the_parts_joined_are_the_parsed_reply(
    ours: Tokenizer, text: str, thinking: bool, spelled: bool
) -> None:
    ids = ours.encode(text) if spelled else ours.encode_control(text)
    assert joined(stream(ids, ours, thinking=thinking)) == shown(parse_reply(ids, ours, thinking=thinking))


@settings(max_examples=300, deadline=None)
@given(text=replies, thinking=st.booleans())
def test_also_where_markers_are_ordinary_text(foreign: Tokenizer, text: str, thinking: bool) -> None:
    ids = foreign.encode_control(text)
    assert joined(stream(ids, foreign, thinking=thinking)) == shown(
        parse_reply(ids, foreign, thinking=thinking)
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_tokens_at_all(ours: Tokenizer, data: st.DataObject) -> None:
    """Broken UTF-8 too; a text of noise is cut into other U+FFFDs than in one piece, and is left out."""
    known = [number for number in range(ours.vocab_size) if number not in ours.end_ids]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=30))
    content, reasoning, calls = joined(stream(ids, ours))
    wanted = shown(parse_reply(ids, ours))
    if "�" not in wanted[0] + wanted[1]:
        assert (content, reasoning, calls) == wanted


def test_text_comes_at_once_and_a_line_break_waits(ours: Tokenizer) -> None:
    streamed = ReplyStream(ours)
    seen = ["".join(part.text for part in streamed.push(number)) for number in ours.encode("a\nb")]
    assert seen == ["a", "", "\nb"]


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc\n", max_size=20),
    stops=st.lists(st.text("abc\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
)
def test_a_stop_string_ends_the_text_wherever_it_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    stop = StopText(stops)
    out = "".join(stop.push(text[a:b]) for a, b in pairwise(bounds)) + stop.finish()
    # The first stop string to be whole ends the text: of those that are whole by then, the first one.
    ends = [text.index(one) + len(one) for one in stops if one in text]
    if not ends:
        assert out == text and stop.met is None
    else:
        assert stop.met in stops and not any(one in out for one in stops)
        assert text.startswith(out + (stop.met or ""))


@pytest.mark.parametrize(("text", "words", "count"), [("ab", ["bc"], 1), ("ab", ["ab"], 0), ("", ["a"], 0)])
def test_what_is_held_back(text: str, words: list[str], count: int) -> None:
    assert held(text, words) == count


def test_plain_text_shows_no_control_token(ours: Tokenizer) -> None:
    streamed = TextStream(ours)
    ids = ours.encode_control("é<think>漢")
    text = "".join(part.text for number in ids for part in streamed.push(number))
    assert text + "".join(part.text for part in streamed.finish()) == "é漢"


def test_arguments_of_a_call_that_a_grammar_holds_come_as_they_are_read(ours: Tokenizer) -> None:
    text = 'a longer text, é and \\"}'
    arguments = json.dumps({"text": text, "inner": {"n": [1, {}]}}, ensure_ascii=False)
    body = '{"name": "add \\"x\\"", "arguments": ' + arguments + "}"
    ids = ours.encode_control(f"<tool_call>{body}</tool_call>")
    streamed = ReplyStream(ours, held_to_calls=True)
    parts = [streamed.push(number) for number in ids]
    assert sum(bool(one) for one in parts) > 5, "not at once"
    whole = [part for some in parts for part in some] + streamed.finish()
    assert joined(whole) == shown(parse_reply(ids, ours)) == ("", "", [('add "x"', json.loads(arguments))])
    # Cut off anywhere, what came is the beginning of what would have come.
    for count in range(1, len(ids)):
        texts = {"call": "", "arguments": "", "content": ""}
        streamed = ReplyStream(ours, held_to_calls=True)
        for part in [part for number in ids[:count] for part in streamed.push(number)] + streamed.finish():
            texts[part.kind] += part.text
        assert arguments.startswith(texts["arguments"])
        assert bool(texts["call"]) != bool(texts["content"])
