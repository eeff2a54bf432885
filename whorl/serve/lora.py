"""LoRA adapters beside the model: many loaded at once, each sequence through its own."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from torch import Tensor, nn

from whorl.base.errors import InputError
from whorl.kernels.linear import linear
from whorl.models.adapter import adapter_version, load_adapter
from whorl.models.decoder import Decoder
from whorl.models.init import without_values
from whorl.models.lora_layer import adapters
from whorl.serve.scheduler import Chunk


@dataclass(frozen=True)
class _Factors:
    """One layer of one adapter: A [rank, in], B [out, rank], and what their product is scaled by."""

    a: Tensor
    b: Tensor
    scale: float


class AdaptedLinear(nn.Module):
    """A linear layer under several adapters; `segments` (adapter, start, stop) say whose tokens are whose."""

    def __init__(self, base: nn.Module, segments: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.base, self.segments = base, segments
        self.factors: dict[str, _Factors] = {}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for name, start, stop in self.segments:
            factors = self.factors.get(name)
            if factors is not None:
                part = x[start:stop]
                y[start:stop] += linear(linear(part, factors.a), factors.b) * factors.scale
        return y


class Adapters:
    """The adapters of a served model, by the name a request gives."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._segments: list[tuple[str, int, int]] = []
        self._layers: dict[str, AdaptedLinear] = {}
        self.versions: dict[str, str] = {}

    def load(self, name: str, directory: str | Path) -> str:
        """Load a PEFT directory; returns its version, the hash of its files. InputError or DataError
        name what does not fit, and nothing has changed then."""
        if not name or name in self.versions:
            raise InputError(f"adapter name {name!r} is in use or empty; unload it first or choose another")
        version = adapter_version(directory)
        loaded = load_adapter(self._twin(), directory)
        device = self._model.embed.weight.device
        factors = {}
        for layer, adapter in adapters(loaded):
            a, b = (part.weight.detach().to(device) for part in (adapter.lora_a, adapter.lora_b))
            factors[layer] = _Factors(a, b, adapter.scale)
        for layer, made in factors.items():
            self._layer(layer).factors[name] = made
        self.versions[name] = version
        return version

    def unload(self, name: str) -> None:
        if name not in self.versions:
            raise InputError(f"there is no adapter {name!r}; loaded: {', '.join(self.versions) or 'none'}")
        del self.versions[name]
        for layer in self._layers.values():
            layer.factors.pop(name, None)

    def sort(self, chunks: Many[Chunk]) -> list[Chunk]:
        """Chunks of an adapter side by side."""
        return sorted(chunks, key=lambda chunk: chunk.sequence.request.adapter)

    @contextmanager
    def use(self, chunks: Many[Chunk]) -> Iterator[None]:
        """For one forward of sorted chunks."""
        at = 0
        for name, members in groupby(chunks, lambda chunk: chunk.sequence.request.adapter):
            start, at = at, at + sum(chunk.stop - chunk.start for chunk in members)
            if name:
                self._segments.append((name, start, at))
        try:
            yield
        finally:
            self._segments.clear()

    def _twin(self) -> Decoder:
        """A decoder of the same shapes, its memory never touched: adapters are checked and read on it."""
        with without_values():
            twin = Decoder(self._model.config)
        twin.family = self._model.family
        return twin.to_empty(device="cpu")

    def _layer(self, name: str) -> AdaptedLinear:
        if name not in self._layers:
            layer = AdaptedLinear(self._model.get_submodule(name), self._segments)
            self._layers[name] = layer
            self._model.set_submodule(name, layer)
        return self._layers[name]
