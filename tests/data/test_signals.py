"""The signals against a slow reference written from RedPajama-V2's definitions, and by hand."""

from __future__ import annotations

import math
import os
import re
import string
import subprocess
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.data.document import Document, Span
from whorl.data.signals import SIGNALS, compute_signals
from whorl.data.signals.stop_words import ENGLISH


def document(text: str) -> Document:
    return Document(id="d", text=text)


# --- the reference: loops over characters and lists, no sharing, no numpy ---------------------------------


def normal(text: str) -> str:
    kept = "".join(char for char in text if char not in string.punctuation).lower()
    return unicodedata.normalize("NFD", re.sub(r"\s+", " ", kept.strip()))


def words_of(text: str) -> list[str]:
    return normal(text).split()


def raw_of(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text)


def lines_of(text: str) -> list[str]:
    lines, line = [], ""
    for char in text:
        line += char
        if char == "\n":
            lines.append(line)
            line = ""
    return [*lines, line] if line else lines


def share(count: float, total: float, empty: float | None = None) -> float | None:
    return round(count / total, 8) if total else empty


def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def top(text: str, n: int) -> float:
    words = words_of(text)
    best, most = (), 1
    for gram in grams(words, n):
        if (count := grams(words, n).count(gram)) > most:
            best, most = gram, count
    return share(len("".join(best)) * most, len("".join(words)), 0.0) if best else 0.0


def dupe(text: str, n: int) -> float:
    words = words_of(text)
    found = grams(words, n)
    inside = {i + j for i, gram in enumerate(found) if found.count(gram) > 1 for j in range(n)}
    return share(sum(len(words[i]) for i in inside), len("".join(words)), 0.0)


def entropy(text: str) -> float | None:
    words = words_of(text)
    shares = [words.count(word) / len(words) for word in sorted(set(words))]
    return -sum(p * math.log(p) for p in shares) if words else None


def by_line(score: Callable[[str], float]) -> Callable[[str], list[tuple[int, int, float]]]:
    def spans(text: str) -> list[tuple[int, int, float]]:
        found, start = [], 0
        for line in lines_of(text):
            found.append((start, start + len(line), float(score(line))))
            start += len(line)
        return found

    return spans


BULLETS = "\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013"
REFERENCE: dict[str, Callable[[str], object]] = {
    "ccnet_length": lambda t: float(len(t)),
    "ccnet_nlines": lambda t: float(len(t.split("\n"))),
    "rps_doc_curly_bracket": lambda t: share(sum(char in "{}" for char in t), len(t), 0.0),
    "rps_doc_frac_all_caps_words": lambda t: share(sum(w.isupper() for w in raw_of(t)), len(raw_of(t))),
    "rps_doc_frac_lines_end_with_ellipsis": lambda t: share(
        sum(line.rstrip()[-3:] == "..." or line.rstrip()[-1:] == "…" for line in lines_of(t)),
        len(lines_of(t)),
    ),
    "rps_doc_frac_no_alph_words": lambda t: share(
        sum(not any(char in string.ascii_letters for char in word) for word in raw_of(t)), len(raw_of(t))
    ),
    "rps_doc_lorem_ipsum": lambda t: share(normal(t).count("lorem ipsum"), len(normal(t)), 0.0),
    "rps_doc_mean_word_length": lambda t: share(len("".join(words_of(t))), len(words_of(t))),
    "rps_doc_num_sentences": lambda t: float(len(re.findall(r"\b[^.!?]+[.!?]*", t))),
    "rps_doc_stop_word_fraction": lambda t: share(sum(w in ENGLISH for w in raw_of(t)), len(raw_of(t))),
    "rps_doc_symbol_to_word_ratio": lambda t: share(
        t.count("#") + t.count("...") + t.count("…"), len(raw_of(t))
    ),
    "rps_doc_frac_unique_words": lambda t: share(len(set(words_of(t))), len(words_of(t))),
    "rps_doc_unigram_entropy": entropy,
    "rps_doc_word_count": lambda t: float(len(words_of(t))),
    "rps_lines_ending_with_terminal_punctution_mark": by_line(lambda line: line.rstrip()[-1:] in {*".!?”"}),
    "rps_lines_javascript_counts": by_line(lambda line: words_of(line).count("javascript")),
    "rps_lines_num_words": by_line(lambda line: len(words_of(line))),
    "rps_lines_numerical_chars_fraction": by_line(
        lambda line: share(sum(char.isnumeric() for char in normal(line)), len(normal(line)), 0.0)
    ),
    "rps_lines_start_with_bulletpoint": by_line(lambda line: line.lstrip()[:1] in {*BULLETS}),
    "rps_lines_uppercase_letter_fraction": by_line(
        lambda line: share(sum(char.isupper() for char in line), len(line))
    ),
    **{f"rps_doc_frac_chars_top_{n}gram": (lambda t, n=n: top(t, n)) for n in (2, 3, 4)},
    **{f"rps_doc_frac_chars_dupe_{n}grams": (lambda t, n=n: dupe(t, n)) for n in range(5, 11)},
}

# Few words and many kinds of character, so that runs of words come back and every rule has its chance.
WORDS = [
    "the",
    "a",
    "Cat",
    "DOG",
    "ÉTÉ",
    "Ⅷ",
    "½",
    "12",
    "don't",
    "javascript",
    "JavaScript!",
    "lorem ipsum",
    "字",
]
MARKS = [
    "...",
    "…",
    "#",
    "{",
    "}",
    "•",
    "–",
    "!",
    "?",
    "”",
    "\n",
    "\n\n",
    " ",
    "\t",
    "\u2028",
    "\x0c",
    "Å",
    "ǅ",
]
PIECES = st.sampled_from([*WORDS, *MARKS])
TEXTS = st.one_of(
    st.lists(PIECES, max_size=60).map(" ".join),
    st.lists(st.sampled_from("abAB"), max_size=80).map(" ".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80),
)


def test_every_signal_has_a_reference() -> None:
    assert SIGNALS.keys() == REFERENCE.keys()
    assert len(SIGNALS) == 29


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_signals_are_those_of_the_reference(text: str) -> None:
    for name, value in compute_signals(document(text)).items():
        expected = REFERENCE[name](text)
        if isinstance(expected, float):
            assert value == pytest.approx(expected, abs=1.1e-8), name  # the last of eight places may round
        else:
            assert value == expected, name


@given(TEXTS)
def test_signals_leave_the_document_as_it_was(text: str) -> None:
    before = document(text)
    after = document(text)
    first = compute_signals(after)
    assert after == before
    assert compute_signals(after) == first
    assert all(
        isinstance(span, Span) for value in first.values() if isinstance(value, list) for span in value
    )


VERSE = "The cat sat.\nTHE CAT SAT…\n\n- 12 mice {and} javascript #1\n• Lorem ipsum, dolor"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ccnet_length", VERSE, 77.0),
        ("ccnet_nlines", VERSE, 5.0),
        ("rps_doc_word_count", VERSE, 15.0),  # "-" and "#" vanish; "•" and "sat…" are words
        ("rps_doc_curly_bracket", "a{b}", 0.5),
        ("rps_doc_frac_all_caps_words", "THE cat SAT 12", 0.5),
        ("rps_doc_frac_lines_end_with_ellipsis", "a...\nb… \nc\n", round(2 / 3, 8)),
        ("rps_doc_frac_no_alph_words", "a 12 ... b1", 0.5),
        ("rps_doc_lorem_ipsum", "Lorem, IPSUM", round(1 / 11, 8)),
        ("rps_doc_mean_word_length", "don't go", 3.0),
        ("rps_doc_num_sentences", "One. Two! Three", 3.0),
        ("rps_doc_stop_word_fraction", "the cat", 0.5),
        ("rps_doc_symbol_to_word_ratio", "# a b...", 0.5),
        ("rps_doc_frac_unique_words", "a A b b", 0.5),
        ("rps_doc_unigram_entropy", "a b", round(math.log(2), 8)),
        ("rps_lines_num_words", "a b\n\nc", [(0, 4, 2.0), (4, 5, 0.0), (5, 6, 1.0)]),
        ("rps_lines_num_words", "a\n", [(0, 2, 1.0)]),  # no empty line after the last newline
        ("rps_lines_ending_with_terminal_punctution_mark", "a. \nb", [(0, 4, 1.0), (4, 5, 0.0)]),
        ("rps_lines_start_with_bulletpoint", " • a\n- b", [(0, 5, 1.0), (5, 8, 0.0)]),
        ("rps_lines_uppercase_letter_fraction", "AB\nÉ", [(0, 3, round(2 / 3, 8)), (3, 4, 1.0)]),
        ("rps_lines_numerical_chars_fraction", "a1, ½", [(0, 5, 0.5)]),
        ("rps_lines_javascript_counts", "JavaScript! javascripts", [(0, 23, 1.0)]),
        ("rps_doc_frac_chars_top_2gram", "a bb a bb c", round(6 / 7, 8)),
        ("rps_doc_frac_chars_top_3gram", "a b c d", 0.0),
        ("rps_doc_frac_chars_dupe_5grams", "a b c d e f a b c d e", round(10 / 11, 8)),
        ("rps_doc_frac_chars_dupe_5grams", "a a a a a a a", 1.0),  # overlaps count once
        ("rps_doc_mean_word_length", "...", None),
        ("rps_lines_num_words", "", []),
    ],
)
def test_values_worked_out_by_hand(name: str, text: str, expected: object) -> None:
    assert SIGNALS[name](document(text)) == expected


def test_an_unknown_signal_names_the_nearest() -> None:
    with pytest.raises(InputError, match="rps_doc_word_count"):
        compute_signals(document("a"), ["rps_doc_wordcount"])


SCRIPT = """
from whorl.data.document import Document
from whorl.data.signals import compute_signals
from whorl.data.filters import FILTERS
text = {text!r}
document = Document(id="d", text=text)
print(compute_signals(document), [(name, rule(document)) for name, rule in FILTERS.items()])
"""


def test_values_do_not_hang_on_the_hash_seed() -> None:
    text = (VERSE + "\nTo be with that and have it, of course: the cat sat. ") * 6
    printed = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(text=text)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert "rps_doc_word_count" in printed[0]
