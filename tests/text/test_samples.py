from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.base.errors import DataError
from whorl.base.nouns import Conversation, ImagePart, Message, ToolCall
from whorl.text.forms import read_conversations
from whorl.text.reply import parse_reply
from whorl.text.samples import TrainSample
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

LOOSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA = Path(os.environ.get("WHORL_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def said(role: str, *content: str | ImagePart, **fields) -> Message:
    return Message(role=role, content=content, **fields)


def chat(*messages: Message, **fields) -> Conversation:
    return Conversation(messages=messages, **fields)


def learnt(sample: TrainSample, tokenizer: Tokenizer) -> list[str]:
    """The texts of the runs of learnt tokens."""
    runs: list[list[int]] = []
    before = False
    for number, bit in zip(sample.ids, sample.mask, strict=True):
        if bit and not before:
            runs.append([])
        if bit:
            runs[-1].append(number)
        before = bit
    return [tokenizer.decode(run) for run in runs]


TALK = chat(
    said("system", "S"),
    said("user", "Hi"),
    said("assistant", "Hello"),
    said("user", "2+2"),
    said("assistant", "4"),
)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("default", [["Hello<|im_end|>", "4<|im_end|>"]]),
        ("chatml", [["Hello<|im_end|>", "4<|im_end|>"]]),
        ("headers", [["Hello<|eot_id|>"], ["4<|eot_id|>"]]),  # GPT-2's split reads "\n\nHello" otherwise
        ("instruct", [[" Hello<|end|>"], [" 4<|end|>"]]),  # the system prompt moves: each reply alone
        ("thinking", [["<think>\n\n</think>\n\nHello<|im_end|>"], ["<think>\n\n</think>\n\n4<|im_end|>"]]),
        ("parts", [["Hello<|end|>", "4<|end|>"]]),
    ],
)
def test_what_is_learnt(name: str, texts, foreign: Tokenizer, ours: Tokenizer, load_template) -> None:
    tokenizer = ours if name == "default" else foreign
    args = {"date_string": "1 May"} if name == "headers" else {}
    samples = load_template(name).train_samples(TALK, tokenizer, **args)
    assert [learnt(sample, tokenizer) for sample in samples] == texts
    assert [reply for sample in samples for reply in sample.replies] == [2, 4]


@pytest.mark.parametrize("name", ["chatml", "headers", "instruct", "thinking"])
def test_every_reply_is_learnt_in_the_prompt_it_is_served_with(
    name: str, any_tokenizer: Tokenizer, load_template
) -> None:
    template = load_template(name)
    args = {"date_string": "1 May"} if name == "headers" else {}
    samples = template.train_samples(TALK, any_tokenizer, **args)
    for sample in samples:
        for number in sample.replies:
            prompt = chat(*TALK.messages[:number])
            served = template.render(prompt, any_tokenizer, reply=True, **args).ids
            assert sample.ids[: len(served)] == served
            assert sample.mask[len(served)]
            assert not sample.mask[len(served) - 1]


def test_thinking_is_learnt_in_its_own_turn_and_gone_from_later_ones(
    foreign: Tokenizer, ours: Tokenizer, load_template
) -> None:
    first = said("assistant", "Hello", reasoning="greet")
    talk = chat(said("user", "Hi"), first, said("user", "2+2"), said("assistant", "4", reasoning="sum"))
    one, two = load_template("thinking").train_samples(talk, foreign)
    assert learnt(one, foreign) == ["<think>\ngreet\n</think>\n\nHello<|im_end|>"]
    assert learnt(two, foreign) == ["<think>\nsum\n</think>\n\n4<|im_end|>"]
    assert "greet" not in two.text
    (whole,) = ChatTemplate.default().train_samples(talk, ours)
    assert learnt(whole, ours) == ["<think>greet</think>Hello<|im_end|>", "<think>sum</think>4<|im_end|>"]


def test_a_reply_that_merges_into_its_header_is_learnt_apart(ours: Tokenizer) -> None:
    first = (said("user", "code"), said("assistant", "    x = 1"))
    talk = chat(*first, said("user", "more"), said("assistant", "y"))
    samples = ChatTemplate.default().train_samples(talk, ours)
    assert [learnt(sample, ours) for sample in samples] == [["    x = 1<|im_end|>"], ["y<|im_end|>"]]


def test_images_go_with_the_replies_that_saw_them(ours: Tokenizer, foreign: Tokenizer, load_template) -> None:
    first, second = ImagePart(data=b"1"), ImagePart(data=b"2")
    talk = chat(
        said("user", first, "?"), said("assistant", "a"), said("user", second, second), said("assistant", "b")
    )
    (sample,) = ChatTemplate.default().train_samples(talk, ours, image_tokens=lambda image: 3)
    assert sample.images == (first, second, second)
    assert len(sample.image_positions) == 9
    assert {sample.ids[at] for at in sample.image_positions} == {ours.id_of("[IMG]")}
    assert not any(sample.mask[at] for at in sample.image_positions)


@LOOSE
@given(data=st.data())
def test_masks_cover_what_the_assistant_wrote_and_nothing_else(ours: Tokenizer, chats, data) -> None:
    """Each learnt run, read back, is the assistant's message; nothing else is learnt."""
    conversation = data.draw(chats)
    replies = [message for message in conversation.messages if message.role == "assistant"]
    runs: list[list[int]] = []
    for sample in ChatTemplate.default().train_samples(conversation, ours):
        assert ours.decode(sample.ids) == sample.text
        before = False
        for number, bit in zip(sample.ids, sample.mask, strict=True):
            runs += [[]] if bit and not before else []
            if bit:
                runs[-1].append(number)
            before = bit
    assert len(runs) == len(replies)
    for run, message in zip(runs, replies, strict=True):
        assert run[-1] == ours.id_of("<|im_end|>")
        got = parse_reply(run, ours)
        assert (got.text, got.tool_calls) == (message.text, message.tool_calls)
        # A line break right after <think> is read as the template's, which writes thinking on its own lines.
        spaced = message.reasoning and message.reasoning[0] == "\n"
        assert spaced or got.reasoning == message.reasoning


# -- refusals -----------------------------------------------------------------------------------


def refusal(conversation: Conversation, tokenizer: Tokenizer, template: ChatTemplate, **args) -> str:
    with pytest.raises(DataError) as caught:
        template.train_samples(conversation, tokenizer, where="chats.jsonl:3", **args)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("chats.jsonl:3")
    return str(caught.value)


def test_what_cannot_be_learnt_is_refused_with_its_place(foreign: Tokenizer, load_template) -> None:
    chatml, thinking = load_template("chatml"), load_template("thinking")
    ask, answer = said("user", "?"), said("assistant", "x")
    assert "no assistant message" in refusal(chat(ask), foreign, chatml)
    assert "message 2 (assistant) is empty" in refusal(chat(ask, said("assistant", " ")), foreign, chatml)
    call = said("assistant", "x", tool_calls=(ToolCall(name="add", arguments={}),))
    assert "does not mark its tool call" in refusal(chat(ask, call), foreign, chatml)
    thought = said("assistant", "x", reasoning="because")
    assert "does not mark its reasoning" in refusal(chat(ask, thought), foreign, chatml)
    off = refusal(chat(ask, thought), foreign, thinking, enable_thinking=False)
    assert "generation prompt differs" in off
    assert "enable_thinking" in off
    endless = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert "generation prompt differs" not in refusal(chat(ask, answer), foreign, endless)
    assert "no end token" in refusal(chat(ask, answer), foreign, endless)


def test_text_that_does_not_come_back_is_refused(load_template) -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    vocabulary = {"<unk>": 0, "a": 1, "user": 2, "assistant": 3}
    base = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    base.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer(base)
    tokenizer.end_ids = (tokenizer.id_of("<|im_end|>"),)
    talk = chat(said("user", "a"), said("assistant", "b"))
    problem = refusal(talk, tokenizer, load_template("chatml"))
    assert "does not survive tokenisation: 'b<|im_end|>" in problem
    kept = load_template("chatml").train_samples(chat(said("user", "a"), said("assistant", "a")), tokenizer)
    assert len(kept) == 1


def test_a_base_model_learns_the_templates_own_end(foreign: Tokenizer, load_template) -> None:
    """A base model's configuration knows only the end of a document."""
    base = Tokenizer(foreign._base, special_tokens=foreign.special_tokens)
    assert base.end_ids == (foreign.id_of("<|end|>"),)
    template = load_template("chatml")
    assert template.end_ids(base) == (foreign.id_of("<|im_end|>"), foreign.id_of("<|end|>"))
    (sample,) = template.train_samples(TALK, base)
    assert learnt(sample, base) == ["Hello<|im_end|>", "4<|im_end|>"]


@pytest.mark.skipif(not (DATA / "conversations.json").is_file(), reason="conversations.json is not here")
def test_real_chats_all_become_samples(ours: Tokenizer) -> None:
    path = DATA / "conversations.json"
    template = ChatTemplate.default()
    records = json.loads(path.read_text())
    for record, conversation in zip(records, read_conversations(path), strict=True):
        (sample,) = template.train_samples(conversation, ours)
        answers = [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]
        assert learnt(sample, ours) == [answer + "<|im_end|>" for answer in answers]
