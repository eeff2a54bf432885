"""Chat training end to end on tiny models: what is learnt, what is saved, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, ImagePart, Message, SamplingParams, ToolCall
from whorl.models.chat import Assistant
from whorl.models.config import LoraConfig, ModelConfig, VisionConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import load, save
from whorl.models.init import init_weights
from whorl.models.weights import weight_version
from whorl.post.config import SftConfig, SftTrainConfig
from whorl.post.preview import histogram, marked
from whorl.post.samples import chat_samples
from whorl.post.sft import sft
from whorl.text.bpe import train_bpe
from whorl.text.config import ImageConfig
from whorl.text.images import image_tokens
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer

IMAGES = ImageConfig(patch_size=4, max_size=16, breaks=False)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEXT = (
    "What is the name of the colour you see here? It is red, green or blue. Paris Rome Oslo Cairo Lima " * 20
)


def picture(colour: tuple[int, int, int]) -> ImagePart:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return ImagePart(data=file.getvalue())


def chat(*parts: str | ImagePart, reply: str) -> Conversation:
    return Conversation(
        messages=(Message(role="user", content=parts), Message(role="assistant", content=(reply,)))
    )


CAPITALS = {"France": "Paris", "Italy": "Rome", "Norway": "Oslo", "Egypt": "Cairo", "Peru": "Lima"}
CHATS = [chat(f"The capital of {land}?", reply=f"It is {town}.") for land, town in CAPITALS.items()]
CHATS += [chat(picture(rgb), "Which colour?", reply=name) for name, rgb in COLOURS.items()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], 400)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A llava directory with random weights and our template."""
    vision = VisionConfig(
        d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=64, patch_size=4, image_size=16,
        image_token=tokenizer.id_of("[IMG]"),
    )  # fmt: skip
    axes = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32,
        d_ff=128, context=256, qk_norm=True, vision=vision,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("base") / "model"
    model = init_weights(Decoder(axes), 0)
    save(model, path, tokenizer, template=ChatTemplate.default(), images=IMAGES, family="qwen3")
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    lines = [{"messages": [message.to_openai() for message in chat.messages]} for chat in CHATS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def settings(base: Path, chats: Path, runs: Path, steps: int, **more: object) -> SftConfig:
    train = SftTrainConfig.model_validate(
        {"steps": steps, "compile": "off", "dtype": "float32", "optim": {"lr": 3e-3, "muon_lr": 2e-2}}
    )
    given = {"model": str(base), "chats": (str(chats),), "runs": str(runs), "length": 256, "validation": 0.0}
    return SftConfig.model_validate(given | {"train": train} | more)


def replies(directory: Path, model: Decoder, asked: list[Conversation]) -> list[str]:
    assistant = Assistant(
        model, Tokenizer.load(directory), ChatTemplate.load(directory), IMAGES, SamplingParams(max_tokens=12)
    )
    prompts = [Conversation(messages=chat.messages[:1]) for chat in asked]
    return [trace.message.text for trace in assistant.reply(prompts)]


def test_it_learns_its_chats_by_heart_images_too(base: Path, chats: Path, tmp_path: Path) -> None:
    state = sft(settings(base, chats, tmp_path, 100))
    directory = tmp_path / "sft" / "model"
    assert state.step == 100 and state.losses[-1] < 0.1 < state.losses[0]
    assert replies(directory, load(directory), CHATS) == [chat.messages[1].text for chat in CHATS]
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"]


def test_lora_leaves_the_base_as_it_was_and_its_adapter_loads(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    before = weight_version(base)
    state = sft(settings(base, chats, tmp_path, 12, lora=LoraConfig(rank=4)))
    adapter = tmp_path / "sft" / "adapter"
    assert weight_version(base) == before and not (tmp_path / "sft" / "model").exists()
    plain, adapted = load(base), load(base, adapter=adapter)
    assert state.losses[-1] < state.losses[0]
    tokens = torch.arange(20)
    from whorl.models.context import Packed

    with torch.no_grad():
        assert not torch.allclose(plain(tokens, Packed([20])), adapted(tokens, Packed([20])), atol=1e-4)


def test_template_arguments_are_kept_with_the_model(base: Path, chats: Path, tmp_path: Path) -> None:
    loop = "{%- for message in messages -%}"
    source = ChatTemplate.default().source.replace(loop, "{{ greeting or '' }}" + loop, 1)
    (base / "chat_template.jinja").rename(base / "kept")
    try:
        (base / "chat_template.jinja").write_text(source)
        sft(settings(base, chats, tmp_path, 1, template_args={"greeting": "Hi"}))
    finally:
        (base / "kept").replace(base / "chat_template.jinja")
    assert ChatTemplate.load(tmp_path / "sft" / "model").args == {"greeting": "Hi"}


def test_what_is_learnt_is_what_will_be_generated(tokenizer: Tokenizer) -> None:
    """Before every learnt run stand exactly the ids the prompt will be served with."""
    template = ChatTemplate.default()
    call = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": 1}),))
    messages = (
        Message(role="user", content=(picture((1, 2, 3)), "colour of <|im_end|>?")), call,
        Message(role="tool", content=("3",)), Message(role="assistant", content=("It is red.",)),
    )  # fmt: skip
    whole = Conversation(messages=messages)
    samples, report = chat_samples([whole], tokenizer, template, image_config=IMAGES, max_length=200)
    (sample,) = samples
    assert report.samples == 1 and sample.pixels is not None
    starts = np.flatnonzero(np.diff(np.concatenate([[0], sample.weights])) > 0)
    for start, number in zip(starts, (1, 3), strict=True):
        prompt = Conversation(messages=messages[:number])
        served = template.render(prompt, tokenizer, reply=True, image_tokens=image_tokens(tokenizer, IMAGES))
        assert sample.tokens[:start].tolist() == served.ids
    assert tokenizer.id_of("<|im_end|>") == sample.tokens[-1] and sample.weights[-1] == 1


def test_too_long_stops_above_one_percent_unless_told(tokenizer: Tokenizer) -> None:
    short, long = chat("Rome?", reply="It is Rome."), chat("Lima?", reply="Lima " * 60)
    template = ChatTemplate.default()
    with pytest.raises(InputError, match=r"2 of 100 samples .* conversation 98"):
        chat_samples([short] * 98 + [long] * 2, tokenizer, template, max_length=40)
    _, few = chat_samples([short] * 199 + [long], tokenizer, template, max_length=40)
    assert few.dropped == 1
    cut, report = chat_samples([long], tokenizer, template, max_length=40, too_long="cut")
    assert report.cut == 1 and len(cut[0].tokens) == 40
    dropped, report = chat_samples([long, short], tokenizer, template, max_length=40, too_long="drop")
    assert report.dropped == 1 and len(dropped) == 1


def test_the_preview_marks_what_is_learnt(tokenizer: Tokenizer) -> None:
    samples, report = chat_samples([CHATS[0]], tokenizer, ChatTemplate.default(), max_length=99)
    text = marked(samples[0], tokenizer, colour=False)
    assert text.endswith("[[It is Paris.<|im_end|>]]") and text.count("[[") == 1
    assert histogram(report.lengths)[0].endswith(" 1")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"messages": [', "bad.jsonl:1"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', "bad.jsonl:1"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no assistant message"),
        ('{"conversations": [{"from": "human", "value": "<image>x"}], "images": ["gone.png"]}', "gone.png"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complaint: Callable[..., list[str]],
    line: str,
    told: str,
) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    assert told in complaint("sft", str(base), "bad.jsonl", "--validation", "0")[-1]
    assert not (tmp_path / "runs").exists()
