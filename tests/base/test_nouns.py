"""The shared nouns refuse what they cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import DataError
from whorl.base.nouns import Conversation, ImagePart, Message, SamplingParams, ToolCall, Trace


@given(data=st.binary(min_size=1), kind=st.sampled_from(["image/png", "image/jpeg"]))
def test_an_image_survives_its_data_uri(data: bytes, kind: str) -> None:
    image = ImagePart(data=data, media_type=kind)
    back = ImagePart.from_data_uri(image.to_data_uri())
    assert back == image
    assert back.digest == image.digest


@pytest.mark.parametrize(
    "uri", ["", "http://x/y.png", "data:image/png,abc", "data:image/png;base64,@@", "data:image/png;base64,"]
)
def test_a_bad_image_uri_is_refused(uri: str) -> None:
    with pytest.raises(DataError):
        ImagePart.from_data_uri(uri)


def test_openai_form_keeps_reading_order_and_calls() -> None:
    image = ImagePart(data=b"x")
    message = Message(role="user", content=("look: ", image, " and tell"))
    parts = message.to_openai()["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    assert message.text == "look:  and tell"
    call = Message(role="assistant", tool_calls=(ToolCall(name="clock", arguments={"zone": "UTC"}, id="1"),))
    assert call.to_openai()["tool_calls"][0]["function"] == {"name": "clock", "arguments": '{"zone": "UTC"}'}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Message(role="robot"),  # type: ignore[arg-type]
        lambda: Message(role="user", content="text"),  # type: ignore[arg-type]
        lambda: Message(role="user", tool_calls=(ToolCall(name="a", arguments={}),)),
        lambda: ToolCall(name="", arguments={}),
        lambda: ToolCall(name="a", arguments=[]),  # type: ignore[arg-type]
        lambda: Conversation(messages=()),
        lambda: SamplingParams(max_tokens=0),
        lambda: SamplingParams(top_p=0),
        lambda: SamplingParams(temperature=-1),
        lambda: Trace(message=Message(role="assistant"), token_ids=(1, 2), logprobs=(0.0,)),
    ],
)
def test_an_impossible_noun_is_refused_where_it_is_made(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError):
        make()


def test_a_trace_knows_its_chain() -> None:
    first = Trace(message=Message(role="assistant", content=("a",)))
    second = Trace(message=Message(role="assistant", content=("b",)), parent=first)
    assert [trace.message.text for trace in second.chain] == ["a", "b"]
