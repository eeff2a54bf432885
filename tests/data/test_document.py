"""Documents: views against plain definitions, ids, what travels between processes."""

from __future__ import annotations

import pickle
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import DataError
from whorl.base.nouns import ImagePart
from whorl.data import Document, document_id

TEXT = st.text(alphabet=st.sampled_from("ab Ä\n\t.,!é'字-"), max_size=60)


@given(TEXT)
def test_lines_and_their_spans_cover_the_text(text: str) -> None:
    document = Document(id="x", text=text)
    assert "\n".join(document.lines) == text
    assert [text[start:end] for start, end in document.line_spans] == list(document.lines)


@given(TEXT)
def test_words_are_redpajamas(text: str) -> None:
    plain = "".join(character for character in text if character not in string.punctuation).lower()
    expected = unicodedata.normalize("NFD", " ".join(plain.split())).split()
    assert list(Document(id="x", text=text).words) == expected


@given(TEXT, st.integers(1, 6))
def test_ngrams_are_all_runs_of_words(text: str, n: int) -> None:
    document = Document(id="x", text=text)
    words = document.words
    assert list(document.ngrams(n)) == [words[i : i + n] for i in range(len(words) - n + 1)]
    assert document.ngrams(n) is document.ngrams(n)


def test_paragraphs_stand_between_empty_lines() -> None:
    assert Document(id="x", text="\n\na\nb\n\n\nc\n").paragraphs == ("a\nb", "c")


def test_a_pickled_document_is_the_same_without_its_views() -> None:
    document = Document(id="x", text="one two", meta={"a": [1]}, signals={"s": 1.5})
    assert document.words == ("one", "two")
    copy = pickle.loads(pickle.dumps(document))
    assert copy == document
    assert "words" not in vars(copy)
    assert copy.words == document.words


def test_ids_tell_place_text_and_images_apart() -> None:
    image = ImagePart(data=b"png")
    ids = {
        document_id("a", 0, "bc"),
        document_id("ab", 0, "c"),
        document_id("a", 1, "bc"),
        document_id("a", 0, "bcd"),
        document_id("a", 0, "bc", (image,)),
    }
    assert len(ids) == 5
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


def test_an_id_never_changes() -> None:
    # Splits and joins on disk hang on it: a change here makes every dataset out there another one.
    assert document_id("folder/file.txt", 3, "text äöü") == "9c1aca525d947be89ae34c8ab92858fe"


def test_a_document_needs_an_id() -> None:
    with pytest.raises(DataError, match="no id"):
        Document(id="", text="x")
