"""The round trip with real models and servers: one that has learnt something, one that has not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.models.learnt import IMAGES, TEMPLATE, learnt_tokenizer, save_learnt
from whorl.arena.store.exporting import export
from whorl.arena.store.store import Store
from whorl.base.errors import FaultError
from whorl.base.files import read_jsonl
from whorl.base.lineage import trace_back
from whorl.base.logbook import Logbook, read_events
from whorl.base.nouns import Conversation, Message, Trace
from whorl.models.directory import load, save
from whorl.models.weights import weight_version
from whorl.quickstart.plan import plan_round_trip
from whorl.quickstart.round_trip import RoundTrip
from whorl.quickstart.stages import MemoryWatch, Stages
from whorl.tasks.task import Example, Grade

WORDS = ("alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "ivy", "juniper")


@dataclass(frozen=True)
class Known:
    """Whatever is asked, a reply should hold what has been learnt: nearly `tests.models.learnt.BROKEN`."""

    name: str = "known"

    def examples(self, split: str) -> Iterator[Example]:
        for number, word in enumerate(WORDS * 4):
            text = f"{word} {split} {number}?"
            asked = Conversation(messages=(Message(role="user", content=(text,)),), id=text)
            yield Example(id=text, conversation=asked, reference="")

    async def grade(self, example: Example, trace: Trace) -> Grade:
        return Grade(score=float("ops" in trace.message.text))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with `base`, which knows nothing, and `model`, which knows a little."""
    run = tmp_path_factory.mktemp("learnt") / "runs" / "small"
    save_learnt(run / "model")
    untaught = load(run / "model")
    torch.manual_seed(0)
    for parameter in untaught.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    save(untaught, run / "base", learnt_tokenizer(), template=TEMPLATE, images=IMAGES)
    return run


def trip(run: Path, store: Store, logbook: Logbook, memory: MemoryWatch) -> RoundTrip:
    return RoundTrip(
        run=run, store=store, plan=plan_round_trip(0.2), tasks=[(Known(), ())],
        stages=Stages(run, logbook, memory), logbook=logbook, dtype="float32",
    )  # fmt: skip


def test_votes_train_a_model_that_enters_the_arena(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "small"
    shutil.copytree(models, run)
    served: list[Sequence[str]] = []
    real = RoundTrip._play

    async def fails_at_the_rematch(self: RoundTrip, rounds: dict, parts: Sequence[str]) -> None:
        served.append(parts)
        await real(self, rounds, parts)
        if len(served) == 2:
            raise FaultError("the machine went to sleep")

    monkeypatch.setattr(RoundTrip, "_play", fails_at_the_rematch)
    with Store.open(tmp_path / "arena" / "arena.sqlite") as store, Logbook(run) as logbook:
        with MemoryWatch() as memory, pytest.raises(FaultError):
            trip(run, store, logbook, memory).go()
        dpo = run / "dpo" / "model"
        made = weight_version(dpo)
        assert made != weight_version(run / "model")
        with MemoryWatch() as memory:
            again = trip(run, store, logbook, memory)
            assert again.go() and served == [("base", "chat"), ("chat", "dpo")]
        assert weight_version(dpo) == made, "what was done is not done again"
        above, below, lost = again.stages.value("rematch")["rows"]
        assert above["cases"] + below["cases"] == len(list(store.battles())) >= 8
        assert above["cases"] > 0 and below["cases"] > 0
        assert lost["value"] == 0 and lost["cases"] == store.verify().votes >= 14
        assert below["value"] >= below["floor"] and above["value"] > 0
        known = {model.name: Path(model.address) for model in store.models()}
        assert known == {"small-base": run / "base", "small-chat": run / "model", "small-dpo": dpo}
        weights = {weight_version(place) for place in known.values()}
        made_of = export(store, tmp_path / "export")
        traces = list(read_jsonl(tmp_path / "export" / "traces.jsonl"))
        assert made_of.traces == len(traces) >= 2 * made_of.preferences > 0
        for trace in traces:
            assert len(trace["token_ids"]) == len(trace["logprobs"]) > 0 and trace["prompt_ids"]
            assert trace["weight_version"] in weights
        assert {
            weight for vote in store.battles() for weight in (*vote.weights_a, *vote.weights_b)
        } == weights
    pairs, tokens = (list(read_jsonl(run / "arena" / name)) for name in ("pairs.jsonl", "traces.jsonl"))
    named = {id for pair in pairs for side in ("chosen", "rejected") for id in pair[f"{side}_traces"]}
    assert named == {trace["trace"] for trace in tokens} and len(tokens) >= 2 * len(pairs) > 0
    results = [event["name"] for event in read_events(run) if event["kind"] == "result"]
    assert len(results) == 3 and "votes lost" in results[-1]
    found = trace_back(made, tmp_path)
    assert {origin.name for origin in found.origins[0].origins} >= {"pairs.jsonl"}
