from __future__ import annotations

import pytest

from whorl.base.nouns import Message, ToolCall
from whorl.text.reply import parse_reply
from whorl.text.tokenizer import Tokenizer


def read(tokenizer: Tokenizer, text: str, **args) -> Message:
    return parse_reply(tokenizer.encode_control(text), tokenizer, **args)


ADD = ToolCall(name="add", arguments={"a": 1})


@pytest.mark.parametrize(
    ("text", "content", "calls", "reasoning"),
    [
        ("Hello<|im_end|> never read", "Hello", (), None),
        ('<tool_call>{"name":"add","arguments":{"a":1}}</tool_call><|im_end|>', "", (ADD,), None),
        ('Hm\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "Hm", (ADD,), None),
        ("<think>\nwhy\n</think>\n\nso", "so", (), "why"),
        ("<think>why</think>so", "so", (), "why"),
        ("<think>\n\n</think>\n\nso", "so", (), None),
        ("<think>cut off", "", (), "cut off"),
        ('<tool_call>{"name":"add","arguments":"{\\"a\\": 1}"}</tool_call>', "", (ADD,), None),
        ("<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", (), None),
        ("<tool_call>[1]</tool_call>!", "<tool_call>[1]</tool_call>!", (), None),
        ('<tool_call>{"name":"add"', '<tool_call>{"name":"add"', (), None),
        ("a</tool_call>b</think>c", "a</tool_call>b</think>c", (), None),
        ('[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]', "", (ADD,), None),
    ],
)
def test_replies_as_templates_write_them(text: str, content: str, calls, reasoning, ours: Tokenizer) -> None:
    message = read(ours, text)
    assert (message.text, message.tool_calls, message.reasoning) == (content, calls, reasoning)


def test_spelt_markers_are_text_where_they_are_control_tokens(ours: Tokenizer) -> None:
    text = '<tool_call>{"name":"add","arguments":{}}</tool_call>'
    assert parse_reply(ours.encode(text), ours).text == text
    assert not parse_reply(ours.encode(text), ours).tool_calls


def test_thinking_opened_by_the_prompt(ours: Tokenizer) -> None:
    message = read(ours, "why\n</think>\n\nso<|im_end|>", thinking=True)
    assert (message.text, message.reasoning) == ("so", "why")
