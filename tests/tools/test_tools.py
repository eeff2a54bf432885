import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, Message, ToolCall, Trace
from whorl.tools import (
    Entry,
    Tool,
    calculator_tool,
    clock_tool,
    converse,
    lookup_tool,
    titles,
    tool,
)


def scale(value: Annotated[float, "what to scale"], by: int = 2, unit: Literal["m", "km"] = "m") -> str:
    """Multiply a length.

    This second paragraph is for people.
    """
    return f"{value * by:g} {unit}"


def test_schema_from_annotations() -> None:
    made = tool(scale)
    assert made.description == "Multiply a length."
    assert made.parameters == {
        "type": "object",
        "properties": {
            "value": {"type": "number", "description": "what to scale"},
            "by": {"type": "integer", "default": 2},
            "unit": {"type": "string", "enum": ["m", "km"], "default": "m"},
        },
        "required": ["value"],
    }
    assert made.schema["type"] == "function" and made.schema["function"]["name"] == "scale"
    assert made.call({"value": 1.5, "unit": "km"}) == "3 km"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "no 'value'"),
        ({"value": "1"}, "value must be number, got '1'"),
        ({"value": True}, "value must be number"),
        ({"value": float("nan")}, "value must be number"),
        ({"value": 1, "by": 1.5}, "by must be integer"),
        ({"value": 1, "unit": "mile"}, "unit must be one of 'm', 'km'"),
        ({"value": 1, "speed": 2}, "unknown 'speed'"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(arguments: dict, says: str) -> None:
    result = tool(scale).call(arguments)
    assert result.startswith("error: scale: ") and says in result


def test_nested_arguments_are_checked() -> None:
    def total(rows: list[dict[str, int]], note: str | None = None) -> int:
        """Add up."""
        return sum(sum(row.values()) for row in rows)

    made = tool(total)
    assert made.call({"rows": [{"a": 1}, {"b": 2}], "note": None}) == "3"
    assert "must be integer" in made.call({"rows": [{"a": "x"}]})
    assert "note must be string" in made.call({"rows": [], "note": 3})


def test_functions_that_cannot_be_tools() -> None:
    def bare(value): ...  # type: ignore[no-untyped-def]

    def untyped(value):  # type: ignore[no-untyped-def]
        """Documented."""

    def star(*values: int) -> None:
        """Documented."""

    for function, says in (
        (bare, "no docstring"),
        (untyped, "no type annotation"),
        (star, "name every argument"),
    ):
        with pytest.raises(InputError, match=says):
            tool(function)


def test_unknown_schema_keyword_is_refused() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "format": "date"}}}
    with pytest.raises(InputError, match="'format' is not supported"):
        Tool(name="t", description="d", parameters=schema, function=str)
    with pytest.raises(InputError, match="tool name 'a b'"):
        Tool(name="a b", description="d", parameters={}, function=str)


def test_failure_time_and_length_are_data_for_the_model() -> None:
    def broken(kind: str) -> str:
        """Fail."""
        if kind == "sleep":
            time.sleep(5)
        if kind == "raise":
            raise ZeroDivisionError("no way")
        return "x" * 50

    made = Tool(**{**vars(tool(broken)), "time_limit": 60.0, "output_limit": 45})
    hasty = Tool(**{**vars(made), "time_limit": 0.1})
    assert made.call({"kind": "raise"}) == "error: broken: no way"
    assert hasty.call({"kind": "sleep"}) == "error: broken: no result within 0.1 s"
    assert made.call({"kind": "long"}) == "x" * 45 + "\n[cut at 45 of 50 characters]"


def ask(text: str) -> Conversation:
    return Conversation(messages=(Message(role="user", content=(text,)),))


def call(name: str, **arguments: object) -> Trace:
    return Trace(
        message=Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments, id="c1"),))
    )


def say(text: str) -> Trace:
    return Trace(message=Message(role="assistant", content=(text,)))


def test_converse_runs_calls_and_batches_what_waits() -> None:
    sizes = []

    def reply(conversations: list[Conversation]) -> list[Trace]:
        sizes.append(len(conversations))
        traces = []
        for conversation in conversations:
            last = conversation.messages[-1]
            if last.role == "tool":
                traces.append(say(f"It is {last.text}."))
            elif last.text == "hello":
                traces.append(say("hello"))
            else:
                name = "abacus" if "abacus" in last.text else "calculator"
                traces.append(call(name, expression=last.text.split()[-1]))
        return traces

    asked = [ask("work out 6*7"), ask("hello"), ask("by abacus 1+1")]
    sums, plain, unknown = converse(reply, asked, [calculator_tool()], max_calls=2)
    assert sizes == [3, 2]
    assert sums.ending == plain.ending == unknown.ending == "answer"
    assert [message.role for message in sums.conversation.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert sums.conversation.messages[2].tool_call_id == "c1"
    assert sums.trace.message.text == "It is 42."
    assert [trace.message.tool_calls != () for trace in sums.trace.chain] == [True, False]
    assert plain.trace.chain == (plain.trace,)
    assert "error: there is no tool 'abacus'; known: calculator" in unknown.conversation.messages[2].text


def test_a_model_that_never_stops_calling_is_ended() -> None:
    asked = 0

    def reply(conversations: list[Conversation]) -> list[Trace]:
        nonlocal asked
        asked += 1
        return [call("calculator", expression="1")] * len(conversations)

    (outcome,) = converse(reply, [ask("go")], [calculator_tool()], max_calls=3)
    assert outcome.ending == "max_calls" and asked == 4
    assert len(outcome.trace.chain) == 4
    assert [message.role for message in outcome.conversation.messages].count("tool") == 3


def test_a_cut_reply_is_named() -> None:
    cut = Trace(message=Message(role="assistant", content=("It",)), finish="length")
    (outcome,) = converse(lambda conversations: [cut], [ask("go")], [], max_calls=0)
    assert outcome.ending == "length"


def test_clock_shows_the_time_it_is_given() -> None:
    moment = datetime(2031, 4, 5, 6, 7, 8, tzinfo=UTC)
    assert clock_tool(lambda: moment).call({}) == "Saturday, 05 April 2031, 06:07:08 UTC"
    before = datetime.now().astimezone().replace(microsecond=0)
    shown = datetime.strptime(clock_tool().call({}).rpartition(" ")[0], "%A, %d %B %Y, %H:%M:%S")
    assert abs((shown - before.replace(tzinfo=None)).total_seconds()) < 30


TITLED = {
    "Bärlauch im April": Entry(name="Bärlauch im April", sentence="Er wächst am Bach.", rest="Viel davon.")
}


def test_lookup_over_own_titles() -> None:
    made = lookup_tool(titles(TITLED))
    for name in ("Bärlauch im April", " bärlauch  im APRIL", "Bärlauch im Apri"):
        assert made.call({"name": name}) == "Er wächst am Bach.\nViel davon."
    assert made.call({"name": "Pilze"}) == "error: nothing is documented under 'Pilze'"


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=200), st.integers(0, 30))
def test_entry_text_begins_with_its_sentence_and_is_bounded(
    sentence: str, signature: str, rest: str, words: int
) -> None:
    text = Entry(name="n", sentence=sentence, signature=signature, rest=rest).text(words)
    assert text.startswith(sentence)
    after = text[len(sentence) :].replace("…", " ").split()
    assert len(after) <= words


def test_rooms_import_lightly() -> None:
    """Importing tools, tasks and even using them never loads torch."""
    code = (
        "import whorl.tools as t, whorl.tasks, sys; t.converse, t.PythonDocs; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == "False"
