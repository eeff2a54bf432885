"""The split: similar documents on one side, by true Jaccard; stable under order and growth."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.data import Document, SplitConfig
from whorl.data.dedup import Sketch, content_key, same_content
from whorl.data.split import held_out, join_for_split

NO_IMAGES = np.zeros((0, 2), dtype=np.uint64)


def sides(documents: list[Document], config: SplitConfig, images: np.ndarray = NO_IMAGES) -> np.ndarray:
    keys = np.array([np.frombuffer(content_key(d), dtype="<u8") for d in documents], dtype="<u8").reshape(
        -1, 2
    )
    clusters = same_content(keys)
    join_for_split(clusters, Sketch()(documents), images, config.threshold)
    return held_out(clusters.roots(), keys, config)


def jaccard(one: Document, other: Document) -> float:
    a, b = set(one.ngrams(5)), set(other.ngrams(5))
    return len(a & b) / len(a | b) if a | b else 0.0


@st.composite
def corpora(draw: st.DrawFn) -> list[Document]:
    """Texts in families: copies with words changed, cut, extended or stitched from two."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    texts: list[list[str]] = []
    for _ in range(draw(st.integers(2, 12))):
        base = [f"w{rng.randrange(500)}" for _ in range(rng.randint(6, 80))]
        texts.append(base)
        for _ in range(draw(st.integers(0, 5))):
            copy = list(rng.choice(texts))
            kind = rng.randrange(4)
            if kind == 0:
                for _ in range(rng.randint(1, 4)):
                    copy[rng.randrange(len(copy))] = f"x{rng.randrange(500)}"
            elif kind == 1:
                copy = copy[: max(6, len(copy) * 3 // 4)]
            elif kind == 2:
                copy += [f"y{rng.randrange(500)}" for _ in range(len(copy) // 3)]
            else:
                copy = copy + list(rng.choice(texts))
            texts.append(copy)
    rng.shuffle(texts)
    return [Document(id=str(number), text=" ".join(words)) for number, words in enumerate(texts)]


@settings(max_examples=60, deadline=None)
@given(corpora(), st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 5))
def test_no_similar_documents_on_different_sides(
    documents: list[Document], threshold: float, seed: int
) -> None:
    out = sides(documents, SplitConfig(validation=0.4, threshold=threshold, seed=seed))
    for a in range(len(documents)):
        for b in range(a):
            if jaccard(documents[a], documents[b]) >= threshold:
                assert out[a] == out[b], (a, b)


@settings(max_examples=30, deadline=None)
@given(corpora(), st.randoms())
def test_the_order_of_documents_changes_nothing(documents: list[Document], shuffle: random.Random) -> None:
    config = SplitConfig(validation=0.3)
    before = dict(zip([d.text for d in documents], sides(documents, config).tolist(), strict=True))
    shuffle.shuffle(documents)
    assert before == dict(zip([d.text for d in documents], sides(documents, config).tolist(), strict=True))


def unlike(count: int, tag: str = "") -> list[Document]:
    rng = random.Random(f"{count}{tag}")
    return [
        Document(id=str(n), text=" ".join(f"{tag}{rng.randrange(10**6)}" for _ in range(30)))
        for n in range(count)
    ]


def test_the_share_is_met_and_stays_when_more_is_added() -> None:
    config = SplitConfig(validation=0.1)
    documents = unlike(2000)
    first = sides(documents, config)
    assert abs(first.mean() - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5
    more = sides([*unlike(500, "new"), *documents], config)
    assert (more[500:] == first).all()
    other = sides(documents, SplitConfig(validation=0.1, seed=1))
    assert 0 < (other & first).mean() < 0.05  # another seed, another choice


def test_one_large_cluster_cannot_fill_validation() -> None:
    same = [
        Document(id=f"s{n}", text=" ".join(["copyright notice of a licence"] * 9) + f" {n}")
        for n in range(100)
    ]
    for seed in range(10):
        out = sides([*same, *unlike(100)], SplitConfig(validation=0.3, seed=seed))
        assert not out[:100].any() and out[100:].any()


def test_small_sets_hold_out_one_where_they_can() -> None:
    config = SplitConfig(validation=0.001)
    assert sides(unlike(5), config).sum() == 1
    assert sides(unlike(1), config).sum() == 0
    assert sides([], config).shape == (0,)
    assert not sides(unlike(5), SplitConfig(validation=0)).any()


def test_documents_that_share_an_image_stay_together() -> None:
    documents = unlike(200)
    images = np.array([[n, 10**9 + n // 2] for n in range(200)], dtype=np.uint64)
    out = sides(documents, SplitConfig(validation=0.3), images)
    assert (out[::2] == out[1::2]).all() and out.any()
