"""The same batch through TRL's own trainer: losses, rewards and gradients are equal for every variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.post.preferences import LANDS, records, save_tiny, write
from whorl.models.directory import load
from whorl.models.init import init_weights
from whorl.parallel.group import Group
from whorl.post.pair_batches import PairBatches
from whorl.post.pair_samples import Maker, PairSample, pair_samples
from whorl.post.pairs import read_pairs
from whorl.post.preference import Preference
from whorl.post.reference import compute_reference
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.train.batches import MicroBatch

trl = pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")


def row(pair: PairSample) -> dict[str, list[int]]:
    """A pair's ids as TRL's collator takes them."""
    start = int((pair.chosen.weights > 0).argmax())
    tokens = [half.tokens.tolist() for half in (pair.chosen, pair.rejected)]
    return {
        "prompt_ids": tokens[0][:start], "chosen_ids": tokens[0][start:], "rejected_ids": tokens[1][start:],
    }  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path, list[PairSample]]:
    """TRL's trainer over two directories of ours, the directories, and the pairs."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("trl")
    model, reference = save_tiny(folder / "model"), save_tiny(folder / "reference")
    moved = init_weights(load(reference), 7)  # so that the two disagree
    from whorl.models.directory import save

    tokenizer = Tokenizer.load(model)
    save(moved, reference, tokenizer, template=ChatTemplate.default())
    maker = Maker(tokenizer, ChatTemplate.load(model))
    pairs, _ = pair_samples(
        read_pairs(write(folder / "pairs.jsonl", records())), maker, length=1024, max_length=256
    )
    open_model = transformers.AutoModelForCausalLM.from_pretrained
    words = [{"prompt": f"{land}?", "chosen": "a", "rejected": "b"} for land in LANDS]
    trainer = trl.DPOTrainer(
        model=open_model(model, dtype=torch.float32), ref_model=open_model(reference, dtype=torch.float32),
        args=trl.DPOConfig(
            output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False,
            gradient_checkpointing=False, disable_dropout=True, max_length=None,
        ),
        train_dataset=Dataset.from_list(words),
        processing_class=transformers.AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    return trainer, model, reference, pairs


@pytest.mark.parametrize(
    ("loss", "beta", "nll", "count"),
    [("sigmoid", 0.1, 0.0, 8), ("sigmoid_norm", 2.0, 0.0, 8), ("ipo", 0.3, 0.0, 8), ("sigmoid", 0.5, 0.8, 1)],
)  # TRL's own loss term averages over all tokens and not over pairs: with one pair the two are the same
def test_trl_agrees(both: Any, loss: Any, beta: float, nll: float, count: int) -> None:
    trainer, directory, other, pairs = both
    pairs = pairs[:count]
    trainer.loss_types, trainer.loss_weights = ([loss, "sft"], [1.0, nll]) if nll else ([loss], [1.0])
    trainer.beta = beta
    trainer._metrics["train"].clear()
    trainer.model.train()
    trainer.model.zero_grad()
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator([row(pair) for pair in pairs]))
    theirs.backward()

    model = load(directory)
    known = compute_reference(load(other), pairs, 1024, CPU, Group())
    (batch,) = PairBatches(pairs, length=1024, micro_batches=1, seed=0, reference=known).in_order()
    objective = Preference(loss, beta, nll)
    ours, figures = objective(model, MicroBatch.of(batch, CPU))
    (ours / batch.weight).backward()

    assert float(ours) / batch.weight == pytest.approx(float(theirs), abs=1e-5)
    wanted = trainer.model.get_input_embeddings().weight.grad
    assert model.embed.weight.grad is not None and wanted.abs().max() > 1e-4
    torch.testing.assert_close(model.embed.weight.grad, wanted, atol=1e-5, rtol=1e-4)
    said = {name: values[0] for name, values in trainer._metrics["train"].items() if values}
    mine = {name: float(value) / batch.weight for name, value in figures.items()}
    assert mine["chosen_logp"] == pytest.approx(said["logps/chosen"], abs=1e-4)
    assert mine["rejected_logp"] == pytest.approx(said["logps/rejected"], abs=1e-4)
    if loss == "sigmoid":  # TRL's rewards are sums whatever the loss compares
        assert mine["margin"] == pytest.approx(said["rewards/margins"], abs=1e-5)
        assert mine["accuracy"] == pytest.approx(said["rewards/accuracies"])
