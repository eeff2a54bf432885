"""What the contract is tested with: a model, its adapters, one mixed batch, and every way to serve it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.serve.conftest import Answer, drive, make_engine, mixed_requests, stirred
from whorl.base.errors import InputError
from whorl.models import Decoder, Images, Packed
from whorl.models.config import LoraConfig, ModelConfig, VisionConfig
from whorl.models.families import config_to_hf
from whorl.models.likelihood import log_probs
from whorl.models.lora import adapters, inject, load_adapter, save_adapter
from whorl.serve.cache import page_bytes
from whorl.serve.engine import Engine
from whorl.serve.requests import EngineRequest
from whorl.text.images import Patches
from whorl.text.tokenizer import Tokenizer

ADAPTERS = ("a", "b")
LONGEST = 60  # tokens of a prompt
PRESSED_PAGES = 20  # of 4 tokens: sequences push each other out
VISION = VisionConfig(
    d_model=16, n_layers=1, n_heads=2, head_dim=8, d_ff=16, patch_size=2, image_size=8, image_token=5
)
Logprobs = NDArray[np.float32]
Compute = Callable[[Decoder], Decoder]  # the model as it is served: its dtype, its quantisation


def seeing(model: Decoder) -> Decoder:
    """The same text model with a tower for pictures, where a llava directory can hold it; else itself."""
    config = model.config.model_copy(update={"vision": VISION})
    try:
        config_to_hf(config, model.family)
    except InputError:
        return model
    made = stirred(Decoder(config))
    made.load_state_dict(model.state_dict(), strict=False)
    made.family = model.family
    return made.eval()


def computing_in(dtype: torch.dtype) -> Compute:
    def make(model: Decoder) -> Decoder:
        made = Decoder(model.config, dtype)
        made.family = model.family
        made.load_state_dict(model.state_dict())
        return made.to(dtype).eval()

    return make


def save_adapters(model: Decoder, folder: Path) -> dict[str, str]:
    """Two adapters of different ranks, on different layers."""
    found = {}
    for seed, name in enumerate(ADAPTERS):
        targets = None if name == "a" else ("q", "down")
        adapted = inject(
            copy.deepcopy(model), LoraConfig(rank=2 + seed, alpha=4.0, targets=targets), seed=seed
        )
        for _, adapter in adapters(adapted):
            generator = torch.Generator().manual_seed(seed)
            # Twice as wide, an adapter makes one token's fp32 rounding 1e-5 by itself (against fp64).
            torch.nn.init.normal_(adapter.lora_b.weight, std=0.05, generator=generator)
        save_adapter(adapted, folder / name)
        found[name] = str(folder / name)
    return found


def requests(config: ModelConfig) -> list[EngineRequest]:
    """Prompts of all lengths, greedy and sampled, every third on each adapter, some with a picture."""
    made = []
    for number, one in enumerate(mixed_requests(config.vocab_size, LONGEST, count=10)):
        fields: dict[str, Any] = {"adapter": ("", *ADAPTERS)[number // 2 % 3]}
        if config.vision is not None and number % 3 == 1 and len(one.ids) > 7:
            which = number % 2
            pixels = np.random.default_rng(which).normal(size=(6, config.vision.patch_values))
            fields |= {
                "images": (Patches(pixels.astype(np.float32), (2, 3)),),
                "image_positions": tuple(range(1, 7)),
                "image_digests": (f"picture {which}",),
            }
        made.append(replace(one, **fields))
    return made


@dataclass
class Contract:
    """A model as it is trained and as it is served. `compute` gives a copy of it, ready to run."""

    model: Decoder
    folders: dict[str, str]
    tokenizer: Tokenizer
    compute: Compute
    _trainers: dict[str, Decoder] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], Logprobs] = field(default_factory=dict)

    def engine(self, **config: Any) -> Engine:
        engine = make_engine(self.compute(self.model), self.tokenizer, **config)
        for name, folder in self.folders.items():
            engine.load_adapter(name, folder)
        return engine

    def served(self) -> dict[str, dict[str, Answer]]:
        """The answers to the mixed batch: cold and chunked, from a warm cache, each alone and whole, and
        pressed for pages."""
        asked = requests(self.model.config)
        found: dict[str, dict[str, Answer]] = {}
        engine = self.engine()
        found["cold"] = drive(engine, asked)
        found["warm"] = drive(engine, asked)
        assert any(answer.last.cached_tokens for answer in found["warm"].values())
        whole = self.engine(budget=256, page=16)
        found["alone"] = {}
        for request in asked:
            found["alone"] |= drive(whole, [request])
        dtype = engine.model.compute_dtype
        memory = (PRESSED_PAGES + 0.5) * page_bytes(self.model.config, 4, dtype) / 1e9
        tight = self.engine(memory=memory)
        found["pressed"] = drive(tight, asked)
        assert tight.scheduler.preemptions > 0 and tight.scheduler.pages.count == PRESSED_PAGES
        return found

    def furthest(self, answers: dict[str, Answer]) -> float:
        """The largest difference to the trainer's log-probs of the same tokens."""
        return _furthest(requests(self.model.config), answers, self._theirs)

    def _theirs(self, request: EngineRequest, reply: list[int]) -> Logprobs:
        key = (request.id, *reply)
        if key not in self._known:
            self._known[key] = trained(self._trainer(request.adapter), request, reply)
        return self._known[key]

    def _trainer(self, adapter: str) -> Decoder:
        if adapter not in self._trainers:
            model = self.compute(self.model)
            if adapter:
                load_adapter(model, self.folders[adapter])
            self._trainers[adapter] = model.eval()
        return self._trainers[adapter]


def furthest(model: Decoder, requests: list[EngineRequest], answers: dict[str, Answer]) -> float:
    """The largest difference to the log-probs that `model`, the trainer's, gives the same tokens."""
    return _furthest(requests, answers, lambda request, reply: trained(model, request, reply))


def _furthest(
    requests: list[EngineRequest],
    answers: dict[str, Answer],
    theirs: Callable[[EngineRequest, list[int]], Logprobs],
) -> float:
    worst = 0.0
    for request in requests:
        answer, wanted = answers[request.id], request.params.max_tokens
        assert answer.last.finish == "length" and len(answer.ids) == wanted, answer.last
        known = theirs(request, answer.ids)[len(request.ids) - 1 :]
        worst = max(worst, float(np.abs(known - np.array(answer.logprobs)).max()))
    return worst


def trained(model: Decoder, request: EngineRequest, reply: list[int]) -> Logprobs:
    """The trainer's log-probs of a prompt's tokens but the first, and of the reply's."""
    ids = [*request.ids, *reply]
    if not request.images:
        return log_probs(model, [ids])[0]
    images = Images(
        torch.cat([torch.from_numpy(image.pixels) for image in request.images]),
        torch.tensor([image.grid for image in request.images]),
        torch.tensor(request.image_positions),
    )
    with torch.inference_mode():
        hidden = model(torch.tensor(ids[:-1]), Packed([len(ids) - 1]), images)
        logprobs = model.logits(hidden).float().log_softmax(-1)
    return logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
