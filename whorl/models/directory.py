"""A model directory to a `Decoder`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, write_json
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.families import Family, config_from_hf, config_to_hf
from whorl.models.init import without_values
from whorl.models.place import model_directory
from whorl.models.quantise import (
    FIELD,
    QuantLinear,
    Scheme,
    frame,
    read_scheme,
    scheme_of,
    stored_packed,
    unquantised,
    write_scheme,
)
from whorl.models.weights import SHARD_BYTES, Checkpoint, write_weights

if TYPE_CHECKING:
    from whorl.text.config import ImageConfig
    from whorl.text.template import ChatTemplate
    from whorl.text.tokenizer import Tokenizer

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    adapter: str | Path | None = None,
) -> Decoder:
    """The model of a Hugging Face directory, in eval mode.

    With `dtype` None the parameters keep the dtype they are stored in and the model computes in the
    one that `config.json` states (else in the stored one): what a model was trained and saved with.
    A given `dtype` is that of both. For training in bf16 on fp32 masters, load with fp32 and set
    `model.compute_dtype`. `adapter` is a PEFT directory to put on top. Packed weights and their scales
    (`quantization_config`, compressed-tensors' pack-quantized) stay as they are stored.

    `InputError` and `DataError` name the file and the field or tensor that is wrong; nothing is read
    before every name and shape fits.
    """
    directory = model_directory(path)
    config, family, values = read_config(directory)
    model, shapes = _empty(config, read_scheme(values, directory / "config.json"))
    wanted = stored_packed(family.tensors(config), shapes)
    with Checkpoint(directory, family) as checkpoint:
        checkpoint.check(wanted, shapes, config.tied)
        model.compute_dtype = dtype or _stated_dtype(values, directory) or checkpoint.dtype(wanted)
        state = dict(checkpoint.read(wanted, shapes, dtype, device))
    _check_packed(model, state, directory)
    model.load_state_dict(state, assign=True)
    model.family = text_type(values)
    model.eval()
    if adapter is not None:
        from whorl.models.adapter import load_adapter

        load_adapter(model, adapter)
    return model


def save(
    model: Decoder,
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    template: ChatTemplate | None = None,
    images: ImageConfig | None = None,
    family: str | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a Hugging Face directory that transformers (4.4x and 5) and `load` read.

    The family is `family`, else the one the model was loaded from, where it expresses the model's
    axes, else the first that does. `config.json` states the compute dtype; tensors are written in
    `dtype` (None: their own). `tokenizer`, `template` and `images` write their files beside;
    the tokenizer's end tokens go into `generation_config.json`.
    """
    config_dtype = dtype or model.compute_dtype
    save_state(
        model.config, model.state_dict(), path, tokenizer, template=template, images=images,
        family=family or model.family, compute_dtype=config_dtype, dtype=dtype, shard_bytes=shard_bytes,
    )  # fmt: skip


def save_state(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    template: ChatTemplate | None = None,
    images: ImageConfig | None = None,
    family: str | None = None,
    compute_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """As `save`, from a state dict gathered from a sharded model."""
    if images is not None and tokenizer is None:
        raise InputError("an image processor is saved with the tokenizer that has its image token; give both")
    directory = Path(path)
    values, kind = config_to_hf(config, family)
    wanted, scheme = stored_packed(kind.tensors(config), state), scheme_of(state)
    if scheme is not None:
        values[FIELD] = write_scheme(scheme, unquantised(wanted, state))
    ids = _token_ids(tokenizer)
    values |= {"torch_dtype": str(compute_dtype).removeprefix("torch.")} | ids
    if "text_config" in values:
        values["text_config"] |= ids
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory, wanted, state, dtype=dtype, shard_bytes=shard_bytes)
    if tokenizer is not None:
        tokenizer.save(directory)
    if template is not None:
        template.save(directory)
    if images is not None and tokenizer is not None:
        from whorl.text.images import save_processor

        save_processor(directory, images, tokenizer)
    write_json(directory / "config.json", values)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a decoder at these axes, without its memory."""
    return _empty(config)[1]


def stored_shapes(config: ModelConfig, scheme: Scheme | None) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a state dict: as `parameter_shapes`, with packed weights."""
    return _empty(config, scheme)[1]


def _empty(config: ModelConfig, scheme: Scheme | None = None) -> tuple[Decoder, dict[str, tuple[int, ...]]]:
    with without_values():
        model = Decoder(config)
        if scheme is not None:
            frame(model, scheme)
    return model, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_packed(model: Decoder, state: Mapping[str, Tensor], directory: Path) -> None:
    """A packed weight's own record of its shape must be the config's."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear):
            have, need = state[f"{name}.weight_shape"].tolist(), [module.out_features, module.in_features]
            if have != need:
                raise DataError(
                    f"{directory}: the weight_shape of {name} is {have}, but config.json asks for {need}"
                )


def read_config(path: str | Path) -> tuple[ModelConfig, Family, dict[str, Any]]:
    """The config of a model directory: ours, its family, and the file as it stands."""
    directory = model_directory(path)
    file = directory / "config.json"
    values = read_json(file, what="model config")
    if not isinstance(values, dict):
        raise InputError(f"{file} is not a JSON object")
    read_scheme(values, file)  # refused here when it is not ours; what is ours changes no axis
    config, family = config_from_hf({k: v for k, v in values.items() if k != FIELD}, file)
    return config, family, values


def text_type(values: Mapping[str, Any]) -> str:
    """The text family's `model_type`, inside a llava config too."""
    inner = values.get("text_config")
    return str(inner.get("model_type", "llama") if isinstance(inner, dict) else values["model_type"])


def _stated_dtype(values: Mapping[str, Any], directory: Path) -> torch.dtype | None:
    name = values.get("dtype", values.get("torch_dtype"))
    text = values.get("text_config")
    if name is None and isinstance(text, dict):
        name = text.get("dtype", text.get("torch_dtype"))
    if name is None:
        return None
    if name not in DTYPES:
        raise InputError(
            f"{directory / 'config.json'}: dtype is {name!r}; Whorl computes in {', '.join(DTYPES)}"
        )
    return DTYPES[name]


def _token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Null where unknown: a family's defaults would name tokens of another vocabulary."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    ends = list(tokenizer.end_ids)
    eos = ends[0] if len(ends) == 1 else ends or None
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos, "pad_token_id": tokenizer.pad_id}
