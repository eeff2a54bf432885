"""Tokenizers of every make, trained in a moment on text written here, and templates in the shapes
that published models use."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

import whorl.text.forms
import whorl.text.tokenizer
from whorl.base.nouns import Conversation, Message, ToolCall
from whorl.text.bpe import train_bpe
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = [inspect.getsource(whorl.text.tokenizer), inspect.getsource(whorl.text.forms)]
CONTROLS = (
    "<|begin|>",
    "<|end|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<image>",
)
PLAIN_ADDED = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # control, though not "special"


def _wrap(base: tokenizers.Tokenizer) -> Tokenizer:
    base.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROLS])
    base.add_tokens([AddedToken(text, normalized=False, special=False) for text in PLAIN_ADDED])
    base.add_tokens([AddedToken("        ", normalized=False)])  # a run of spaces: text, not control
    named = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "image_token": "<image>"}
    made = Tokenizer(base, special_tokens=named)
    ends = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
    made.end_ids = tuple(made.id_of(text) for text in ends)
    return made


def byte_level() -> Tokenizer:
    base = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=alphabet)
    base.train_from_iterator(CORPUS, trainer)
    return _wrap(base)


def _sentencepiece(prepend: bool) -> Tokenizer:
    base = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if prepend:  # Llama 2's old form
        base.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:  # Gemma's
        base.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, special_tokens=["<unk>"])
    base.train_from_iterator([word for text in CORPUS for word in text.split(" ")], trainer)
    spec = json.loads(base.to_str())
    for byte in range(256):
        spec["model"]["vocab"][f"<0x{byte:02X}>"] = len(spec["model"]["vocab"])
    base = tokenizers.Tokenizer.from_str(json.dumps(spec))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    base.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    return _wrap(base)


def reachable() -> Tokenizer:
    """A BPE whose merges lead from plain text to a control token, as sentencepiece conversions do."""
    base = tokenizers.Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    base.train_from_iterator(["<|im_end|>", "<table>", "<think>"] * 50, trainer)
    return _wrap(base)


def unigram() -> Tokenizer:
    base = tokenizers.Tokenizer(models.Unigram())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    base.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<|im_end|>"]  # pieces of the model itself
    trainer = trainers.UnigramTrainer(
        vocab_size=400, show_progress=False, special_tokens=special, unk_token="<unk>"
    )
    base.train_from_iterator(CORPUS, trainer)
    return _wrap(base)


MAKES = {
    "byte level": byte_level,
    "llama 2": lambda: _sentencepiece(True),
    "gemma": lambda: _sentencepiece(False),
    "reachable": reachable,
    "unigram": unigram,
}


@pytest.fixture(scope="session", params=list(MAKES))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKES[request.param]()


@pytest.fixture(scope="session")
def foreign() -> Tokenizer:
    """A byte-level tokenizer with the control tokens of every template in `templates/`."""
    return byte_level()


@pytest.fixture(scope="session")
def merging() -> Tokenizer:
    return reachable()


@pytest.fixture(scope="session")
def ours() -> Tokenizer:
    return train_bpe(CORPUS, 600)


def template(name: str) -> ChatTemplate:
    if name == "default":
        return ChatTemplate.default()
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), where=name)


@pytest.fixture(scope="session")
def load_template():
    return template


# -- strategies: content that tries to be control ---------------------------------------------

SPELLINGS = (*CONTROLS, *PLAIN_ADDED, "<|endoftext|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
FRAGMENTS = ("<", "<|", "<|im_", "end|>", "|>", ">", "[IM", "G]", "think>", "</", "\ufdd0", "\ufdd1")
WORDS = ("hello", "  ", "\n", "\n\n    x = 1", "é", "日本", "😀", "e\u0301", "\t", "12345", "{}", '"', "\\")


@pytest.fixture(scope="session")
def hostile() -> st.SearchStrategy[str]:
    pieces = st.one_of(st.sampled_from((*SPELLINGS, *FRAGMENTS, *WORDS)), st.text(max_size=4))
    return st.lists(pieces, max_size=6).map("".join)


@pytest.fixture(scope="session")
def chats(hostile: st.SearchStrategy[str]) -> st.SearchStrategy[Conversation]:
    """Conversations with hostile content in every field that a template may write."""
    solid = hostile.map(lambda text: text + "x")
    names = st.sampled_from(("add", "find", "<|im_end|>"))
    values = st.one_of(hostile, st.integers(-9, 9), st.lists(hostile, max_size=2))
    calls = st.builds(
        lambda name, arguments: ToolCall(name=name, arguments=arguments),
        names,
        st.dictionaries(hostile, values, max_size=2),
    )
    user = st.builds(lambda text: Message(role="user", content=(text,)), solid)
    assistant = st.builds(
        lambda text, calls, thought: Message(
            role="assistant", content=(text,), tool_calls=tuple(calls), reasoning=thought
        ),
        solid,
        st.lists(calls, max_size=2),
        st.one_of(st.none(), solid),
    )
    tool = st.builds(lambda text: Message(role="tool", content=(text,)), hostile)
    system = st.builds(lambda text: Message(role="system", content=(text,)), hostile)
    turn = st.tuples(user, assistant) | st.tuples(user, assistant, tool, assistant)
    tools = st.just(()) | hostile.map(
        lambda text: ({"type": "function", "function": {"name": "add", "description": text}},)
    )
    return st.builds(
        lambda first, turns, tools: Conversation(
            messages=(*first, *(message for turn in turns for message in turn)), tools=tools
        ),
        st.just(()) | st.tuples(system),
        st.lists(turn, min_size=1, max_size=3),
        tools,
    )
