"""Pairs with traces: the tokens that were sampled are what is learnt, where they are this model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.post.preferences import IMAGES, picture, save_tiny, settings, write
from whorl.base.nouns import Conversation, Message, ToolCall
from whorl.data.batch import Sample
from whorl.post.dpo import dpo
from whorl.post.pair_samples import Maker, PairReport, PairSample, pair_samples
from whorl.post.pairs import read_pairs
from whorl.text.images import image_tokens
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

ASKED = "The capital of Peru?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sampled") / "model", vision=True)


@pytest.fixture(scope="module")
def maker(model: Path) -> Maker:
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    tokenizer.end_ids = template.end_ids(tokenizer)
    return Maker(tokenizer, template, IMAGES)


def trace(maker: Maker, asked: list[Message], reply: str, **more: Any) -> dict[str, Any]:
    """As a server keeps it, the reply in tokens of one letter each: no tokenizer would write it so."""
    tokens = [id for letter in reply for id in maker.tokenizer.encode(letter)] + [maker.tokenizer.end_ids[0]]
    talk = Conversation(messages=tuple(asked))
    expand = image_tokens(maker.tokenizer, IMAGES) if talk.images else None
    prompt = maker.template.render(talk, maker.tokenizer, reply=True, image_tokens=expand)
    return {"prompt_ids": prompt.ids, "token_ids": tokens, "template_hash": maker.template.hash,
            "finish": "stop"} | more  # fmt: skip


def user(text: str = ASKED) -> list[Message]:
    return [Message(role="user", content=(text,))]


def files(folder: Path, traces: dict[str, dict[str, Any]], **pair: Any) -> Path:
    """An export: pairs, and the traces beside them."""
    record = {
        "id": "one", "prompt": [message.to_openai() for message in user()], "chosen": "No idea.",
        "rejected": "I know it well.", "chosen_traces": ["c"], "rejected_traces": ["r"],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    lines = [{"trace": id, "conversation": "x", **one} for id, one in traces.items()]
    (folder / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return write(folder / "preferences.jsonl", [record | pair])


def made(path: Path, maker: Maker) -> tuple[PairSample, PairReport]:
    (sample,), report = pair_samples(read_pairs(path), maker, length=1024, max_length=256)
    return sample, report


def learnt(sample: Sample) -> list[int]:
    return [int(id) for id, weight in zip(sample.tokens, sample.weights, strict=True) if weight > 0]


def test_what_was_sampled_is_learnt_and_not_rendered_again(tmp_path: Path, maker: Maker) -> None:
    traces = {"c": trace(maker, user(), "No idea."), "r": trace(maker, user(), "I know it well.")}
    sample, report = made(files(tmp_path, traces), maker)
    for side, id in ((sample.chosen, "c"), (sample.rejected, "r")):
        assert side.tokens.tolist() == traces[id]["prompt_ids"] + traces[id]["token_ids"]
        assert learnt(side) == traces[id]["token_ids"] and side.weights.sum() == pytest.approx(0.5)
    assert (report.sampled, report.rendered) == (2, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"template_hash": "of another template"}, {"tokenizer_hash": "of another tokenizer"},
        {"token_ids": [5, 6, 7]}, {"token_ids": []}, {"prompt_ids": "none"}, {"token_ids": [10**6]},
        {"finish": "stopped", "end": False},
    ],
)  # fmt: skip
def test_what_is_not_this_models_is_rendered(tmp_path: Path, maker: Maker, other: dict[str, Any]) -> None:
    chosen = trace(maker, user(), "No idea.") | other
    if not chosen.pop("end", True):
        chosen["token_ids"] = chosen["token_ids"][:-1]  # its turn has no end
    traces = {"c": chosen, "r": trace(maker, user(), "I know it well.")}
    sample, report = made(files(tmp_path, traces), maker)
    rendered, _ = made(files(tmp_path / "none", {}, chosen_traces=None), maker)
    assert sample.chosen.tokens.tolist() == rendered.chosen.tokens.tolist()
    assert sample.rejected.tokens.tolist() == traces["r"]["prompt_ids"] + traces["r"]["token_ids"]
    assert (report.sampled, report.rendered) == (1, 1)


def test_the_right_tokenizer_is_known_by_its_hash(tmp_path: Path, maker: Maker) -> None:
    traces = {
        "c": trace(maker, user(), "No idea.", tokenizer_hash=maker.tokenizer.hash),
        "r": trace(maker, user(), "Quite another reply."),
    }
    _, report = made(files(tmp_path, traces), maker)
    assert (report.sampled, report.rendered) == (1, 1), "a trace of other words is not this reply's"


def test_a_reply_that_was_cut_off_does_not_learn_to_end_there(tmp_path: Path, maker: Maker) -> None:
    cut = trace(maker, user(), "No idea.", finish="length")
    cut["token_ids"] = cut["token_ids"][:-1]
    sample, report = made(files(tmp_path, {"c": cut}), maker)
    assert learnt(sample.chosen) == cut["token_ids"] and report.sampled == 1


def test_calls_between_replies_are_read_and_not_learnt(tmp_path: Path, maker: Maker) -> None:
    call = Message(role="assistant", tool_calls=(ToolCall(name="find", arguments={"q": "Peru"}, id="1"),))
    result = Message(role="tool", content=("Lima",), tool_call_id="1")
    first = trace(maker, user(), "")
    first["token_ids"] = [*maker.template.render(
        Conversation(messages=(*user(), call)), maker.tokenizer, reply=False
    ).ids[len(first["prompt_ids"]):]]  # fmt: skip
    end = maker.tokenizer.end_ids[0]
    first["token_ids"] = first["token_ids"][: first["token_ids"].index(end) + 1]
    second = trace(maker, [*user(), call, result], "It is Lima.")
    chosen = [message.to_openai() for message in (call, result)] + [
        {"role": "assistant", "content": "It is Lima."}
    ]
    path = files(tmp_path, {"c1": first, "c2": second}, chosen=chosen, chosen_traces=["c1", "c2"])
    sample, report = made(path, maker)
    assert learnt(sample.chosen) == first["token_ids"] + second["token_ids"]
    assert report.sampled == 1
    second["prompt_ids"][3] += 1  # what was read then is not what the second reply was told of it
    path = files(tmp_path, {"c1": first, "c2": second}, chosen=chosen, chosen_traces=["c1", "c2"])
    _, report = made(path, maker)
    assert report.sampled == 0


def test_images_are_where_the_prompt_has_them(tmp_path: Path, maker: Maker) -> None:
    shown = [Message(role="user", content=(picture((9, 0, 0)), ASKED))]
    traces = {"c": trace(maker, shown, "No idea.")}
    path = files(tmp_path, traces, prompt=[message.to_openai() for message in shown])
    sample, report = made(path, maker)
    assert report.sampled == 1 and sample.chosen.pixels is not None
    assert sample.chosen.positions.tolist() == sample.rejected.positions.tolist() != []
    assert learnt(sample.chosen) == traces["c"]["token_ids"]


def test_dpo_says_how_many(
    tmp_path: Path, maker: Maker, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, {"c": trace(maker, user(), "No idea.")})
    dpo(settings(model, path, tmp_path, 1))
    assert "1 replies are learnt from their sampled tokens, 1 are rendered" in capfd.readouterr().err
