"""The filters against slow references and by hand: every reason, purity, the splitter, datatrove itself."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.data.document import Document
from whorl.data.filters import (
    FILTERS,
    C4Config,
    FineWebConfig,
    FineWebQualityConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    c4_clean,
    c4_quality,
    fineweb_quality,
    fineweb_recipe,
    gopher_quality,
    gopher_repetition,
)
from whorl.data.filters.c4 import count_sentences
from whorl.data.filters.english import Lexicon, forget, split_chunk, tokenize


def document(text: str) -> Document:
    return Document(id="d", text=text)


# --- the splitter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        "word", "word |,", "( |word |) |.", "do |n't", "Do |n’t", "ca |n't |!", "can |not", "it |'s",
        "dog |'s", "dogs |'", "they |'ll", "should |n't |'ve", "i |m", "its", "U.S.", "Mr.", "( |Mr. |)",
        "e.g. |,", "etc |.", "a.m.", "10 |am", "A.", "AB |.", "3.14", "3.14 |.", "$ |5", "5 |km", "50 |%",
        "100 |kg |.", "1 |- |2", "3 |+ |4", "x+y", "2 |^ |3", "well |- |known", "10 |- |year |- |old",
        "a |-- |b", "a |— |b", "foo |... |bar", "word |...", "... |word", "x |…", "end |. |Begin",
        "a |, |b", "1,000", "foo |: |bar", "a |/ |b", "1/2", "http://foo.com/a_b", "a@b.com", "foo.py",
        "( |http://foo.com |)", ":)", "f(x |):", "_ |_ |init |_ |_", "> |> |>", "# |tag", "' |quoted |'",
        "'em |.", "''", "'' |' |x", "O'Brien", "rock'n'roll", "字字", "字 |。", "@user", "-1", "+1", "+ |x",
    ],
)  # fmt: skip
def test_chunks_split_as_english_is_counted(chunk: str) -> None:
    tokens = chunk.split(" |")
    assert split_chunk("".join(tokens)) == tokens


MARKS = st.text(alphabet="ab Z1.,'’\"():;-–—/+*^=<>@#%$…!?_[]{}\\~°\n字é½D3", max_size=40)


@given(st.one_of(MARKS, st.text(max_size=60)))
def test_tokens_are_the_text_without_its_white_space(text: str) -> None:
    tokens = tokenize(text)
    assert "".join(tokens.words) == "".join(text.split())
    assert tokens.lengths.tolist() == [len(word) for word in tokens.words]


@given(MARKS, MARKS)
def test_a_lexicon_that_knows_more_says_the_same(text: str, other: str) -> None:
    forget()
    fresh = tokenize(text)
    forget()
    tokenize(other + " " + text[::-1])
    warm = tokenize(text)
    assert warm.words == fresh.words
    assert warm.kinds.tolist() == fresh.kinds.tolist()


def test_tokens_outlive_the_lexicon_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.data.filters.english.MAX_CHUNKS", 10)
    forget()
    texts = [f"chunk{i} and chunk{i + 1}, chunk{i}" for i in range(40)]
    kept = [tokenize(text) for text in texts]
    assert [tokens.words for tokens in kept] == [tokenize(text).words for text in texts]
    assert len({id(tokens.lexicon) for tokens in kept}) > 1
    assert max(len(tokens.lexicon) for tokens in kept) <= 10 + 4  # bounded but for the last document's


def test_a_long_chunk_is_not_remembered_and_is_quick() -> None:
    lexicon = Lexicon()
    for unit in ("!", "a.", "('", ".", "a-", "x@"):
        chunk = unit * 50_000
        numbers = list(lexicon[chunk])
        assert lexicon.tables()[0][numbers].sum() == len(chunk)
    assert len(lexicon) == 0


# --- slow references ---------------------------------------------------------------------------------------


def repeats(parts: list[str]) -> tuple[int, int]:
    again = [part for i, part in enumerate(parts) if part in parts[:i]]
    return len(again), sum(map(len, again))


def slow_repetition(text: str, config: GopherRepetitionConfig) -> str | None:
    if not text:
        return "empty"
    words = document(text).english_tokens.words
    for name, parts, most, most_characters in (
        ("para", re.split(r"\n{2,}", text.strip()), config.max_duplicate_paragraphs,
         config.max_duplicate_paragraph_characters),
        ("line", re.split(r"\n+", text), config.max_duplicate_lines, config.max_duplicate_line_characters),
    ):  # fmt: skip
        count, characters = repeats(parts)
        if most is not None and count / len(parts) > most:
            return f"dup_{name}_frac"
        if most_characters is not None and characters / len(text) > most_characters:
            return f"dup_{name}_char_frac"
    for n, most in config.max_top_ngrams:
        found = [words[i : i + n] for i in range(len(words) - n + 1)]
        if found:
            commonest = max(found, key=found.count)  # the first of several
            if len(" ".join(commonest)) * found.count(commonest) / len(text) > most:
                return f"top_{n}_gram"
    for n, most in config.max_duplicate_ngrams:
        seen, characters, i = [], 0, 0
        while i + n <= len(words):
            if words[i : i + n] in seen:
                characters += len("".join(words[i : i + n]))
                i += n
            else:
                seen.append(words[i : i + n])
                i += 1
        if characters / len(text) > most:
            return f"duplicated_{n}_n_grams"
    return None


WORDS = st.lists(
    st.sampled_from(["a", "be", "cat", "dog,", "Elk.", "\n", "\n\n", "- ", "it's"]), max_size=70
).map(" ".join)
LINES = st.lists(st.sampled_from(["", "a", "a b c.", "one two three", "• x", "y..."]), max_size=12).map(
    "\n".join
)
SHARES = st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0])


@st.composite
def repetition_configs(draw: st.DrawFn) -> GopherRepetitionConfig:
    limit = st.one_of(st.none(), SHARES)
    return GopherRepetitionConfig(
        max_duplicate_lines=draw(limit),
        max_duplicate_paragraphs=draw(limit),
        max_duplicate_line_characters=draw(limit),
        max_duplicate_paragraph_characters=draw(limit),
        max_top_ngrams=tuple((n, draw(SHARES)) for n in draw(st.sampled_from([(), (2, 3, 4), (4,), (6,)]))),
        max_duplicate_ngrams=tuple(
            (n, draw(SHARES)) for n in draw(st.sampled_from([(), (2, 5), range(5, 11)]))
        ),
    )


@settings(max_examples=300, deadline=None)
@given(st.one_of(WORDS, LINES), st.one_of(st.just(GopherRepetitionConfig()), repetition_configs()))
def test_repetition_is_that_of_the_reference(text: str, config: GopherRepetitionConfig) -> None:
    assert gopher_repetition(document(text), config) == slow_repetition(text, config)


def slow_fineweb(text: str, config: FineWebQualityConfig) -> str | None:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty"
    ended = [line for line in lines if line[-1] in ".!?…。" and line[-1] != "…"]
    if len(ended) / len(lines) < config.min_punctuated_lines:
        return "line_punct_ratio"
    if len([line for line in lines if len(line) <= config.short_line]) / len(lines) > config.max_short_lines:
        return "short_line_ratio"
    if repeats(lines)[1] / len(text.replace("\n", "")) > config.max_duplicate_line_characters:
        return "char_dup_ratio"
    if text.count("\n") / len(document(text).english_tokens) > config.max_newlines_per_word:
        return "list_ratio"
    return None


@settings(max_examples=200, deadline=None)
@given(st.one_of(WORDS, LINES), SHARES, SHARES, SHARES, SHARES, st.integers(0, 30))
def test_fineweb_rules_are_those_of_the_reference(
    text: str, ended: float, short: float, again: float, breaks: float, length: int
) -> None:
    config = FineWebQualityConfig(
        min_punctuated_lines=ended,
        max_short_lines=short,
        max_duplicate_line_characters=again,
        max_newlines_per_word=breaks,
        short_line=length,
    )
    assert fineweb_quality(document(text), config) == slow_fineweb(text, config)


# --- every reason ------------------------------------------------------------------------------------------

SENTENCES = (
    "The river begins in the hills to the north and runs down with little haste. "
    "Those who live beside it have boats of larch, which their fathers built. "
    "In spring, when snow melts, it can be heard from every house in the valley. "
    "Nobody remembers who first put a mill there; its wheel still turns today. "
    "Children learn early that ice near the weir is thin, so winters pass quietly. "
)
PLAIN = SENTENCES + "By autumn most of the wood is cut, stacked and paid for."
SHUFFLED = st.lists(st.sampled_from(PLAIN.split()), min_size=50).map(" ".join)
LONG_LINES = ["Averyveryverylongwordonthisline.", "Anotherveryverylongwordonthat."]
LINE_BY_LINE = PLAIN.replace(". ", ".\n")


def test_plain_prose_is_kept_by_all() -> None:
    for name, rule in FILTERS.items():
        assert rule(document(PLAIN)) is None, name
        assert rule(document(LINE_BY_LINE)) is None, name


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (gopher_quality, "", "gopher_short_doc"),
        (gopher_quality, "a few words only", "gopher_short_doc"),
        (gopher_quality, "the cat and dog " * 25_001, "gopher_long_doc"),
        (gopher_quality, "a to be of an it " * 20, "gopher_below_avg_threshold"),
        (gopher_quality, "the and of " * 5 + "incomprehensibilities " * 40, "gopher_above_avg_threshold"),
        (gopher_quality, PLAIN + " #" * 20, "gopher_too_many_hashes"),
        (gopher_quality, PLAIN + " what..." * 20, "gopher_too_many_ellipsis"),
        (gopher_quality, "- " + LINE_BY_LINE.replace("\n", "\n- "), "gopher_too_many_bullets"),
        (gopher_quality, PLAIN.replace(". ", "...\n"), "gopher_too_many_end_ellipsis"),
        (gopher_quality, PLAIN + " 1234" * 60, "gopher_below_alpha_threshold"),
        (gopher_quality, "several random nouns without glue, " * 12, "gopher_enough_stop_words"),
        (gopher_repetition, "", "empty"),
        (gopher_repetition, "one\n\none\n\none\n\ntwo", "dup_para_frac"),
        (gopher_repetition, "x" * 50 + "\n\n" + "x" * 50 + "\n\na\n\nb\n\nc", "dup_para_char_frac"),
        (gopher_repetition, "one\none\none\ntwo", "dup_line_frac"),
        (gopher_repetition, "x" * 50 + "\n" + "x" * 50 + "\na\nb\nc", "dup_line_char_frac"),
        (gopher_repetition, PLAIN + " so it so it" * 20, "top_2_gram"),
        (gopher_repetition, PLAIN + "".join(f" alpha beta gamma {i}" for i in range(9)), "top_3_gram"),
        (gopher_repetition, PLAIN + " alpha b cc delta" * 6, "top_4_gram"),
        (gopher_repetition, PLAIN + " " + PLAIN, "duplicated_5_n_grams"),
        (c4_quality, "One line. Not enough.", "too_few_sentences"),
        (c4_quality, LINE_BY_LINE + "\nHere is lorem ipsum dolor.", "lorem_ipsum"),
        (c4_quality, LINE_BY_LINE + "\nHere { is a bracket.", "curly_bracket"),
        (fineweb_quality, " \n\n", "empty"),
        (fineweb_quality, "one line without an end\nanother one", "line_punct_ratio"),
        (fineweb_quality, "Short.\nAlso short.", "short_line_ratio"),
        (fineweb_quality, "A line that is long enough to count.\n" * 2, "char_dup_ratio"),
        (fineweb_quality, "\n\n\n".join(LONG_LINES), "list_ratio"),
        (fineweb_recipe, PLAIN + " " + PLAIN, "duplicated_5_n_grams"),
        (fineweb_recipe, SENTENCES[:130], "gopher_short_doc"),
        (fineweb_recipe, PLAIN + " { }", "curly_bracket"),
        (fineweb_recipe, LINE_BY_LINE.replace(".\n", "\n")[:-1], "line_punct_ratio"),
    ],
)  # fmt: skip
def test_each_reason(rule: object, text: str, reason: str) -> None:
    assert rule(document(text)) == reason  # type: ignore[operator]


@pytest.mark.parametrize("n", [6, 7, 8, 9, 10])
def test_longer_duplicates_have_their_own_limits(n: int) -> None:
    only = GopherRepetitionConfig(max_top_ngrams=(), max_duplicate_ngrams=((n, 0.1),))
    assert gopher_repetition(document(PLAIN + " " + PLAIN), only) == f"duplicated_{n}_n_grams"
    off = GopherRepetitionConfig(max_top_ngrams=(), max_duplicate_ngrams=())
    assert gopher_repetition(document(PLAIN + " " + PLAIN), off) is None


def test_a_rule_without_a_threshold_is_off() -> None:
    none = GopherQualityConfig(
        min_words=None, max_words=None, min_mean_word_length=None, max_mean_word_length=None,
        max_symbols_per_word=None, max_bullet_lines=None, max_ellipsis_lines=None,
        min_alphabetic_words=None, min_stop_words=None,
    )  # fmt: skip
    for text in ("", "\n", "x", "1 2 3", "# # #", "- a...\n- b...", PLAIN):
        assert gopher_quality(document(text), none) is None
    lax = FineWebQualityConfig(
        min_punctuated_lines=None, max_short_lines=None,
        max_duplicate_line_characters=None, max_newlines_per_word=None,
    )  # fmt: skip
    assert fineweb_quality(document("a\na\na"), lax) is None
    assert c4_quality(document("a"), C4Config(min_sentences=None)) is None


def test_a_partial_is_a_filter() -> None:
    short = partial(gopher_quality, config=GopherQualityConfig(min_words=3, min_stop_words=0))
    assert short(document("a few words only")) is None


# --- C4 ----------------------------------------------------------------------------------------------------


def test_c4_takes_lines_out() -> None:
    text = "\n".join(
        [
            "  Kept as it ends here [1][edit].  ",
            "No end here",
            "Too short.",
            "Please enable JavaScript to go on.",
            "We have a Privacy Policy for you.",
            "It trails off at the end...",
            "A word of " + "x" * 1001 + " letters.",
            'She said "enough is enough"',
        ]
    )
    left, reason = c4_clean(text, C4Config(min_sentences=2))
    assert left == 'Kept as it ends here .\nShe said "enough is enough"'
    assert reason is None
    left, _ = c4_clean(text, C4Config(min_sentences=2, terminal_punctuation=False))
    assert "No end here" in left
    assert "JavaScript" not in left


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One.", 1),
        ("One. Two", 2),
        ('He said "no." Then left.', 2),
        ("Mr. Smith, e.g., is here.", 1),
        ("What?! No.", 2),
    ],
)
def test_sentences_end_where_a_full_stop_stands_alone(line: str, sentences: int) -> None:
    assert count_sentences(line) == sentences


def test_fineweb_judges_the_text_that_c4_leaves() -> None:
    policy = "\nPlease read our terms of use before you go on" * 40
    assert fineweb_quality(document(LINE_BY_LINE + policy)) == "char_dup_ratio"
    lax = GopherRepetitionConfig(
        max_duplicate_lines=None,
        max_duplicate_line_characters=None,
        max_top_ngrams=(),
        max_duplicate_ngrams=(),
    )
    assert fineweb_recipe(document(LINE_BY_LINE + policy), FineWebConfig(repetition=lax)) is None


# --- purity, and the peer ----------------------------------------------------------------------------------


@given(st.one_of(WORDS, LINES, MARKS))
def test_filters_are_pure(text: str) -> None:
    made = document(text)
    before = copy.deepcopy(made)
    first = [rule(made) for rule in FILTERS.values()]
    assert made == before
    assert [rule(made) for rule in reversed(FILTERS.values())] == first[::-1]
    assert [rule(document(text)) for rule in FILTERS.values()] == first


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        WORDS,
        LINES,
        st.just(PLAIN),
        MARKS,
        st.lists(st.sampled_from(PLAIN.split()), min_size=50).map(" ".join),
    )
)
def test_verdicts_are_datatroves(text: str) -> None:
    data = pytest.importorskip("datatrove.data", reason="datatrove is not installed")
    pytest.importorskip("spacy", reason="datatrove's English words need spaCy")
    theirs = pytest.importorskip("datatrove.pipeline.filters")
    peers = {
        gopher_repetition: theirs.GopherRepetitionFilter(),
        gopher_quality: theirs.GopherQualityFilter(),
        fineweb_quality: theirs.FineWebQualityFilter(),
        c4_quality: theirs.C4QualityFilter(),
    }
    for ours, peer in peers.items():
        try:
            verdict = peer.filter(data.Document(text=text, id="d"))
        except ZeroDivisionError:
            continue  # a text of white space alone ends datatrove's filter
        assert ours(document(text)) == (None if verdict is True else verdict[1])
