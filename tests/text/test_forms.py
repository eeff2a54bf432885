from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, ImagePart, Message, ToolCall
from whorl.text.forms import read_conversation, read_conversations, write_openai

LOOSE = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA = Path(os.environ.get("WHORL_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
PNG = b"\x89PNG\r\n\x1a\n and so on"
IMAGE = ImagePart(data=PNG)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def said(role: str, *content: str | ImagePart, **fields) -> Message:
    return Message(role=role, content=content, **fields)


def read(record: dict, **fields) -> tuple[Message, ...]:
    return read_conversation(record, "chats.jsonl:7", **fields).messages


# -- the three forms ----------------------------------------------------------------------------


def test_sharegpt_with_tools_and_a_system_field() -> None:
    record = {
        "id": 3,
        "system": "S",
        "tools": json.dumps([TOOL["function"]]),
        "conversations": [
            {"from": "human", "value": "1+1"},
            {"from": "gpt", "value": "Let me see."},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "<think>\nread\n</think>\n\n2"},
        ],
    }
    made = read_conversation(record, "x")
    assert made.tools == (TOOL,)
    assert made.id == "3"
    assert made.messages == (
        said("system", "S"),
        said("user", "1+1"),
        said("assistant", "Let me see.", tool_calls=(ToolCall(name="add", arguments={"a": 1}),)),
        said("tool", "2"),
        said("assistant", "2", reasoning="read"),
    )


def test_sharegpt_images_by_placeholder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    turns = [{"from": "human", "value": "<image>\none <image>two"}, {"from": "gpt", "value": "ok"}]
    uri = ImagePart(data=b"other", media_type="image/jpeg")
    record = {"conversations": turns, "images": ["a.png", uri.to_data_uri()]}
    assert read(record, folder=tmp_path)[0].content == (IMAGE, "\none ", uri, "two")
    one = {"conversations": [{"from": "human", "value": "<image>?"}], "image": "a.png"}
    assert read(one, folder=tmp_path)[0].content == (IMAGE, "?")
    none = {"conversations": [{"from": "human", "value": "what does <image> mean?"}]}
    assert read(none)[0].content == ("what does <image> mean?",)


def test_openai_in_its_variants(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    record = {
        "messages": [
            {"role": "developer", "content": "S"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one"},
                    {"type": "image_url", "image_url": {"url": IMAGE.to_data_uri()}},
                    {"type": "image_url", "image_url": "a.png"},
                    {"type": "image", "image": {"bytes": PNG, "path": None}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "why"},
            {"role": "tool", "tool_call_id": "c1", "content": "2", "name": "add"},
            {"role": "assistant", "content": "2", "tool_calls": None},
            {"role": "assistant", "function_call": {"name": "add", "arguments": {"b": 2}}},
            {"role": "function", "content": "3"},
        ],
        "tools": [TOOL],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    made = read_conversation(record, "x", folder=tmp_path)
    assert made.template_args == {"enable_thinking": False}
    assert made.messages == (
        said("system", "S"),
        said("user", "one", IMAGE, IMAGE, IMAGE),
        said("assistant", tool_calls=(ToolCall(name="add", arguments={"a": 1}, id="c1"),), reasoning="why"),
        said("tool", "2", tool_call_id="c1", name="add"),
        said("assistant", "2"),
        said("assistant", tool_calls=(ToolCall(name="add", arguments={"b": 2}),)),
        said("tool", "3"),
    )


def test_alpaca_with_history() -> None:
    record = {"instruction": "Add", "input": "1 1", "output": "2", "system": "S", "history": [["q", "a"]]}
    assert read(record) == (
        said("system", "S"),
        said("user", "q"),
        said("assistant", "a"),
        said("user", "Add\n1 1"),
        said("assistant", "2"),
    )
    assert read({"instruction": "Hi", "input": "", "output": "Ho"})[0] == said("user", "Hi")


@LOOSE
@given(data=st.data())
def test_openai_form_comes_back(chats, data) -> None:
    conversation: Conversation = data.draw(chats)
    record = json.loads(json.dumps(write_openai(conversation)))
    again = read_conversation(record, "x")
    assert again.tools == conversation.tools
    for ours, theirs in zip(conversation.messages, again.messages, strict=True):
        if ours.reasoning is None and ours.text.lstrip().startswith("<think>"):
            continue  # read as reasoning, as data sets mean it
        assert (ours.role, ours.text, ours.tool_calls) == (theirs.role, theirs.text, theirs.tool_calls)
        assert ours.reasoning == theirs.reasoning


def test_images_come_back_through_json() -> None:
    talk = Conversation(messages=(said("user", "a", IMAGE, "b"), said("assistant", "c")), id="i")
    assert read_conversation(json.loads(json.dumps(write_openai(talk))), "x") == talk


# -- what is refused ----------------------------------------------------------------------------


def user(content) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


def assistant(**fields) -> dict:
    return {"messages": [{"role": "assistant", **fields}]}


BAD = {
    "no form": ({"text": "x"}, "fields are text; a chat has messages"),
    "not an object": ([], "a record must be a JSON object, not list"),
    "no turns": ({"messages": []}, "messages: must be a list of at least one turn"),
    "turn": ({"messages": ["hi"]}, "messages[0]: must be an object, not str"),
    "role": ({"messages": [{"role": "bot", "content": ""}]}, "messages[0].role: 'bot' is not one of system"),
    "from": ({"conversations": [{"from": "me", "value": ""}]}, "conversations[0].from: 'me' is not one of"),
    "value": ({"conversations": [{"from": "gpt"}]}, "conversations[0].value: must be a string, not missing"),
    "content": (user(3), "messages[0].content: must be a string or a list of parts, not int"),
    "part": (user([{"type": "video"}]), "messages[0].content[0].type: 'video' is not text"),
    "network": (user([{"type": "image_url", "image_url": {"url": "https://x/y"}}]), "is a URL"),
    "data": (user([{"type": "image_url", "image_url": "data:image/png;base64,*"}]), "not valid base64"),
    "folder": (user([{"type": "image", "path": "../../etc/passwd"}]), "is outside"),
    "missing": (user([{"type": "image", "path": "none.png"}]), "none.png cannot be read (No such file"),
    "arguments": (
        assistant(tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
        "messages[0].tool_calls[0].function.arguments: is not valid JSON",
    ),
    "argument list": (
        assistant(tool_calls=[{"function": {"name": "f", "arguments": []}}]),
        "must be a JSON object",
    ),
    "name": (assistant(tool_calls=[{"function": {}}]), "tool_calls[0]: tool call has no name"),
    "user calls": (
        {"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]},
        "messages[0]: a user message cannot call tools",
    ),
    "weight": (assistant(content="x", weight=0), "messages[0].weight: 0 is not supported"),
    "tools": ({**user("x"), "tools": [{"type": "function"}]}, "tools[0]: must be a function with name"),
    "tools text": ({**user("x"), "tools": "["}, "tools: is not valid JSON"),
    "images": (
        {"conversations": [{"from": "human", "value": "<image>"}], "images": ["a", "b"]},
        "images: 2 given for 1 <image> in conversations",
    ),
    "output": ({"instruction": "x"}, "output: must be a string, not missing"),
    "history": ({"instruction": "x", "output": "y", "history": ["z"]}, "history[0]: must be a question and"),
    "call": ({"conversations": [{"from": "function_call", "value": "add"}]}, "value: is not valid JSON"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_records_name_place_field_and_remedy(name: str, tmp_path: Path) -> None:
    record, problem = BAD[name]
    with pytest.raises(DataError) as caught:
        read_conversation(record, "chats.jsonl:7", folder=tmp_path)
    assert str(caught.value).startswith("chats.jsonl:7: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


# -- files --------------------------------------------------------------------------------------

RECORDS = [{"instruction": f"q{number}", "output": f"a{number}"} for number in range(5)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def write(path: Path) -> Path:
    if path.name.endswith(".parquet"):
        tables, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(tables.Table.from_pylist(RECORDS), path)
        return path
    data = json.dumps(RECORDS).encode() if ".jsonl" not in path.name else LINES
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    if path.name.endswith(".zst"):
        zstandard = pytest.importorskip("zstandard")
        data = zstandard.compress(data[:50]) + zstandard.compress(data[50:])
    path.write_bytes(data)
    return path


NAMES = ("c.jsonl", "c.jsonl.gz", "c.jsonl.zst", "c.json", "c.json.gz", "c.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_holds_the_same_chats(name: str, tmp_path: Path) -> None:
    chats = list(read_conversations(write(tmp_path / name)))
    assert [chat.messages[0].text for chat in chats] == [f"q{number}" for number in range(5)]


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not chats")
    assert len(list(read_conversations(tmp_path))) == 10


@pytest.mark.parametrize("name", NAMES[1:3] + NAMES[4:])
def test_a_file_cut_short_says_so(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"c\.[a-z.]*: .*(truncated|cut short|damaged)") as caught:
        list(read_conversations(path))
    assert "\n" not in str(caught.value)


def test_broken_lines_are_handed_over_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(LINES[:60] + b"\n\n" + LINES + b'{"instruction": 1, "output": "x"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:\d+: "):
        list(read_conversations(path))
    errors: list[DataError] = []
    assert len(list(read_conversations(path, on_error=errors.append))) >= 5
    assert "c.jsonl:2: not valid JSON" in str(errors[0])
    assert "instruction: must be a string, not int" in str(errors[-1])


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(read_conversations(tmp_path / "none.jsonl"))
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(InputError, match=r"read from \.jsonl"):
        list(read_conversations(tmp_path / "c.txt"))
    with pytest.raises(InputError, match="contains no file of chats"):
        list(read_conversations(tmp_path))
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"c\.json: not valid JSON"):
        list(read_conversations(tmp_path / "c.json"))
    (tmp_path / "c.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl: not UTF-8"):
        list(read_conversations(tmp_path / "c.jsonl"))


def test_image_bytes_in_parquet(tmp_path: Path) -> None:
    tables, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "that"}]
    rows = [{"conversations": turns, "images": [{"bytes": PNG, "path": None}]}]
    parquet.write_table(tables.Table.from_pylist(rows), tmp_path / "c.parquet")
    (chat,) = read_conversations(tmp_path / "c.parquet")
    assert chat.messages[0].content == (IMAGE, "what?")


@pytest.mark.skipif(not (DATA / "conversations.json").is_file(), reason="conversations.json is not here")
def test_real_sharegpt_file() -> None:
    chats = list(read_conversations(DATA / "conversations.json"))
    assert len(chats) == 500
    assert chats[0].id == "identity_0"
    assert [message.role for message in chats[0].messages] == ["user", "assistant", "user", "assistant"]


def test_data_uri_is_what_was_given() -> None:
    uri = "data:image/webp;base64," + base64.b64encode(b"RIFF").decode()
    (message,) = read(user([{"type": "image_url", "image_url": {"url": uri}}]))
    assert message.images[0].to_data_uri() == uri
