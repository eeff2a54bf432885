"""Which tokens of a `tokenizer.json` are control tokens, and a twin in which no text can spell them.

A control token belongs to the template: a person who types `<|im_end|>` means nine characters. The
library matches added tokens in any text it is given, and some models reach a control token by their
merges alone, so Whorl encodes content with a *twin* of the tokenizer whose control tokens carry
private names (random for each process, hence not guessable) and whose merges never lead to one.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

import tokenizers

MARKUP = re.compile(r"<\S*>|\[\S*\]", re.DOTALL)


@dataclass(frozen=True)
class Twin:
    """The tokenizer for content. `names` maps a control token to its private name; `ids` maps the
    twin's ids to the original's where they differ."""

    tokenizer: tokenizers.Tokenizer
    names: dict[str, str]
    ids: dict[int, int]


def control_tokens(spec: dict[str, Any]) -> list[str]:
    """The added tokens only a template may produce.

    Those marked special, and those that look like markup (`<think>`, `[IMG]`) and that the model
    does not reach from plain text by itself. Added tokens that are neither (runs of spaces, Gemma's
    `<table>`) are ordinary text that was merely given an id of its own.
    """
    added = {token["content"]: token["special"] for token in spec.get("added_tokens") or []}
    markup = [text for text, special in added.items() if not special and MARKUP.fullmatch(text)]
    unreachable = set(markup) - _reachable(spec, markup)
    return [text for text, special in added.items() if text and (special or text in unreachable)]


def _reachable(spec: dict[str, Any], strings: list[str]) -> set[str]:
    """Those of `strings` that the model alone, without its added tokens, encodes as one token."""
    vocabulary = _vocabulary(spec["model"])
    candidates = [text for text in strings if text in vocabulary]
    if not candidates:
        return set()
    bare = tokenizers.Tokenizer.from_str(json.dumps({**spec, "added_tokens": [], "post_processor": None}))
    return {
        text
        for text in candidates
        if bare.token_to_id(text) in bare.encode(text, add_special_tokens=False).ids
    }


def _vocabulary(model: dict[str, Any]) -> set[str]:
    vocabulary = model["vocab"]
    return set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}


def make_twin(tokenizer: tokenizers.Tokenizer, spec: dict[str, Any], controls: list[str]) -> Twin:
    """Build the content tokenizer for `spec` (the parsed tokenizer.json of `tokenizer`)."""
    nonce = secrets.token_hex(16)
    names = {text: f"ctl{nonce}n{number}x" for number, text in enumerate(controls)}
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in spec.get("added_tokens") or []
    ]
    changed = {
        **spec,
        "added_tokens": added,
        "model": _rename(spec["model"], names),
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    twin = tokenizers.Tokenizer.from_str(json.dumps(changed))
    originals = {name: text for text, name in names.items()}
    ids = {}
    for token in added:
        twin_id = twin.token_to_id(token["content"])
        original_id = tokenizer.token_to_id(originals.get(token["content"], token["content"]))
        if twin_id is not None and original_id is not None and twin_id != original_id:
            ids[twin_id] = original_id
    return Twin(twin, names, ids)


def _rename(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The model with control tokens under their private names, out of every merge's reach."""
    changed = dict(model)
    if isinstance(model["vocab"], dict):
        changed["vocab"] = {names.get(text, text): number for text, number in model["vocab"].items()}
    else:
        changed["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        changed["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        changed["merges"] = [merge for merge in model["merges"] if not _touches(merge, names)]
    return changed


def _touches(merge: list[str] | str, names: dict[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names


class Escape:
    """Breaks control strings in content with a marker, so that a template can be rendered with it and
    what the template wrote still told from what a person wrote."""

    def __init__(self, controls: list[str]) -> None:
        longest_first = sorted(controls, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self.pattern = re.compile(alternatives)
        self._starts = re.compile(f"(?={alternatives})")
        self._prefixes = {text[:end] for text in controls for end in range(1, len(text))}
        # A suffix of one character is left alone: what comes before it already carries a marker.
        self._suffixes = {text[start:] for text in controls for start in range(1, len(text) - 1)}
        self._longest = max(map(len, controls), default=0)

    def __call__(self, text: str, marker: str) -> str:
        """`text` with `marker` after the first character of every control string, also of one that
        would only come about where two strings meet."""
        starts = {match.start() for match in self._starts.finditer(text)} if text else set()
        for length in range(1, min(len(text), self._longest - 1) + 1):
            if text[-length:] in self._prefixes:
                starts.add(len(text) - length)
            if text[:length] in self._suffixes:
                starts.add(0)
        if not starts:
            return text
        pieces, last = [], 0
        for start in sorted(starts):
            pieces.append(text[last : start + 1])
            pieces.append(marker)
            last = start + 1
        pieces.append(text[last:])
        return "".join(pieces)
