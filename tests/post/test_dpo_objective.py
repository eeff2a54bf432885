"""The preference objectives: gradients against plain torch, accumulation, packing, the reference's pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from whorl.base.errors import DataError
from whorl.base.logbook import Logbook, read_metrics, series
from whorl.data.batch import Batch, Sample
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.init import init_weights
from whorl.parallel.group import Group
from whorl.post.config import PreferenceLoss
from whorl.post.pair_batches import PairBatches, Reference
from whorl.post.pair_samples import PairSample
from whorl.post.preference import Preference
from whorl.post.reference import FILE, compute_reference, keep_reference, read_reference
from whorl.train.batches import MicroBatch
from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig
from whorl.train.loop import fit

LOSSES: tuple[PreferenceLoss, ...] = ("sigmoid", "sigmoid_norm", "ipo")
CPU = torch.device("cpu")
MODEL = ModelConfig(
    vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, context=64,
    qk_norm=True, logit_soft_cap=20.0,
)  # fmt: skip


def pairs_of(count: int, seed: int = 0) -> list[PairSample]:
    """Random prompts with two random replies each, all of unequal lengths."""
    draw = np.random.default_rng(seed)

    def made(number: int) -> PairSample:
        prompt = draw.integers(2, 64, int(draw.integers(1, 12)))
        halves = []
        for side in ("chosen", "rejected"):
            reply = draw.integers(2, 64, int(draw.integers(1, 12)))
            tokens = np.concatenate([prompt, reply]).astype(np.int32)
            weights = np.zeros(len(tokens), np.float32)
            weights[len(prompt) :] = 0.5 / len(reply)
            halves.append(Sample(tokens=tokens, weights=weights, id=f"{number}/{side}"))
        return PairSample(*halves)

    return [made(number) for number in range(count)]


def model_of(seed: int) -> Decoder:
    return init_weights(Decoder(MODEL), seed)


def reference_of(pairs: list[PairSample]) -> Reference:
    return compute_reference(model_of(1), pairs, 128, CPU, Group())


def batch_of(pairs: list[PairSample], length: int = 512) -> Batch:
    """All pairs in one batch, with their reference's log-probs."""
    (batch,) = PairBatches(
        pairs, length=length, micro_batches=1, seed=0, reference=reference_of(pairs)
    ).in_order()
    return batch


def reply_logps(model: Decoder, sample: Sample) -> Tensor:
    """The plain way: one document, all logits, log-softmax; the reply's tokens."""
    tokens = torch.from_numpy(sample.tokens).long()
    logits = model.logits(model(tokens[:-1], Packed([len(tokens) - 1])))
    logps = log_softmax(logits.float(), -1).gather(1, tokens[1:, None])[:, 0]
    return logps[torch.from_numpy(sample.weights[1:] > 0)]


def plain_loss(objective: Preference, model: Decoder, reference: Decoder, pairs: list[PairSample]) -> Tensor:
    """Σ over pairs, written as the papers do."""
    total = torch.zeros(())
    for pair in pairs:
        mine = [reply_logps(model, half) for half in (pair.chosen, pair.rejected)]
        with torch.no_grad():
            theirs = [reply_logps(reference, half) for half in (pair.chosen, pair.rejected)]
        ratios = [a.sum() - b.sum() for a, b in zip(mine, theirs, strict=True)]
        means = [ratio / len(logps) for ratio, logps in zip(ratios, mine, strict=True)]
        delta = ratios[0] - ratios[1]
        if objective.loss == "sigmoid":
            loss = -logsigmoid(objective.beta * delta)
        elif objective.loss == "sigmoid_norm":
            loss = -logsigmoid(objective.beta * (means[0] - means[1]))
        else:
            loss = (means[0] - means[1] - 1 / (2 * objective.beta)) ** 2
        total = total + loss - objective.nll * mine[0].mean()
    return total


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_a_step_is_plain_torchs(loss: PreferenceLoss, nll: float) -> None:
    objective = Preference(loss, 0.4, nll)
    pairs = pairs_of(9)
    ours, plain = model_of(0), model_of(0)
    value, figures = objective(ours, MicroBatch.of(batch_of(pairs), CPU))
    wanted = plain_loss(objective, plain, model_of(1), pairs)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    for model, result in ((ours, value), (plain, wanted)):
        result.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5, msg=name)
    assert 0 <= float(figures["accuracy"]) <= len(pairs) and float(figures["divergence"]) > 0
    measured = objective.measure(plain, MicroBatch.of(batch_of(pairs), CPU))
    again, _ = objective(plain, MicroBatch.of(batch_of(pairs), CPU))
    assert measured["loss"].item() == pytest.approx(again.item(), rel=1e-6), "validation measures the loss"


def test_at_the_start_nothing_is_preferred() -> None:
    pairs = pairs_of(6)
    batch = MicroBatch.of(batch_of(pairs), CPU)
    value, figures = Preference("sigmoid", 0.3)(model_of(1), batch)
    assert value.item() / 6 == pytest.approx(np.log(2), abs=1e-5)
    assert float(figures["margin"]) == pytest.approx(0, abs=1e-4)
    assert float(figures["divergence"]) == pytest.approx(0, abs=1e-5)


def test_a_batch_of_padding_is_no_pair_and_moves_nothing() -> None:
    model = model_of(0)
    value, figures = Preference()(model, MicroBatch.of(Batch.empty(32), CPU))
    value.backward()
    assert float(value) == 0 and not any(float(figure) for figure in figures.values())
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(46, 200), st.integers(1, 5), st.integers(0, 99))
def test_pairs_stay_together_and_come_once_an_epoch(
    count: int, length: int, micro_batches: int, seed: int
) -> None:
    pairs = pairs_of(count, seed)
    batches = PairBatches(pairs, length=length, micro_batches=micro_batches, seed=seed)
    seen: list[str] = []
    for number in range(batches.per_epoch):
        batch = batches.micro(number)
        names = batch.sample_ids
        assert names == batches.micro_ids(number)
        assert [name.split("/")[1] for name in names] == ["chosen", "rejected"] * (len(names) // 2)
        assert [a.split("/")[0] for a in names[::2]] == [b.split("/")[0] for b in names[1::2]]
        assert batch.weight == pytest.approx(len(names) / 2)
        seen += [name.split("/")[0] for name in names[::2]]
    assert sorted(seen, key=int) == [str(number) for number in range(count)]


def test_the_references_log_probs_stand_at_their_tokens() -> None:
    pairs = pairs_of(12)
    batches = PairBatches(pairs, length=64, micro_batches=1, seed=3, reference=reference_of(pairs))
    reference, halves = model_of(1), {half.id: half for p in pairs for half in (p.chosen, p.rejected)}
    for number in range(batches.per_epoch):
        batch = batches.micro(number)
        assert batch.reference is not None
        parts = np.split(np.where(batch.weights > 0, batch.reference, np.nan), np.cumsum(batch.lengths)[:-1])
        for id, part in zip(batch.sample_ids, parts, strict=False):
            with torch.no_grad():
                wanted = reply_logps(reference, halves[id]).numpy()
            np.testing.assert_allclose(part[~np.isnan(part)], wanted, atol=1e-5)


def trained(pairs: list[PairSample], run: str, length: int, micro_batches: int, tmp: object) -> Decoder:
    """Two steps of fit; the pairs of a step are the same whatever the sizes, since there is but one epoch."""
    model = model_of(0)
    batches = PairBatches(
        pairs, length=length, micro_batches=micro_batches, seed=0, reference=reference_of(pairs)
    )
    assert batches.per_epoch == micro_batches, "a step is the whole epoch"
    config = TrainConfig(
        steps=2, dtype="float32", compile="off", device="cpu", schedule=ScheduleConfig(warmup=1),
        optim=OptimConfig(newton_schulz="float32", lr=1e-3, muon_lr=1e-3),
    )  # fmt: skip
    objective = Preference("sigmoid", 0.5)
    with Logbook(f"{tmp}/{run}") as logbook:
        fit(
            model,
            batches,
            objective,
            config,
            logbook,
            validation=batches.in_order(),
            measure=objective.measure,
        )
    return model


def test_accumulation_equals_the_big_batch(tmp_path: object) -> None:
    pairs = pairs_of(16)
    small = PairBatches(pairs, length=64, micro_batches=1, seed=0).per_epoch
    assert small > 3
    parts, whole = trained(pairs, "parts", 64, small, tmp_path), trained(pairs, "whole", 1024, 1, tmp_path)
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    for name in ("loss", "margin", "accuracy", "divergence", "validation_loss", "validation_margin"):
        one, two = (series(read_metrics(f"{tmp_path}/{run}"), name)[1] for run in ("parts", "whole"))
        assert one and one == pytest.approx(two, abs=1e-5), name


def test_a_kept_reference_is_read_back_or_refused(tmp_path: object) -> None:
    from pathlib import Path

    run, pairs = Path(str(tmp_path)), pairs_of(5)
    known = reference_of(pairs)
    assert read_reference(run, pairs, "v1") is None
    keep_reference(run, pairs, "v1", known)
    back = read_reference(run, pairs, "v1")
    assert back is not None
    assert all(
        np.array_equal(a, b) for x, y in zip(known, back, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert read_reference(run, pairs, "v2") is None and read_reference(run, pairs[:4], "v1") is None
    data = bytearray((run / FILE).read_bytes())
    data[-1] ^= 1
    (run / FILE).write_bytes(data)
    with pytest.raises(DataError, match="does not match its hash; remove it"):
        read_reference(run, pairs, "v1")
    (run / FILE).write_bytes(data[:20])
    with pytest.raises(DataError, match="damaged"):
        read_reference(run, pairs, "v1")
