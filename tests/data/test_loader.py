"""Loaders: once an epoch, seeking, any number of ranks, no leak across documents, prefetching."""

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.base.errors import DataError, InputError
from whorl.data.batch import Batch, Sample
from whorl.data.batches import Batches, permutation
from whorl.data.document import Document
from whorl.data.loader import MixedBatches, PretrainBatches, SampleBatches, prefetch
from whorl.data.tokens import TokenSet, write_tokens

END = 65_535


class Numbers:
    """A tokenizer for tests: the text "4 10" is the ids [4, 10], so every id can be told apart."""

    vocab_size, hash, end_ids = 65_536, "numbers", (END,)

    def has(self, token: str) -> bool:
        return False

    def id_of(self, token: str) -> int:
        raise KeyError(token)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    def save(self, directory: str | Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)


def make_tokens(directory: Path, lengths: Iterable[int], held_out: Iterable[int] = ()) -> TokenSet:
    """Documents of the given numbers of ids; no id comes twice, so a place is known by its token."""
    documents, first = [], 0
    for split, sizes in (("train", lengths), ("validation", held_out)):
        for size in sizes:
            text = " ".join(str(first + i) for i in range(size))
            documents.append(Document(id=f"{split}-{len(documents)}", text=text, split=split))
            first += size
    return write_tokens(documents, Numbers(), directory, shard_tokens=97)


def rows(batch: Batch) -> list[tuple[str, list[int], list[int], list[float]]]:
    ends = np.cumsum(batch.lengths)
    return [
        (
            name,
            batch.tokens[e - n : e].tolist(),
            batch.targets[e - n : e].tolist(),
            batch.weights[e - n : e].tolist(),
        )
        for name, n, e in zip(batch.ids, batch.lengths, ends, strict=True)
    ]


def same(a: list[Batch], b: list[Batch]) -> bool:
    names = ("tokens", "targets", "weights", "lengths")
    return len(a) == len(b) and all(
        x.ids == y.ids and all(np.array_equal(getattr(x, n), getattr(y, n)) for n in names)
        for x, y in zip(a, b, strict=True)
    )


def epoch_of(batches: Batches, epoch: int) -> list[Batch]:
    return [batches.micro(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]


shapes = st.tuples(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),  # tokens of each document
    st.integers(1, 40),  # length
    st.integers(1, 40),  # sequence, cut to length
    st.integers(1, 5),  # micro_batches
    st.integers(0, 2**40),  # seed
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes)
def test_an_epoch_predicts_every_token_once_and_nothing_leaks(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[list[int], int, int, int, int]
) -> None:
    sizes, length, sequence, micro_batches, seed = shape
    tokens = make_tokens(tmp_path_factory.mktemp("t"), sizes)
    batches = PretrainBatches(
        tokens, length=length, sequence=min(sequence, length), micro_batches=micro_batches, seed=seed
    )
    split = tokens.split("train")
    documents = {split.id(i): split.document(i).tolist() for i in range(len(split))}
    expected = Counter((name, i) for name, ids in documents.items() for i in range(len(ids) - 1))
    fills = []
    for epoch in (0, 1, 5):
        seen: Counter[tuple[str, int]] = Counter()
        for batch in epoch_of(batches, epoch):
            assert len(batch.tokens) == length
            for name, inputs, targets, weights in rows(batch):
                if not name:
                    assert not any(weights)
                    continue
                name, _, place = name.partition("[")
                ids = documents[name]
                start = int(place.partition(":")[0]) if place else 0
                stop = start + len(inputs)
                assert inputs == ids[start:stop] and targets == ids[start + 1 : stop + 1]
                assert len(inputs) <= min(sequence, length) and set(weights) == {1.0}
                assert place == "" if len(inputs) == len(ids) - 1 else place == f"{start}:{stop}]"
                seen.update((name, i) for i in range(start, stop))
            fills.append(batch.weight / length)
        assert seen == expected
    total = sum(expected.values())
    # 98 % full, but for the one batch that the rest of the corpus does not fill
    assert total >= 0.98 * (batches.per_epoch - 1) * length
    assert np.mean(fills) == pytest.approx(batches.fill)


def test_awkward_documents_are_cut_rather_than_padded(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, [60] * 200)  # two never fit into 100
    batches = PretrainBatches(tokens, length=100, micro_batches=1, seed=0)
    assert batches.fill >= 0.98 and batches.per_epoch == 120


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes, st.integers(1, 6), st.integers(0, 12))
def test_ranks_share_out_the_step_and_seeking_is_walking(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[list[int], int, int, int, int],
    world: int,
    step: int,
) -> None:
    sizes, length, sequence, micro_batches, seed = shape
    tokens = make_tokens(tmp_path_factory.mktemp("t"), sizes)

    def fresh() -> PretrainBatches:
        return PretrainBatches(
            tokens, length=length, sequence=min(sequence, length), micro_batches=micro_batches, seed=seed
        )

    walked = fresh()
    for earlier in range(step):
        walked.at(earlier)
    whole = walked.at(step)
    assert same(whole, fresh().at(step))
    assert len(whole) == micro_batches
    shares = [fresh().at(step, rank=rank, world=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    merged = [share[i] for i in range(len(shares[0])) for share in shares]
    assert same([batch for batch in merged if batch.sample_ids], whole)
    assert all(batch.weight == 0 for batch in merged[micro_batches:])
    assert walked.ids(step) == tuple(name for batch in whole for name in batch.sample_ids)


def test_epochs_and_seeds_differ_in_order_alone(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, range(2, 40))
    batches = PretrainBatches(tokens, length=64, micro_batches=2, seed=1)
    other = PretrainBatches(tokens, length=64, micro_batches=2, seed=2)
    orders = [[b.ids for b in epoch_of(source, e)] for source, e in ((batches, 0), (batches, 1), (other, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert batches.fingerprint != other.fingerprint
    assert batches.fingerprint == PretrainBatches(tokens, length=64, micro_batches=2, seed=1).fingerprint


def test_the_data_ends_where_it_should(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, [10] * 50)
    batches = PretrainBatches(tokens, length=100, micro_batches=2, seed=0, epochs=1)
    assert batches.per_epoch == 5 and batches.steps == batches.steps_per_epoch == 3
    last = [batches.at(2, rank=rank, world=2) for rank in range(2)]
    assert [len(share) for share in last] == [1, 1] and last[1][0].weight == 0
    assert len(batches.at(2)) == 2
    with pytest.raises(IndexError, match="step 3 of 3"):
        batches.at(3)
    endless = PretrainBatches(tokens, length=100, micro_batches=2, seed=0)
    assert endless.steps is None and len(endless.at(10**6)) == 2


def test_validation_is_the_other_split_and_always_the_same(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, [10] * 50, held_out=[12] * 20)
    first = PretrainBatches(tokens, length=50, micro_batches=2, seed=0)
    second = PretrainBatches(tokens, length=50, micro_batches=4, seed=9)
    assert same(first.validation(2), second.validation(2)) and len(first.validation(2)) == 2
    names = [name for batch in first.validation() for name in batch.sample_ids]
    assert sorted({name.partition("[")[0] for name in names}) == sorted(
        f"validation-{50 + i}" for i in range(20)
    )
    assert sum(batch.weight for batch in first.validation()) == 20 * 12
    assert (
        PretrainBatches(make_tokens(tmp_path / "b", [5]), length=8, micro_batches=1, seed=0).validation()
        == []
    )


def test_bad_sizes_are_named(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, [10])
    for settings_, message in (
        ({"length": 0}, "length must be 1"),
        ({"sequence": 9}, "sequence must be 1 to length"),
        ({"micro_batches": 0}, "micro_batches must be 1"),
        ({"seed": -1}, "seed must be 0"),
        ({"epochs": 0}, "epochs must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            PretrainBatches(tokens, **({"length": 8, "micro_batches": 1, "seed": 0} | settings_))
    with pytest.raises(DataError, match="nothing to train on in split 'test'"):
        PretrainBatches(tokens, length=8, micro_batches=1, seed=0, split="test")
    with pytest.raises(InputError, match="rank 2 is not one of 2"):
        PretrainBatches(tokens, length=8, micro_batches=1, seed=0).at(0, rank=2, world=2)


def make_samples(sizes: list[int]) -> list[Sample]:
    """Every third has an image at its second token."""
    samples = []
    for n, size in enumerate(sizes):
        image = {}
        weights = np.ones(size, np.float32)
        if n % 3 == 0 and size > 2:
            image = {
                "pixels": np.full((1, 12), n, np.float32),
                "grids": np.array([[1, 1]], np.int32),
                "positions": np.array([1], np.int64),
            }
            weights[1] = 0
        tokens = np.arange(size, dtype=np.int32) + 1000 * n
        samples.append(Sample(tokens=tokens, weights=weights, id=f"s{n}", **image))
    return samples


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(2, 20), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_samples_come_whole_and_once_an_epoch(sizes: list[int], micro: int, world: int, seed: int) -> None:
    samples = make_samples(sizes)
    batches = SampleBatches(samples, length=24, micro_batches=micro, seed=seed)
    by_id = {sample.id: sample for sample in samples}
    for epoch in (0, 3):
        seen = []
        for batch in epoch_of(batches, epoch):
            starts = np.cumsum(batch.lengths) - batch.lengths
            pictures = {}
            if batch.pixels is not None:
                pictures = dict(zip(batch.image_positions.tolist(), batch.pixels[:, 0], strict=True))
            for (name, inputs, targets, weights), start in zip(rows(batch), starts, strict=True):
                if not name:
                    continue
                sample = by_id[name]
                assert inputs == sample.tokens[:-1].tolist() and targets == sample.tokens[1:].tolist()
                assert weights == sample.weights[1:].tolist()
                if sample.pixels is not None:
                    assert pictures.pop(start + 1) == sample.pixels[0, 0]
                seen.append(name)
            assert not pictures
        assert sorted(seen) == sorted(by_id)
    shares = [batches.at(3, rank=rank, world=world) for rank in range(world)]
    merged = [share[i] for i in range(len(shares[0])) for share in shares]
    assert same([batch for batch in merged if batch.sample_ids], batches.at(3))
    assert batches.ids(3) == tuple(name for batch in batches.at(3) for name in batch.sample_ids)
    assert sorted(n for batch in batches.in_order() for n in batch.sample_ids) == sorted(by_id)


def test_lazy_samples_are_fetched_only_for_their_batch() -> None:
    samples = make_samples([5, 9, 12, 7] * 5)

    class Lazy(list):  # type: ignore[type-arg]
        fetched: list[int] = []

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.fetched.append(index)
            return super().__getitem__(index)

    lazy = Lazy(samples)
    batches = SampleBatches(
        lazy, length=24, micro_batches=1, seed=0, lengths=[s.length for s in samples], data_hash="known"
    )
    assert batches.fingerprint and lazy.fetched == []
    names = batches.at(0)[0].sample_ids
    assert sorted(f"s{index}" for index in lazy.fetched) == sorted(names)


def test_samples_that_cannot_be_taken_are_named() -> None:
    with pytest.raises(InputError, match=r"sample 1 \('s1'\) has 30 tokens and a batch takes 25"):
        SampleBatches(make_samples([4, 30]), length=24, micro_batches=1, seed=0)
    with pytest.raises(DataError, match="no samples"):
        SampleBatches([], length=24, micro_batches=1, seed=0)
    with pytest.raises(InputError, match="1 lengths were given for 2"):
        SampleBatches(make_samples([4, 4]), length=24, micro_batches=1, seed=0, lengths=[3])


def test_a_changed_sample_changes_the_fingerprint() -> None:
    def fingerprint(samples: list[Sample]) -> str:
        return SampleBatches(samples, length=24, micro_batches=1, seed=0).fingerprint

    changed = make_samples([9, 9])
    changed[1].weights[3] = 0.5
    assert fingerprint(make_samples([9, 9])) == fingerprint(make_samples([9, 9])) != fingerprint(changed)


def test_a_mixture_of_text_and_samples_keeps_its_shares(tmp_path: Path) -> None:
    text = PretrainBatches(make_tokens(tmp_path, [10] * 50), length=24, micro_batches=1, seed=0)
    chat = SampleBatches(make_samples([12] * 20), length=24, micro_batches=1, seed=0, epochs=2)
    mixed = MixedBatches({"text": text, "chat": chat}, {"text": 3, "chat": 1}, micro_batches=4)
    for step in range(5):
        chats = [batch for batch in mixed.at(step) if batch.ids[0].startswith("s")]
        assert len(chats) == 1
    assert mixed.steps is None
    names = Counter(name for step in range(40) for name in mixed.ids(step) if name.startswith("s"))
    assert names == {f"s{n}": 2 for n in range(20)}  # two epochs, then text alone
    assert (
        mixed.fingerprint
        != MixedBatches({"text": text, "chat": chat}, {"text": 2, "chat": 1}, micro_batches=4).fingerprint
    )
    short = SampleBatches(make_samples([4]), length=8, micro_batches=1, seed=0)
    with pytest.raises(InputError, match="same length"):
        MixedBatches({"a": chat, "b": short}, {"a": 1, "b": 1}, micro_batches=1)
    with pytest.raises(InputError, match="do not match"):
        MixedBatches({"a": chat}, {"b": 1}, micro_batches=1)


def test_a_permutation_is_one_and_never_changes() -> None:
    assert sorted(permutation(1000, 3, 4, 5)) == list(range(1000))
    assert permutation(8, 1, 2, 3).tolist() == [
        0,
        6,
        2,
        3,
        1,
        4,
        7,
        5,
    ]  # a run may be resumed under another numpy


def test_prefetching_gives_the_same_steps_and_ends_its_thread(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path, [10] * 50)
    batches = PretrainBatches(tokens, length=30, micro_batches=2, seed=0, epochs=2)
    assert batches.steps is not None
    with prefetch(batches, 3, rank=1, world=2) as ahead:
        taken = list(ahead)
    assert len(taken) == batches.steps - 3
    for step, step_batches in enumerate(taken, start=3):
        assert same(step_batches, batches.at(step, rank=1, world=2))
    endless = PretrainBatches(tokens, length=30, micro_batches=2, seed=0)
    with prefetch(endless) as ahead:
        assert same(next(ahead), endless.at(0))
    assert not [thread for thread in threading.enumerate() if "whorl-prefetch" in thread.name]


def test_what_goes_wrong_ahead_is_raised_at_its_step() -> None:
    class Broken(SampleBatches):
        def micro(self, number: int) -> Batch:
            if number == 2:
                raise DataError("the disk is gone")
            return super().micro(number)

    batches = Broken(make_samples([20] * 5), length=24, micro_batches=1, seed=0)
    with prefetch(batches, depth=4) as ahead:
        assert same(next(ahead), batches.at(0)) and same(next(ahead), batches.at(1))
        with pytest.raises(DataError, match="the disk is gone"):
            next(ahead)
