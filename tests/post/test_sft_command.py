"""`whorl sft` as it is typed: on two ranks as on one, and with a template that hides earlier thinking."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whorl.base.logbook import read_metrics, series
from whorl.base.nouns import Conversation, Message
from whorl.data.batch import Sample
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.models.init import init_weights
from whorl.post.samples import chat_samples
from whorl.text.bpe import train_bpe
from whorl.text.template import ARGS_FILE, TEMPLATE_FILE, ChatTemplate
from whorl.text.tokenizer import Tokenizer

THINKING = Path(__file__).parent.parent / "text" / "templates" / "thinking.jinja"
TEXT = "What is the capital of that land? It is Paris, Rome, Oslo, Cairo or Lima. Let me think. " * 20


def chat(number: int) -> Conversation:
    lands = ["France", "Italy", "Norway", "Egypt", "Peru"]
    messages = []
    for turn in range(1 + number % 3):
        land = lands[(number + turn) % 5]
        messages.append(Message(role="user", content=(f"The capital of {land}?",)))
        messages.append(
            Message(role="assistant", content=(f"Not sure about {land}.",), reasoning="Let me think.")
        )
    return Conversation(messages=tuple(messages), id=str(number))


CHATS = [chat(number) for number in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory and its chats; every part of the vocabulary is ours."""
    path = tmp_path_factory.mktemp("sft")
    tokenizer = train_bpe([TEXT], 360)
    axes = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=16,
        d_ff=48, context=256,
    )  # fmt: skip
    save(init_weights(Decoder(axes), 0), path / "model", tokenizer, template=ChatTemplate.default())
    lines = [{"messages": [message.to_openai() for message in one.messages]} for one in CHATS]
    (path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def whorl_sft(folder: Path, model: str, name: str, *more: str) -> str:
    words = [
        "--name", name, "--length", "192", "--validation", "0", "--train.device", "cpu",
        "--train.compile", "off", "--train.dtype", "float32", "--train.optim.newton-schulz", "float32", *more,
    ]  # fmt: skip
    command = [sys.executable, "-m", "whorl", "sft", model, "chats.jsonl", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.soak
def test_two_ranks_learn_as_one_does(folder: Path) -> None:
    steps = ["--micro-batches", "4", "--train.steps", "8"]
    whorl_sft(folder, "model", "one", *steps)
    whorl_sft(folder, "model", "two", *steps, "--gpus", "2")
    losses = [series(read_metrics(folder / "runs" / name), "loss")[1] for name in ("one", "two")]
    assert len(losses[0]) == 8 and losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    assert (folder / "runs" / "two" / "model" / "config.json").exists()


def learnt(sample: Sample, tokenizer: Tokenizer) -> list[str]:
    """What is learnt of a sample, run by run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.weights > 0, [0]])))
    return [tokenizer.decode(sample.tokens[a:b].tolist()) for a, b in edges.reshape(-1, 2)]


def test_a_template_that_hides_earlier_thinking_learns_each_reply_as_it_is_served(folder: Path) -> None:
    shutil.copytree(folder / "model", folder / "thinker")
    shutil.copy(THINKING, folder / "thinker" / TEMPLATE_FILE)
    said = whorl_sft(
        folder, "thinker", "thinks", "--train.steps", "2", "--template-args", '{"enable_thinking": true}'
    )
    assert "Let me think." in said, "the samples are shown before the first step"
    made = folder / "runs" / "thinks" / "model"
    assert json.loads((made / ARGS_FILE).read_text()) == {"enable_thinking": True}
    template, tokenizer = ChatTemplate.load(made), Tokenizer.load(made)
    three = CHATS[2]
    samples, _ = chat_samples([three], tokenizer, template, max_length=256)
    assert len(samples) == 3, "one for each reply: what stands before it is rendered otherwise each time"
    for number, sample in enumerate(samples):
        prompt = Conversation(messages=three.messages[: 2 * number + 1])
        served = template.render(prompt, tokenizer, reply=True).ids
        assert sample.tokens[: len(served)].tolist() == served
        (reply,) = learnt(sample, tokenizer)
        text = three.messages[2 * number + 1].text
        assert reply == f"<think>\nLet me think.\n</think>\n\n{text}<|im_end|>"
