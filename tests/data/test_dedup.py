"""Duplicates against brute force: exact Jaccard of word n-grams, naive sets, and the paper's curve."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.base.nouns import ImagePart
from whorl.data import Document
from whorl.data.dedup import Clusters, Sketch, bands_for, content_key, join_similar, same_content, shingles
from whorl.data.dedup import similar as similar_module
from whorl.data.dedup.minhash import NO_SKETCH, split_unspaced


def documents_of(texts: Sequence[str]) -> list[Document]:
    return [Document(id=f"{number}", text=text) for number, text in enumerate(texts)]


def jaccard(one: Document, other: Document, n: int = 5) -> float:
    a, b = set(one.ngrams(n)), set(other.ngrams(n))
    return len(a & b) / len(a | b) if a | b else 0.0


def family(rng: random.Random, roots: int, vocabulary: int = 3000) -> list[Document]:
    """Texts and copies of them with a few words changed, so that every similarity occurs."""
    texts = []
    for _ in range(roots):
        words = [f"w{rng.randrange(vocabulary)}" for _ in range(rng.randint(20, 150))]
        texts.append(" ".join(words))
        for _ in range(rng.randint(0, 4)):
            copy = list(words)
            for _ in range(rng.randint(1, max(1, len(copy) // 12))):
                copy[rng.randrange(len(copy))] = f"x{rng.randrange(vocabulary)}"
            texts.append(" ".join(copy))
    return documents_of(texts)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_clusters_are_the_sets_a_naive_union_gives(pairs: list[tuple[int, int]]) -> None:
    sets = [{number} for number in range(20)]
    clusters = Clusters(20)
    for one, other in pairs:
        clusters.join(one, other)
        joined = sets[one] | sets[other]
        for member in joined:
            sets[member] = joined
    assert clusters.roots().tolist() == [min(found) for found in sets]
    assert [clusters.find(number) for number in range(20)] == [min(found) for found in sets]


@given(
    st.lists(st.sampled_from(["a b", "a  b", " a\nb ", "A b", "a-b", "é", "e\u0301", "ab", ""]), max_size=12)
)
def test_exact_duplicates_are_equal_up_to_white_space(texts: list[str]) -> None:
    import unicodedata

    documents = documents_of(texts)
    keys = np.array([np.frombuffer(content_key(d), dtype="<u8") for d in documents], dtype="<u8").reshape(
        -1, 2
    )
    plain = [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]
    assert same_content(keys).roots().tolist() == [plain.index(text) for text in plain]


def test_images_are_part_of_the_content() -> None:
    one, two = ImagePart(data=b"1"), ImagePart(data=b"2")
    keys = {
        content_key(Document(id="x", text="a", images=images)) for images in ((), (one,), (two,), (one, two))
    }
    assert len(keys) == 4


@given(
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.integers(1, 5),
)
def test_shingles_are_equal_where_ngrams_are(one: list[str], other: list[str], n: int) -> None:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        n_here = min(n, len(words))
        return {tuple(words[i : i + n_here]) for i in range(len(words) - n_here + 1)} if words else set()

    a, b = set(shingles(one, n).tolist()), set(shingles(other, n).tolist())
    assert len(a) == len(grams(one)) and len(b) == len(grams(other))
    assert len(a & b) == len(grams(one) & grams(other))


def test_scripts_without_spaces_are_taken_by_character() -> None:
    assert split_unspaced(["日本語abc", "word", "ไทย"]) == ["日", "本", "語", "abc", "word", "ไ", "ท", "ย"]
    a = Document(id="a", text="今日は天気がとても良いので散歩に行きましょうと彼は言った")
    b = Document(id="b", text="今日は天気がとても良いので散歩に行きましょうと彼女は言った")
    one, two = Sketch()([a, b])
    assert 0.5 < (one == two).mean() < 1


def test_sketches_estimate_jaccard() -> None:
    documents = family(random.Random(1), 60)
    sketches = Sketch()(documents)
    errors, similar = [], 0
    for a in range(len(documents)):
        for b in range(a):
            true = jaccard(documents[a], documents[b])
            estimate = float((sketches[a] == sketches[b]).mean())
            # 112 draws: five standard deviations, and one hash of slack
            assert abs(estimate - true) <= 5 * (true * (1 - true) / 112) ** 0.5 + 1 / 112
            if 0.1 < true < 0.95:
                similar += 1
                errors.append(estimate - true)
    assert similar > 50
    assert abs(np.mean(errors)) < 0.02  # no bias


def test_bands_find_pairs_as_often_as_the_formula_says() -> None:
    """Candidates at 14 x 8 over many seeds, against 1 - (1 - s^8)^14."""
    for shared, total in ((60, 80), (68, 80), (40, 80)):
        similarity = shared / total
        one = [f"s{n}" for n in range(shared)] + [f"a{n}" for n in range((total - shared) // 2)]
        other = [f"s{n}" for n in range(shared)] + [f"b{n}" for n in range((total - shared) // 2)]
        pair = [Document(id="a", text=" ".join(one)), Document(id="b", text=" ".join(other))]
        found = 0
        for seed in range(400):
            clusters = Clusters(2)
            join_similar(clusters, Sketch(ngram=1, seed=seed)(pair), bands=14, rows=8, verify=None)
            found += int(clusters.find(1) == 0)
        expected = 1 - (1 - similarity**8) ** 14
        assert abs(found / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5 + 0.005


@pytest.mark.parametrize("limit", [2, 5, 2048])
def test_verified_joins_are_what_comparing_all_pairs_gives(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Small `limit`s divide buckets first: joins may then be missed between, never made up."""
    monkeypatch.setattr(similar_module, "PAIRWISE_LIMIT", limit)
    documents = family(random.Random(2), 40)
    sketches = Sketch()(documents)
    clusters = Clusters(len(documents))
    join_similar(clusters, sketches, bands=56, rows=2, verify=0.6)
    brute = Clusters(len(documents))
    for a in range(len(documents)):
        for b in range(a):
            if (sketches[a] == sketches[b]).mean() >= 0.6:
                brute.join(a, b)
    if limit > len(documents):
        assert clusters.roots().tolist() == brute.roots().tolist()
    together = [(a, clusters.find(a)) for a in range(len(documents))]
    assert all(brute.find(a) == brute.find(root) for a, root in together)
    assert len(set(clusters.roots().tolist())) < 1.3 * len(set(brute.roots().tolist()))


def test_documents_without_words_or_with_images_are_no_near_duplicates() -> None:
    image = ImagePart(data=b"x")
    documents = [Document(id="a", text="!!!"), Document(id="b", text="..."), Document(id="c", text="")]
    documents += [Document(id=name, text="the same caption here", images=(image,)) for name in "de"]
    sketches = Sketch()(documents)
    assert (sketches == NO_SKETCH).all()
    clusters = Clusters(5)
    join_similar(clusters, sketches, bands=14, rows=8, verify=None)
    assert clusters.roots().tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=30)
@given(st.floats(0.3, 0.99), st.integers(16, 256))
def test_bands_miss_no_more_than_allowed(threshold: float, hashes: int) -> None:
    bands, rows = bands_for(threshold, hashes)
    assert bands * rows <= hashes
    assert rows == 1 or (1 - threshold**rows) ** bands <= 1e-5


def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from whorl.data import Document; from whorl.data.dedup import *;"
        "d = Document(id='a', text='one two three four five six äöü');"
        "print(content_key(d).hex(), Sketch(hashes=4)([d])[0].tolist(), shingles(d.words, 5).tolist())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert said.pop().startswith(
        "a46b51bd5fd6094260d69f492a0521c1"
    )  # on disk: a change of it is another format
