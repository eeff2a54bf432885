"""A tiny model with images and tools that has learnt a handful of conversations by heart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from whorl.base.nouns import Conversation, ImagePart, Message, ToolCall
from whorl.kernels.cross_entropy import linear_cross_entropy
from whorl.models.config import ModelConfig, VisionConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.models.vision import Images
from whorl.text.bpe import train_bpe
from whorl.text.config import ImageConfig
from whorl.text.images import image_tokens, preprocess
from whorl.text.samples import train_samples
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.tools.builtin import calculator_tool

TEMPLATE = ChatTemplate.default()
IMAGES = ImageConfig(patch_size=4, max_size=16)
CALCULATOR = calculator_tool()
BROKEN = '{"name": "calculator", oops'


def user(*content: str | ImagePart) -> Message:
    return Message(role="user", content=content)


def says(text: str) -> Message:
    return Message(role="assistant", content=(text,))


def picture(grey: int, size: tuple[int, int]) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "PNG")
    return ImagePart(data=file.getvalue())


DARK, LIGHT = picture(10, (8, 12)), picture(245, (12, 8))
SUM = Conversation(id="sum", messages=(user("2+3?"),), tools=(CALCULATOR.schema,))
CALL = ToolCall(name="calculator", arguments={"expression": "2+3"})
LEARNT = (
    replace(
        SUM,
        messages=(
            user("2+3?"),
            Message(role="assistant", tool_calls=(CALL,)),
            Message(role="tool", content=("5",), name="calculator"),
            says("It is five."),
        ),
    ),
    Conversation(messages=(user(DARK, "Shade?"), says("dark"))),
    Conversation(messages=(user(LIGHT, "Shade?"), says("light"))),
    Conversation(messages=(user(LIGHT, "and", DARK, "Shades?"), says("light, then dark"))),
)


def learnt_tokenizer() -> Tokenizer:
    texts = [message.text for conversation in LEARNT for message in conversation.messages]
    return train_bpe(
        [json.dumps(CALCULATOR.schema, ensure_ascii=False, separators=(",", ":"))] * 3 + texts, 420
    )


def samples(tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool], list[int], tuple[ImagePart, ...]]]:
    expand = image_tokens(tokenizer, IMAGES)
    for conversation in LEARNT:
        for sample in train_samples(conversation, tokenizer, TEMPLATE, image_tokens=expand):
            yield sample.ids, sample.mask, sample.image_positions, sample.images
    prompt = TEMPLATE.render(Conversation(messages=(user("Break."),)), tokenizer, reply=True).ids
    marks = [tokenizer.id_of(name) for name in ("<tool_call>", "</tool_call>", "<|im_end|>")]
    reply = [marks[0], *tokenizer.encode(BROKEN), *marks[1:]]
    yield prompt + reply, [False] * len(prompt) + [True] * len(reply), [], ()


def learn(tokenizer: Tokenizer) -> Decoder:
    """A model that knows `LEARNT` by heart, in a few seconds."""
    torch.manual_seed(0)
    vision = VisionConfig(
        d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=64, patch_size=4, image_size=16,
        image_token=tokenizer.id_of("[IMG]"),
    )  # fmt: skip
    decoder = Decoder(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16,
            d_ff=128, context=512, vision=vision,
        )
    )  # fmt: skip
    torch.nn.init.normal_(decoder.embed.weight, std=0.02)
    ids, mask, positions, patches, lengths = [], [], [], [], []
    for sample_ids, sample_mask, at, pictures in samples(tokenizer):
        positions += [len(ids) + one for one in at]
        patches += [preprocess(one, IMAGES) for one in pictures]
        ids += sample_ids
        mask += sample_mask
        lengths.append(len(sample_ids))
    images = Images(
        torch.cat([torch.from_numpy(one.pixels) for one in patches]),
        torch.tensor([one.grid for one in patches]),
        torch.tensor(positions),
    )
    tokens = torch.tensor(ids)
    targets, weights = tokens.roll(-1), torch.tensor(mask).roll(-1).float()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(120):
        loss = decoder(
            tokens, Packed(lengths), images,
            lambda hidden, head: linear_cross_entropy(hidden, head.weight, targets, weights),
        )  # fmt: skip
        optimizer.zero_grad()
        (loss / weights.sum()).backward()
        optimizer.step()
    assert float(loss.detach() / weights.sum()) < 0.02, "the tests below need what was learnt"
    return decoder.eval()


def conversation_of(*content: str | ImagePart) -> Conversation:
    return Conversation(messages=(user(*content),))


def save_learnt(directory: Path) -> Path:
    """The model as a directory that can be served."""
    tokenizer = learnt_tokenizer()
    save(learn(tokenizer), directory, tokenizer, template=TEMPLATE, images=IMAGES)
    return directory
