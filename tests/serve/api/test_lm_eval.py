"""lm-eval over our completions: a likelihood task and GSM8K come out as our own numbers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.models.learnt import save_learnt
from tests.serve.api.conftest import Server, serving
from whorl.base.client import OpenAIClient
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.evals.evaluation import Report, evaluate
from whorl.kernels.cross_entropy import linear_cross_entropy
from whorl.models import load
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.models.likelihood import log_probs
from whorl.tasks.gsm8k import GSM8K
from whorl.tasks.task import Example
from whorl.text.bpe import train_bpe
from whorl.text.samples import train_samples
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

lm_eval = pytest.importorskip("lm_eval")
tasks = pytest.importorskip("lm_eval.tasks")
DATA = Path(os.environ.get("WHORL_TEST_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
PROBLEMS = 4


def run(server: Server, directory: Path, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    arguments = {
        "model": directory.name, "base_url": f"{server.address}/v1/completions", "tokenizer": str(directory),
        "tokenizer_backend": "huggingface", "num_concurrent": 4, "max_length": 1000,
    }  # fmt: skip
    found = lm_eval.simple_evaluate(
        model="local-completions", model_args=arguments, tasks=[task], log_samples=True,
        bootstrap_iters=0, verbosity="ERROR",
        task_manager=tasks.TaskManager(include_defaults=False),  # ten seconds to read all of its own
        **more,
    )  # fmt: skip
    assert found is not None
    return found


def local(path: Path, **more: Any) -> dict[str, Any]:
    """An lm-eval task over a file of JSON lines."""
    files = {"data_files": {"test": str(path)}}
    return {"task": path.stem, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"} | more


def own_gsm8k(problems: Path) -> dict[str, Any]:
    """lm-eval's own GSM8K, its prompt, filters and metric, over these problems and without examples (the
    pupil's context is short)."""
    definition = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    del definition["dataset_name"]
    files = {"data_files": dict.fromkeys(("train", "test"), str(problems))}
    return dict(definition) | {"dataset_path": "json", "dataset_kwargs": files, "num_fewshot": 0}


def asked_by_lm_eval(example: Example) -> Conversation:
    text = f"Question: {example.conversation.messages[0].text}\nAnswer:"
    return Conversation(messages=(Message(role="user", content=(text,)),))


def test_log_likelihoods_are_ours(server: Server, tmp_path: Path) -> None:
    rows = [{"q": "light, then", "a": " dark", "b": " five"}, {"q": "It is", "a": " five.", "b": " dark."},
            {"q": "2+3", "a": "?", "b": "!"}]  # fmt: skip
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    directory = save_learnt(tmp_path / "knows")
    task = local(
        path, output_type="multiple_choice", doc_to_text="{{q}}", doc_to_target=0,
        doc_to_choice="{{[a, b]}}", target_delimiter="",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    found = run(server, directory, task)
    model, tokenizer = load(directory), Tokenizer.load(directory)

    def score(question: str, answer: str) -> float:
        whole, asked = tokenizer.encode(question + answer), tokenizer.encode(question)
        return float(log_probs(model, [whole])[0][len(asked) - 1 :].sum())

    right = []
    for sample in found["samples"]["choices"]:
        row = sample["doc"]
        ours = [score(row["q"], row[key]) for key in ("a", "b")]
        np.testing.assert_allclose([response[0][0] for response in sample["resps"]], ours, atol=1e-3)
        right.append(ours[0] > ours[1])
    assert len(right) == len(rows)
    assert found["results"]["choices"]["acc,none"] == pytest.approx(np.mean(right))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (DATA / "gsm8k-test.jsonl").exists():
        pytest.skip("needs gsm8k-test.jsonl in $WHORL_TEST_DATA")
    with (DATA / "gsm8k-test.jsonl").open() as lines:
        few = [next(lines) for _ in range(PROBLEMS)]
    path = tmp_path_factory.mktemp("gsm8k") / "problems.jsonl"
    path.write_text("".join(few))
    return path


@pytest.fixture(scope="module")
def pupil(problems: Path) -> Path:
    """A model that knows the answers by heart, asked our way and lm-eval's, and one of them wrong."""
    examples = list(GSM8K(test=problems).examples("test"))
    answers = [f"#### {example.reference}" for example in examples]
    answers[1] = "#### 77"
    directory = problems.parent / "pupil"
    tokenizer = train_bpe([json.dumps([example.conversation.messages[0].text for example in examples])], 500)
    template = ChatTemplate.default()
    save(taught(tokenizer, template, examples, answers), directory, tokenizer, template=template)
    return directory


def taught(
    tokenizer: Tokenizer, template: ChatTemplate, examples: Sequence[Example], answers: Sequence[str]
) -> Decoder:
    ids: list[int] = []
    mask: list[bool] = []
    lengths = []
    for example, answer in zip(examples, answers, strict=True):
        for asked in (example.conversation, asked_by_lm_eval(example)):
            messages = (*asked.messages, Message(role="assistant", content=(answer,)))
            for sample in train_samples(Conversation(messages=messages), tokenizer, template):
                ids, mask = ids + sample.ids, mask + sample.mask
                lengths.append(len(sample.ids))
    torch.manual_seed(0)
    model = Decoder(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16,
            d_ff=128, context=1024,
        )
    )  # fmt: skip
    torch.nn.init.normal_(model.embed.weight, std=0.02)
    tokens, weights = torch.tensor(ids), torch.tensor(mask).roll(-1).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(150):
        loss = model(
            tokens, Packed(lengths), None,
            lambda hidden, head: linear_cross_entropy(hidden, head.weight, tokens.roll(-1), weights),
        ) / weights.sum()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05, "the test below needs what was learnt"
    return model.eval()


def test_gsm8k_scores_as_ours(problems: Path, pupil: Path) -> None:
    greedy = SamplingParams(max_tokens=12, temperature=0.0)

    async def ours(address: str) -> Report:
        async with OpenAIClient(address, model=pupil.name) as client:
            return await evaluate(client, [(GSM8K(test=problems), ())], params=greedy)

    with serving(model=pupil) as server:
        theirs = run(server, pupil, own_gsm8k(problems), apply_chat_template=True)
        report = asyncio.run(ours(server.address))
    [figure] = report.figures()
    assert figure["cases"] == PROBLEMS
    for way in ("strict-match", "flexible-extract"):
        assert theirs["results"]["gsm8k"][f"exact_match,{way}"] == figure["value"] == 1 - 1 / PROBLEMS
    replies = [case.conversation.messages[-1].text for case in report.tasks[0].cases]
    samples = [sample for sample in theirs["samples"]["gsm8k"] if sample["filter"] == "strict-match"]
    assert sorted(sample["resps"][0][0] for sample in samples) == sorted(replies)
