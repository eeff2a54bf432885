"""The forms preference pairs come in, what is learnt of them, and what is said of those that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.post.preferences import IMAGES, TEXT, picture, write
from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, Message, ToolCall
from whorl.post.pair_samples import Maker, pair_samples
from whorl.post.pairs import Pair, read_pair, read_pairs
from whorl.post.preview import preview_pairs
from whorl.text.bpe import train_bpe
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

ASKED = {"role": "user", "content": "Best?"}
GOOD, BAD = {"role": "assistant", "content": "Rome."}, {"role": "assistant", "content": "Oslo."}
SAME: list[dict[str, Any]] = [
    {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [ASKED], "chosen": GOOD, "rejected": "Oslo.", "score_chosen": 9, "source": "x"},
    {"messages": [ASKED], "chosen": "Rome.", "rejected": "Oslo."},
    {"prompt": "Best?", "chosen": "Rome.", "rejected": "Oslo."},
    {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    {"prompt": "Best?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    {"conversations": [{"from": "human", "value": "Best?"}], "chosen": {"from": "gpt", "value": "Rome."},
     "rejected": {"from": "gpt", "value": "Oslo."}},
    {"instruction": "Best?", "input": "", "chosen": "Rome.", "rejected": "Oslo."},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], 360)


@pytest.mark.parametrize("number", range(len(SAME)))
def test_every_form_is_the_same_pair(number: int) -> None:
    pair, first = read_pair(SAME[number], "x:1"), read_pair(SAME[0], "x:1")
    assert (pair.prompt.messages, pair.chosen, pair.rejected) == (
        first.prompt.messages, first.chosen, first.rejected,
    )  # fmt: skip
    assert pair.conversation("rejected").messages[-1].text == "Oslo."


def test_tools_system_images_and_turns_are_kept(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture((255, 0, 0)).data)
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    lines = [
        {"system": "Be short.", "prompt": [{"role": "user", "content": [{"type": "image"}, "What?"]}],
         "images": ["red.png"], "chosen": "Red.", "rejected": "Blue.", "id": "seven"},
        {"prompt": [ASKED, GOOD, ASKED], "tools": [tool],
         "chosen": [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "3"}, GOOD],
         "rejected": BAD, "chat_template_kwargs": {"enable_thinking": False}},
        {"conversations": [{"from": "human", "value": "<image>What?"}], "images": ["red.png"],
         "chosen": {"from": "gpt", "value": "Red."}, "rejected": {"from": "gpt", "value": "Blue."}},
        {"chosen": [ASKED, GOOD, ASKED, GOOD], "rejected": [ASKED, GOOD, ASKED, BAD]},
    ]  # fmt: skip
    first, second, third, fourth = read_pairs(write(tmp_path / "pairs.jsonl", lines))
    assert [one.role for one in first.prompt.messages] == ["system", "user"] and first.prompt.id == "seven"
    assert first.prompt.images[0].data == third.prompt.images[0].data == picture((255, 0, 0)).data
    assert second.prompt.tools and second.prompt.template_args == {"enable_thinking": False}
    assert second.chosen[0].tool_calls == (ToolCall(name="add", arguments={"a": 1}, id="1"),)
    assert len(fourth.prompt.messages) == 3 and first.where.endswith("pairs.jsonl:1")


BROKEN: list[tuple[Any, str]] = [
    ({"prompt": "Best?", "chosen": "Rome.", "rejected": "Rome."}, "chosen and rejected are identical"),
    ({"prompt": "Best?", "chosen": "Rome."}, "rejected is missing (fields are chosen, prompt)"),
    ({"prompt": "Best?", "choosen": "Rome.", "rejected": "x"}, "chosen is missing"),
    ({"chosen": "Rome.", "rejected": "Oslo."}, "prompt is missing"),
    ({"prompt": "", "chosen": "Rome.", "rejected": "Oslo."}, "prompt is empty"),
    ({"prompt": 3, "chosen": "Rome.", "rejected": "Oslo."}, "prompt must be a text or a list"),
    ({"prompt": [{"role": "boss", "content": "x"}], "chosen": "a", "rejected": "b"},
     "prompt[0].role: 'boss'"),
    ({"prompt": "Best?", "chosen": [{"role": "assistant", "content": 3}], "rejected": "b"},
     "chosen: messages[0].content: must be a string"),
    ({"prompt": "Best?", "chosen": 3, "rejected": "b"}, "chosen must be a text, a message"),
    ({"prompt": [ASKED, GOOD], "chosen": "a", "rejected": "b"}, "prompt ends with the assistant's turn"),
    ({"chosen": [ASKED, GOOD], "rejected": "b", "prompt": "Best?"}, "chosen is a whole conversation and"),
    ({"chosen": [ASKED, GOOD], "rejected": [{"role": "user", "content": "?"}, BAD]}, "have no common prefix"),
    ({"prompt": "Other?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, "begin with the prompt"),
    ({"chosen": [ASKED, GOOD, ASKED], "rejected": [ASKED, BAD]}, "chosen ends with the user's turn"),
    ({"chosen": [ASKED, GOOD], "rejected": [ASKED]}, "rejected has no turn after the prompt"),
    ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "images": [], "chosen": "a",
      "rejected": "b"}, "images: 0 given for 1 parts"),
    (["x"], "must be a JSON object, not list"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "said"), BROKEN)
def test_a_broken_pair_is_one_line_with_its_place(tmp_path: Path, record: Any, said: str) -> None:
    path = write(tmp_path / "pairs.jsonl", [SAME[0], record])
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        list(read_pairs(path))
    assert f"{path}:2: " in str(caught.value) and "\n" not in str(caught.value)


def test_only_the_replies_after_the_prompt_are_learnt(tokenizer: Tokenizer) -> None:
    record = {"prompt": [ASKED, GOOD, ASKED], "chosen": "I know it well.", "rejected": "No idea <|im_end|>"}
    template = ChatTemplate.default()
    pair = read_pair(record, "x:1")
    (sample,), report = pair_samples([pair], Maker(tokenizer, template), length=500, max_length=250)
    served = template.render(pair.prompt, tokenizer, reply=True).ids
    for half, text in ((sample.chosen, "I know it well."), (sample.rejected, "No idea <|im_end|>")):
        assert half.tokens[: len(served)].tolist() == served, "what stands before is what will be served"
        assert not half.weights[: len(served)].any() and (half.weights[len(served) :] > 0).all()
        assert half.weights.sum() == pytest.approx(0.5)
        assert tokenizer.decode(half.tokens[len(served) :].tolist()) == text + "<|im_end|>"
    assert report.lengths == [len(sample.chosen.tokens), len(sample.rejected.tokens)]


def test_several_replies_of_a_side_are_all_learnt(tokenizer: Tokenizer) -> None:
    call = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": 1}),))
    chosen = (call, Message(role="tool", content=("3",)), Message(role="assistant", content=("It is 3.",)))
    asked = Conversation(messages=(Message(role="user", content=("1+2?",)),))
    pair = Pair(
        prompt=asked, chosen=chosen, rejected=(Message(role="assistant", content=("4",)),), where="x:1"
    )
    (sample,), _ = pair_samples([pair], Maker(tokenizer, ChatTemplate.default()), length=500, max_length=250)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], sample.chosen.weights > 0, [0]]))).reshape(-1, 2)
    texts = [tokenizer.decode(sample.chosen.tokens[a:b].tolist()) for a, b in runs]
    assert len(texts) == 2 and "add" in texts[0] and texts[1] == "It is 3.<|im_end|>"
    assert sample.chosen.weights.sum() == pytest.approx(0.5)


def test_an_images_patches_are_in_both_replies(tokenizer: Tokenizer) -> None:
    shown = {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": picture((1, 2, 3)).to_data_uri()}},
        {"type": "text", "text": "Town?"}]}  # fmt: skip
    pair = read_pair({"prompt": [shown], "chosen": "Rome.", "rejected": "Oslo."}, "x:1")
    maker = Maker(tokenizer, ChatTemplate.default(), IMAGES)
    (sample,), _ = pair_samples([pair], maker, length=500, max_length=250)
    assert sample.chosen.pixels is not None and sample.rejected.pixels is not None
    np.testing.assert_array_equal(sample.chosen.pixels, sample.rejected.pixels)
    with pytest.raises(InputError, match=r"x:1 has images, but the model is text-only"):
        pair_samples([pair], Maker(tokenizer, ChatTemplate.default()), length=500, max_length=250)


def test_what_does_not_fit_stops_is_cut_or_dropped(tokenizer: Tokenizer) -> None:
    short = read_pair({"prompt": "Town?", "chosen": "Rome.", "rejected": "Oslo."}, "x:1")
    long = read_pair({"prompt": "Town?", "chosen": "town " * 60, "rejected": "Oslo."}, "x:2")
    maker = Maker(tokenizer, ChatTemplate.default())
    with pytest.raises(InputError, match=r"2 of 100 pairs do not fit \(the first: x:2\)"):
        pair_samples([short] * 98 + [long] * 2, maker, length=120, max_length=80)
    _, few = pair_samples([short] * 199 + [long], maker, length=120, max_length=80)
    assert few.dropped == 1
    (cut,), report = pair_samples([long], maker, length=120, max_length=40, too_long="cut")
    assert report.cut == 1 and len(cut.chosen.tokens) == 40 and cut.chosen.weights.sum() == pytest.approx(0.5)
    together, _ = pair_samples([long], maker, length=64, max_length=80, too_long="cut")
    assert together[0].length == 64 and len(together[0].rejected.tokens) < 40, "the longer one gives way"
    assert pair_samples([long, short], maker, length=120, max_length=80, too_long="drop")[1].dropped == 1


def test_the_preview_shows_both_replies(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    from whorl.base.progress import console

    console.cache_clear()
    pair = read_pair({"prompt": "Town?", "chosen": "Rome.", "rejected": "Oslo."}, "x:1")
    samples, report = pair_samples(
        [pair] * 3, Maker(tokenizer, ChatTemplate.default()), length=120, max_length=80
    )
    preview_pairs(samples, report, tokenizer)
    said = capsys.readouterr().err
    console.cache_clear()
    assert "+ " in said and "[[Rome.<|im_end|>]]" in said and "[[Oslo.<|im_end|>]]" in said
    assert "3 pairs of 3 read" in said


def test_texts_a_template_makes_equal_are_refused(tokenizer: Tokenizer) -> None:
    source = ChatTemplate.default().source
    assert "content" in source
    pair = read_pair({"prompt": "Town?", "chosen": "Rome.", "rejected": "Rome. "}, "x:1")
    trimming = ChatTemplate(
        "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
        "{{ message.content | trim }}<|im_end|>\n{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    with pytest.raises(DataError, match="x:1: chosen and rejected are identical after rendering"):
        pair_samples([pair], Maker(tokenizer, trimming), length=120, max_length=80)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(SAME[0]) + '\n{"prompt": \n')
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: not valid JSON"):
        list(read_pairs(tmp_path / "pairs.jsonl"))
