from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, ImagePart, Message, ToolCall
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

LOOSE = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <two> numbers & more.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}


def said(role: str, *content: str | ImagePart, **fields) -> Message:
    return Message(role=role, content=content, **fields)


def chat(*messages: Message, **fields) -> Conversation:
    return Conversation(messages=messages, **fields)


QA = (said("user", "Hi there "), said("assistant", " Hello\n"), said("user", "2+2?"), said("assistant", "4"))
CALL = said("assistant", "Let me see.", tool_calls=(ToolCall(name="add", arguments={"a": 2, "é": [1]}),))
CHATS = {
    "plain": chat(*QA),
    "ask": chat(*QA[:3]),
    "system": chat(said("system", "Be brief."), *QA),
    "tools": chat(said("system", "S"), QA[2], CALL, said("tool", "4"), QA[3], tools=(TOOL,)),
    "thinking": chat(QA[0], said("assistant", "Hello", reasoning="easy"), *QA[2:]),
}


def theirs(conversation: Conversation, tokenizer: Tokenizer, source: str, reply: bool, **args) -> list[int]:
    """What transformers makes of the same conversation."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._base, **tokenizer.special_tokens)
    messages = []
    for message in conversation.messages:
        form = message.to_openai()
        for call, ours in zip(form.get("tool_calls", []), message.tool_calls, strict=False):
            call["function"]["arguments"] = ours.arguments
        if message.images:
            form["content"] = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.content
            ]
        messages.append(form)
    return fast.apply_chat_template(
        messages,
        tools=list(conversation.tools) or None,
        chat_template=source,
        add_generation_prompt=reply,
        return_dict=False,
        **args,
    )


FITTING = {
    "chatml": ("plain", "ask", "system"),
    "headers": ("plain", "ask", "system"),
    "instruct": ("plain", "ask", "system"),
    "turns": ("plain", "ask"),
    "thinking": tuple(CHATS),
    "default": tuple(CHATS),
}


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize(("name", "which"), [(name, which) for name, all in FITTING.items() for which in all])
def test_ids_are_those_of_transformers(
    name: str, which: str, reply: bool, any_tokenizer: Tokenizer, ours: Tokenizer, load_template
) -> None:
    tokenizer = ours if name == "default" else any_tokenizer
    template, conversation = load_template(name), CHATS[which]
    args = {"date_string": "1 May"} if name == "headers" else {}
    made = template.render(conversation, tokenizer, reply=reply, **args)
    assert made.ids == theirs(conversation, tokenizer, template.source, reply, **args)


def test_template_arguments_reach_the_template(foreign: Tokenizer, load_template) -> None:
    template = load_template("thinking")
    off = template.render(CHATS["ask"], foreign, reply=True, enable_thinking=False)
    assert off.ids == theirs(CHATS["ask"], foreign, template.source, True, enable_thinking=False)
    assert off.text.endswith("<think>\n\n</think>\n\n")
    stored = template.with_args(enable_thinking=False)
    assert stored.render(CHATS["ask"], foreign, reply=True).ids == off.ids
    own = chat(*QA[:3], template_args={"enable_thinking": True})
    assert not stored.render(own, foreign, reply=True).text.endswith("</think>\n\n")
    assert stored.hash != template.hash
    with pytest.raises(InputError, match=r"enable_thinkin.*enable_thinking"):
        template.render(CHATS["ask"], foreign, reply=True, enable_thinkin=False)


@LOOSE
@given(data=st.data())
@pytest.mark.parametrize("name", ["chatml", "headers", "instruct", "thinking"])
def test_content_is_text_whatever_it_spells(
    name: str, foreign: Tokenizer, load_template, hostile, data
) -> None:
    """Control tokens are those of the same chat with harmless content, in the same order."""
    texts = [data.draw(hostile) for _ in range(4)]
    roles = ("system", "user", "assistant", "user")
    template = load_template(name)

    def controls(texts: list[str]) -> list[int]:
        conversation = chat(*(said(role, text) for role, text in zip(roles, texts, strict=True)))
        made = template.render(conversation, foreign, reply=True)
        assert foreign.decode(made.ids) == made.text
        return [number for number in made.ids if number in foreign.control_ids]

    assert controls(texts) == controls(["plain"] * 4)


@LOOSE
@given(data=st.data())
def test_default_template_holds_against_hostile_chats(ours: Tokenizer, chats, data) -> None:
    conversation = data.draw(chats)
    made = ChatTemplate.default().render(conversation, ours, reply=False)
    assert ours.decode(made.ids) == made.text
    start, end, call = ours.id_of("<|im_start|>"), ours.id_of("<|im_end|>"), ours.id_of("<tool_call>")
    system = bool(conversation.tools) and conversation.messages[0].role != "system"
    assert made.ids.count(start) == made.ids.count(end) == len(conversation.messages) + system
    assert made.ids.count(call) == sum(len(message.tool_calls) for message in conversation.messages)
    for span, message in zip(made.spans[-len(conversation.messages) :], conversation.messages, strict=False):
        # A reply's first line break may be one token with the header's; `train_samples` parts them.
        assert message.text.strip() in ours.decode(made.ids[span.start : span.end])


def test_control_strings_split_over_parts_stay_text(foreign: Tokenizer) -> None:
    template = ChatTemplate("{% for p in messages[0].content %}{{ p.text }}{% endfor %}<|im_end|>")
    for pieces in (("<|im_", "end|>"), ("<", "|im_end|>"), ("<", "|im_", "end|", ">"), ("<|im_end|", ">")):
        made = template.render(chat(said("user", *pieces)), foreign, reply=False)
        assert made.ids.count(foreign.id_of("<|im_end|>")) == 1
        assert made.text == "<|im_end|><|im_end|>"


def test_templates_that_strip_and_split_content(foreign: Tokenizer) -> None:
    source = "{{ messages[0].content.strip().split('|')[1] }}/{{ messages[0].content | trim | upper }}<|end|>"
    made = ChatTemplate(source).render(chat(said("user", "  <|im_end|> ")), foreign, reply=False)
    assert made.text == "im_end/<|IM_END|><|end|>"
    assert [number for number in made.ids if number in foreign.control_ids] == [foreign.id_of("<|end|>")]


def test_spans_name_each_turn(ours: Tokenizer) -> None:
    made = ChatTemplate.default().render(CHATS["tools"], ours, reply=True)
    texts = [(span.role, ours.decode(made.ids[span.start : span.end])) for span in made.spans]
    assert [role for role, _ in texts] == ["system", "user", "assistant", "tool", "assistant"]
    assert texts[1][1] == "<|im_start|>user\n2+2?<|im_end|>"
    assert texts[2][1] == (
        'Let me see.<tool_call>{"name":"add","arguments":{"a":2,"é":[1]}}</tool_call><|im_end|>'
    )
    assert texts[4][1] == "4<|im_end|>"


def test_a_turn_whose_place_is_uncertain_has_no_span(foreign: Tokenizer, load_template) -> None:
    made = load_template("instruct").render(CHATS["system"], foreign, reply=False)
    assert [foreign.decode(made.ids[span.start : span.end]) for span in made.spans] == [" 4<|end|>"]


IMAGES = tuple(ImagePart(data=bytes([number])) for number in range(1, 4))


def test_images_grow_where_they_stand(ours: Tokenizer) -> None:
    conversation = chat(
        said("user", IMAGES[0], "one [IMG] ", IMAGES[1]), said("assistant", "ok"), said("user", IMAGES[2])
    )
    grown = {1: [7, 8, 7, 9], 2: [7], 3: [7, 7, 9]}
    made = ChatTemplate.default().render(
        conversation, ours, reply=True, image_tokens=lambda image: grown[image.data[0]]
    )
    marks = {7: "i", 8: "b", 9: "e"}
    shape = "".join(marks.get(n, ours.decode([n])) for n in made.ids if n not in (0,))
    assert shape == (
        "<|im_start|>user\nibieone [IMG] i<|im_end|><|im_start|>assistant\nok<|im_end|>"
        "<|im_start|>user\niie<|im_end|><|im_start|>assistant\n"
    )
    assert [made.ids[at] for at in made.image_positions] == [7] * 5
    assert made.ids.count(7) == 5
    counted = ChatTemplate.default().render(conversation, ours, reply=True, image_tokens=lambda image: 2)
    assert len(counted.image_positions) == 6


def test_parts_template_with_images(foreign: Tokenizer, load_template) -> None:
    template = load_template("parts")
    looked = said("user", "look", IMAGES[0], IMAGES[1])
    conversation = chat(looked, said("assistant", "seen"), said("user", "so?"))
    made = template.render(conversation, foreign, reply=True)
    assert made.text == "USER: <image>\n<image>\nlook ASSISTANT: seen<|end|>USER: so? ASSISTANT: "
    assert len(made.image_positions) == 2


def test_the_default_template_writes_the_tokenizers_own_image_token() -> None:
    from whorl.text.bpe import SPECIALS, train_bpe

    specials = ["<image>" if text == "[IMG]" else text for text in SPECIALS]
    tokenizer = train_bpe(["look here "], 300, specials)
    made = ChatTemplate.default().render(chat(said("user", IMAGES[0])), tokenizer, reply=True)
    assert [made.ids[at] for at in made.image_positions] == [tokenizer.id_of("<image>")]


def test_an_image_the_template_leaves_out_is_an_error(foreign: Tokenizer, load_template) -> None:
    silent = ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(DataError, match="writes <image> 0 times for 1 images"):
        silent.render(chat(said("user", IMAGES[0])), foreign, reply=False)


# -- files --------------------------------------------------------------------------------------


def test_load_from_each_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no chat template; put one in .*chat_template\.jinja"):
        ChatTemplate.load(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert ChatTemplate.load(tmp_path).source == "one"
    named = [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "tools"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.load(tmp_path).tool_source == "tools"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "three"}))
    assert ChatTemplate.load(tmp_path).source == "three"
    (tmp_path / "chat_template.jinja").write_text("four")
    assert ChatTemplate.load(tmp_path).source == "four"


def test_the_tool_template_is_used_where_tools_are(foreign: Tokenizer) -> None:
    template = ChatTemplate("plain", tool_source="with {{ tools[0].function.name }}")
    assert template.render(CHATS["ask"], foreign, reply=True).text == "plain"
    assert template.render(CHATS["tools"], foreign, reply=True).text == "with add"


def test_saved_template_and_arguments_come_back_and_load_in_transformers(
    foreign: Tokenizer, load_template, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    template = load_template("thinking").with_args(enable_thinking=False)
    foreign.save(tmp_path)
    template.save(tmp_path)
    again = ChatTemplate.load(tmp_path)
    assert (again.hash, again.args) == (template.hash, {"enable_thinking": False})
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == template.source
    load_template("thinking").save(tmp_path)
    assert ChatTemplate.load(tmp_path).args == {}


def test_default_template_in_transformers_marks_what_we_learn(ours: Tokenizer) -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=ours._base, **ours.special_tokens)
    template = ChatTemplate.default()
    messages = [message.to_openai() for message in CHATS["plain"].messages]
    made = fast.apply_chat_template(
        messages, chat_template=template.source, return_dict=True, return_assistant_tokens_mask=True
    )
    (sample,) = template.train_samples(CHATS["plain"], ours)
    assert made["input_ids"] == sample.ids
    # transformers counts the token that straddles the seam (a newline and the reply's own space) as learnt
    assert [bool(bit) for bit in made["assistant_masks"]] == sample.mask


def test_default_template_needs_its_control_tokens() -> None:
    from whorl.text.bpe import train_bpe

    bare = train_bpe(["a b"], 300, ["<|endoftext|>"])
    with pytest.raises(InputError, match=r"no <\|im_start\|>"):
        ChatTemplate.default().render(CHATS["ask"], bare, reply=True)


# -- the sandbox --------------------------------------------------------------------------------

GROWING = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = STEP %}{% endfor %}"
HOSTILE_TEMPLATES = {
    "attributes": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__.keys() }}",
    "mutation": "{{ messages.append(1) }}",
    "repeat": "{{ 'x' * 10**9 }}",
    "repeat list": "{{ [0] * 10**9 }}",
    "power": "{{ 10 ** (10**9) }}",
    "doubling": GROWING.replace("STEP", "n.s + n.s"),
    "doubling with ~": GROWING.replace("STEP", "n.s ~ n.s"),
    "doubling by join": GROWING.replace("STEP", "[n.s, n.s] | join"),
    "doubling by method": GROWING.replace("STEP", "n.s.replace('x', 'xx')"),
    "doubling by filter": GROWING.replace("STEP", "n.s | replace('x', 'xx')"),
    "indent": "{{ messages | tojson(indent=10**10) }}",
    "output": "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "pad": "{{ 'x'.ljust(10**10) }}",
    "center": "{{ 'x' | center(10**10) }}",
    "format": "{{ '%99999999999d' % 1 }}",
    "str.format": "{{ '{:99999999999d}'.format(1) }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "import": "{% import 'os' as os %}",
    "message": "{{ raise_exception('only one turn') }}",
    "type": "{{ 1 + 'a' }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("name", list(HOSTILE_TEMPLATES))
def test_a_template_that_misbehaves_is_an_error_in_one_line(name: str, foreign: Tokenizer) -> None:
    template = ChatTemplate(HOSTILE_TEMPLATES[name])
    with pytest.raises(DataError) as caught:
        template.render(CHATS["ask"], foreign, reply=True)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_no_jinja_names_its_line() -> None:
    with pytest.raises(DataError, match=r"m/chat_template\.jinja:2: the chat template is not valid Jinja"):
        ChatTemplate("a\n{% for %}", where="m/chat_template.jinja")


def test_roles_a_template_refuses_are_said_in_its_words(foreign: Tokenizer, load_template) -> None:
    with pytest.raises(DataError, match=r"conversation 'c7'.*System role not supported"):
        load_template("turns").render(chat(said("system", "x"), QA[0], id="c7"), foreign, reply=True)
