"""Byte-level BPE training (Sennrich et al. 2016; bytes as in GPT-2) by the library's Rust trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from whorl.base.errors import DataError, InputError
from whorl.text.tokenizer import Tokenizer

# Words with the space before them; digits one by one, so that arithmetic sees every place value;
# newlines together with the indentation that follows, since in code they are one fact.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"|\s*[\r\n]+[ \t]*"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)

# What the default chat template writes; the last three are the Pixtral processor's image tokens.
SPECIALS: tuple[str, ...] = (
    "<|endoftext|>",  # between documents; also padding
    "<|im_start|>",
    "<|im_end|>",  # ends every turn
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
)
# Part of what a reply says, so decoding shows them: not marked special in tokenizer.json, as Qwen does.
SHOWN = frozenset({"<tool_call>", "</tool_call>", "<think>", "</think>"})
BYTES = 256
LONGEST_TOKEN = 32  # characters; longer ones are rulers and base64, of no use to a model


def train_bpe(
    texts: Iterable[str], vocab_size: int, specials: Sequence[str] = SPECIALS, *, show_progress: bool = False
) -> Tokenizer:
    """Learn a tokenizer of at most `vocab_size` tokens (fewer where the texts hold no more pairs).

    Ids are the specials in order, the 256 bytes, then merges by frequency: the same texts in the
    same order give the same tokenizer. `specials[0]` ends a document, `<|im_end|>` a turn.
    """
    least = BYTES + len(specials)
    if vocab_size < least:
        raise InputError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(specials)} specials need {least}"
        )
    if len(set(specials)) != len(specials) or not all(specials):
        raise InputError("specials must be distinct and not empty")
    base = tokenizers.Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=show_progress,
        special_tokens=[AddedToken(text, normalized=False, special=True) for text in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=LONGEST_TOKEN,
    )
    base.train_from_iterator(_seen(texts), trainer=trainer)
    spec = json.loads(base.to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] not in SHOWN
    base = tokenizers.Tokenizer.from_str(json.dumps(spec))
    document = specials[0] if specials else None
    turn = "<|im_end|>" if "<|im_end|>" in specials else document
    named = {"bos_token": document, "eos_token": turn, "pad_token": document}
    made = Tokenizer(base, special_tokens={name: text for name, text in named.items() if text is not None})
    made.end_ids = tuple(made.id_of(text) for text in dict.fromkeys((turn, document)) if text is not None)
    return made


def _seen(texts: Iterable[str]) -> Iterable[str]:
    """The texts, and an error in place of a tokenizer learnt from nothing."""
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise DataError("no text to learn a tokenizer from; all files were empty or none was given")
