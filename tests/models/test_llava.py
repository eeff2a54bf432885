"""llava directories: images of several sizes at once, equal to transformers, read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.oracles import CASES, stir, tokens, transformers
from whorl.base.errors import InputError
from whorl.models import Decoder, Images, Packed, load, save
from whorl.models.families import config_from_hf

PATCH, IMAGE_TOKEN = 4, 66
GRIDS = [[(2, 3), (5, 1)], [], [(1, 1), (4, 4), (3, 2)]]  # of three documents: rows and columns in patches
TEXT = {"llama3": -1, "qwen2": -2, "qwen3": 1, "gemma3": -1, "gemma2": 2}  # case → vision_feature_layer


@dataclass
class Document:
    tokens: Tensor
    pixels: list[Tensor]  # each [3, H, W]

    @property
    def positions(self) -> Tensor:
        return (self.tokens == IMAGE_TOKEN).nonzero()[:, 0]


def documents() -> list[Document]:
    """Text and images in turn, each image as one run of placeholders."""
    made = []
    for number, grids in enumerate(GRIDS):
        generator = torch.Generator().manual_seed(number)
        pieces, pixels = [tokens(4, number, IMAGE_TOKEN)], []
        for index, (rows, columns) in enumerate(grids):
            pieces += [
                torch.full((rows * columns,), IMAGE_TOKEN),
                tokens(index + 2, 10 * number + index, IMAGE_TOKEN),
            ]
            pixels.append(torch.randn(3, rows * PATCH, columns * PATCH, generator=generator))
        made.append(Document(torch.cat(pieces), pixels))
    return made


def patches(image: Tensor) -> Tensor:
    """[3, H, W] → [h·w, 3·p·p] in reading order, each patch channel by channel."""
    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    tiles = image.view(3, rows, PATCH, columns, PATCH).permute(1, 3, 0, 2, 4)
    return tiles.reshape(rows * columns, 3 * PATCH * PATCH)


def ours(model: Decoder, made: list[Document]) -> Tensor:
    """All documents in one packed forward, all images in one batch."""
    lengths = [len(document.tokens) for document in made]
    starts = [sum(lengths[:index]) for index in range(len(made))]
    every = [image for document in made for image in document.pixels]
    images = Images(
        torch.cat([patches(image) for image in every]),
        torch.tensor([[image.shape[1] // PATCH, image.shape[2] // PATCH] for image in every]),
        torch.cat([document.positions + start for document, start in zip(made, starts, strict=True)]),
    )
    flat = torch.cat([document.tokens for document in made])
    return model.logits(model(flat, Packed(lengths), images))


def theirs(model: Any, made: list[Document]) -> Tensor:
    """transformers, a document at a time, its images padded to one size."""
    results = []
    for document in made:
        arguments = {}
        if document.pixels:
            sizes = torch.tensor([list(image.shape[1:]) for image in document.pixels])
            height, width = sizes.amax(0).tolist()
            padded = torch.zeros(len(document.pixels), 3, height, width)
            for index, image in enumerate(document.pixels):
                padded[index, :, : image.shape[1], : image.shape[2]] = image
            arguments = {"pixel_values": padded, "image_sizes": sizes}
        with torch.no_grad():
            results.append(model(document.tokens[None], **arguments).logits[0])
    return torch.cat(results)


def build(name: str, feature_layer: int) -> Any:
    case = CASES[name]
    text = getattr(transformers, case.config)(**case.fields)
    vision = transformers.PixtralVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
        patch_size=PATCH, image_size=8 * PATCH, hidden_act="silu",
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN,
        vision_feature_layer=feature_layer, vision_feature_select_strategy="full",
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.LlavaForConditionalGeneration(config)
    stir(model)
    return model.eval()


@pytest.fixture(scope="module", params=TEXT)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    path = tmp_path_factory.mktemp(request.param)
    model = build(request.param, TEXT[request.param])
    model.save_pretrained(path)
    return model, path


def test_what_is_trained_is_used(pair: tuple[Any, Path]) -> None:
    """Blocks of the tower behind the layer that is read have no gradient: DDP would wait for it."""
    model = load(pair[1])
    ours(model, documents()).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_logits_equal_transformers_for_several_image_sizes_at_once(pair: tuple[Any, Path]) -> None:
    model, path = pair
    made = documents()
    expected = theirs(model, made)
    assert expected.std() > 0.3
    blank = [
        Document(document.tokens, [torch.zeros_like(image) for image in document.pixels]) for document in made
    ]
    assert (theirs(model, blank) - expected).abs().max() > 0.01  # the images matter
    torch.testing.assert_close(ours(load(path), made).detach(), expected, atol=1e-4, rtol=0)


def test_what_we_save_transformers_loads(pair: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = pair
    save(load(path), tmp_path)
    back, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    made = documents()
    torch.testing.assert_close(theirs(back, made), theirs(model, made), atol=1e-5, rtol=0)
    assert load(tmp_path).config == load(path).config
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(path / "model.safetensors"))


def test_every_spelling_of_the_names_is_read(pair: tuple[Any, Path], tmp_path: Path) -> None:
    """transformers 5 writes `language_model.model.…`; inside it says `model.language_model.…`."""
    model, path = pair
    inside = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(name.startswith("model.language_model.layers") for name in inside)
    if model.config.text_config.tie_word_embeddings:
        assert torch.equal(inside["lm_head.weight"], inside["model.language_model.embed_tokens.weight"])
    save_file(inside, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    first, second = load(path).state_dict(), load(tmp_path).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_without_images_runs_as_text(pair: tuple[Any, Path]) -> None:
    model, path = pair
    text = tokens(11, 5, IMAGE_TOKEN)
    with torch.no_grad():
        expected = model(text[None]).logits[0]
        mine = load(path)
        torch.testing.assert_close(mine.logits(mine(text, Packed([11]))), expected, atol=1e-4, rtol=0)


def test_tower_gradients_equal_transformers(tmp_path: Path) -> None:
    model = build("llama3", -1)
    model.save_pretrained(tmp_path)
    made = documents()[:1]
    mine = load(tmp_path)
    images = Images(
        torch.cat([patches(image) for image in made[0].pixels]), torch.tensor(GRIDS[0]), made[0].positions
    )
    mine.logits(mine(made[0].tokens, Packed([len(made[0].tokens)]), images)).square().sum().backward()
    sizes = torch.tensor([list(image.shape[1:]) for image in made[0].pixels])
    padded = torch.zeros(2, 3, *sizes.amax(0).tolist())
    for index, image in enumerate(made[0].pixels):
        padded[index, :, : image.shape[1], : image.shape[2]] = image
    model(made[0].tokens[None], pixel_values=padded, image_sizes=sizes).logits.square().sum().backward()
    conv = model.model.vision_tower.patch_conv.weight.grad.flatten(1)
    torch.testing.assert_close(
        mine.vision.patch_embed.weight.grad, conv, atol=1e-3 * conv.abs().max().item(), rtol=1e-3
    )


PIXTRAL_12B = {  # a released config: most sizes are left to the classes' defaults
    "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_seq_length": 1,
    "image_token_index": 10, "model_type": "llava", "projector_hidden_act": "gelu",
    "text_config": {
        "head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336, "is_composition": True,
        "max_position_embeddings": 1024000, "model_type": "mistral", "num_hidden_layers": 40,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0, "sliding_window": None,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    "vision_config": {
        "head_dim": 64, "hidden_act": "silu", "image_size": 1024, "is_composition": True,
        "model_type": "pixtral", "patch_size": 16, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
}  # fmt: skip


def test_a_released_config_is_read() -> None:
    config, family = config_from_hf(PIXTRAL_12B)
    assert family.model_type == "llava"
    assert (config.n_heads, config.head_dim, config.window, config.tied) == (32, 128, None, False)
    assert config.vision is not None
    assert (config.vision.d_model, config.vision.n_layers, config.vision.head_dim) == (1024, 24, 64)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vision_config": {"model_type": "clip_vision_model"}}, "clip_vision_model"),
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy"),
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer"),
        ({"vision_feature_layer": 25}, "vision_feature_layer"),
        ({"image_token_index": -1}, "image_token_index"),
        ({"text_config": {"model_type": "gpt2"}}, "gpt2"),
        ({"text_config": {"model_type": "falcon"}}, "falcon"),
        ({"text_config": {"model_type": "llama", "hidden_act": "relu2"}}, "text_config: hidden_act"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        config_from_hf({**PIXTRAL_12B, **change})


def test_our_own_directory_is_one_transformers_loads(tmp_path: Path) -> None:
    """Tokenizer, template, processor and end tokens beside the weights."""
    from PIL import Image

    from whorl.text import ChatTemplate, ImageConfig, preprocess, train_bpe
    from whorl.text.bpe import SPECIALS

    tokenizer = train_bpe(["a small picture of a horse"] * 20, 300 + len(SPECIALS), SPECIALS)
    image_token = tokenizer.id_of(tokenizer.image_token)
    model = build("qwen3", -1)
    config = load_config_of(model, tmp_path / "theirs")
    vision = config.vision.model_copy(update={"image_token": image_token})
    config = config.model_copy(update={"vocab_size": tokenizer.vocab_size, "vision": vision})
    torch.manual_seed(0)
    mine = Decoder(config).eval()
    stir(mine)
    path = tmp_path / "ours"
    settings = ImageConfig(patch_size=PATCH, max_size=8 * PATCH, breaks=False)
    save(mine, path, tokenizer, template=ChatTemplate.default(), images=settings)

    written = json.loads((path / "generation_config.json").read_text())
    ends = written["eos_token_id"]
    assert (ends if isinstance(ends, list) else [ends]) == list(tokenizer.end_ids)

    picture = Image.effect_noise((19, 30), 80).convert("RGB")
    picture.save(tmp_path / "noise.png")
    seen = preprocess((tmp_path / "noise.png").read_bytes(), settings)
    count = seen.grid[0] * seen.grid[1]
    prompt = [*tokenizer.encode("a "), *[image_token] * count, *tokenizer.encode(" horse")]
    flat = torch.tensor(prompt)
    images = Images(
        torch.from_numpy(seen.pixels), torch.tensor([seen.grid]), (flat == image_token).nonzero()[:, 0]
    )
    with torch.no_grad():
        expected = mine.logits(mine(flat, Packed([len(prompt)]), images))

    back = transformers.LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="eager")
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    processor = PixtralImageProcessorPil.from_pretrained(path)
    batch = dict(processor(images=picture, return_tensors="pt"), input_ids=flat[None])
    with torch.no_grad():
        actual = back(**{name: batch[name] for name in ("input_ids", "pixel_values", "image_sizes")}).logits[
            0
        ]
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)


def load_config_of(model: Any, path: Path) -> Any:
    model.save_pretrained(path)
    return load(path).config
