from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.base.errors import DataError, InputError
from whorl.text.tokenizer import Tokenizer

LOOSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def saved(foreign: Tokenizer, tmp_path: Path) -> Path:
    foreign.save(tmp_path)
    return tmp_path


@LOOSE
@given(data=st.data())
def test_content_never_holds_a_control_token(any_tokenizer: Tokenizer, hostile, data) -> None:
    text = data.draw(hostile)
    ids = any_tokenizer.encode(text)
    unknown = {any_tokenizer.id_of("<unk>")} if any_tokenizer.has("<unk>") else set()
    assert not set(ids) & (any_tokenizer.control_ids - unknown)  # a character it cannot spell is <unk>
    assert any_tokenizer.encode_batch([text, "x"])[0] == ids


@LOOSE
@given(data=st.data())
def test_byte_level_content_comes_back(foreign: Tokenizer, ours: Tokenizer, hostile, data) -> None:
    text = data.draw(hostile)
    assert foreign.decode(foreign.encode(text)) == text
    assert ours.decode(ours.encode(text)) == text


@LOOSE
@given(data=st.data())
def test_text_without_control_strings_encodes_as_the_library_does(any_tokenizer: Tokenizer, data) -> None:
    text = data.draw(st.text(alphabet="ab cdef\n (=):,.1é日", max_size=40))
    assert any_tokenizer.encode(text) == any_tokenizer.encode_control(text)


@LOOSE
@given(data=st.data())
def test_stream_gives_the_same_text_as_decode(ours: Tokenizer, data) -> None:
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30))
    stream = ours.stream(skip_control=False)
    assert "".join([*map(stream.push, ids), stream.finish()]) == ours.decode(ids)


def test_stream_holds_back_an_unfinished_character(ours: Tokenizer) -> None:
    ids = ours.encode("a😀")
    stream = ours.stream()
    given = [stream.push(number) for number in ids]
    assert given[0] == "a"
    assert given[-1] == "😀"
    assert not any("\ufffd" in text for text in given)
    assert stream.push(ids[1]) == ""
    assert stream.finish() == "\ufffd"


def test_stream_keeps_spaces_and_skips_control(any_tokenizer: Tokenizer) -> None:
    ids = any_tokenizer.encode("def hello world")
    stream = any_tokenizer.stream()
    got = "".join([*map(stream.push, [*ids, any_tokenizer.end_ids[0]]), stream.finish()])
    assert got == any_tokenizer.decode(ids)


def test_stream_is_bounded_on_noise(ours: Tokenizer) -> None:
    lead = ours.encode("\u00e9")[0]  # half of a two-byte character, for ever
    stream = ours.stream()
    given = "".join(stream.push(lead) for _ in range(500))
    assert len(given) >= 500 - stream.WINDOW


def test_control_tokens_are_markup_or_special(any_tokenizer: Tokenizer) -> None:
    assert {"<|im_end|>", "<tool_call>"} <= set(any_tokenizer.controls)
    assert "        " not in any_tokenizer.controls  # a run of spaces is text


def test_markup_the_model_reaches_by_itself_is_text(merging: Tokenizer) -> None:
    assert "<think>" not in merging.controls  # its merges spell it: ordinary, like Gemma's <table>
    assert "<|im_end|>" in merging.controls
    assert merging.id_of("<|im_end|>") in merging._base.encode("<|im_end|>").ids


def test_transformers_reads_what_save_writes(foreign: Tokenizer, ours: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    text = "<|im_start|>user\nx = 12345\n\n    return é<|im_end|> <think>"
    for name, tokenizer in (("foreign", foreign), ("ours", ours)):
        tokenizer.save(tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode_control(text)
        assert theirs.decode(tokenizer.encode_control(text)) == text
        assert theirs.eos_token_id == tokenizer.id_of(tokenizer.special_tokens["eos_token"])


def test_load_gives_back_what_was_saved(foreign: Tokenizer, saved: Path) -> None:
    again = Tokenizer.load(saved)
    assert again.hash == foreign.hash
    assert again.end_ids == foreign.end_ids
    assert again.bos_id == foreign.bos_id
    assert again.controls == foreign.controls


def test_every_end_token_of_the_generation_config_ends(foreign: Tokenizer, saved: Path) -> None:
    ends = [foreign.id_of("<|eot_id|>"), foreign.id_of("<|im_end|>")]
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 1}))
    again = Tokenizer.load(saved)
    assert again.end_ids == (*ends, foreign.id_of("<|end|>"))
    again.save(saved)
    assert json.loads((saved / "generation_config.json").read_text())["temperature"] == 1


def test_special_tokens_written_as_objects(foreign: Tokenizer, saved: Path) -> None:
    (saved / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|eot_id|>"}}))
    (saved / "generation_config.json").unlink()
    assert Tokenizer.load(saved).end_ids == (foreign.id_of("<|eot_id|>"),)


def test_bad_input_is_named(saved: Path, foreign: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json; make one with"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="surrogate"):
        foreign.encode("\ud800")
    with pytest.raises(DataError, match="surrogate"):
        foreign.encode_batch(["a", "\ud800"])
    with pytest.raises(InputError, match="no token 'zzz'"):
        foreign.id_of("zzz")
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": 10**6}))
    with pytest.raises(DataError, match="eos_token_id 1000000 is not in"):
        Tokenizer.load(saved)
    (saved / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(saved)
