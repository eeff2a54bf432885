"""The engine: schedule, run, postprocess. One thread owns it; nothing in it waits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from whorl.base.errors import InputError, one_line
from whorl.base.nouns import SamplingParams
from whorl.base.posix import keep_freed_memory
from whorl.kernels.device import choose_device
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.place import model_directory
from whorl.models.quant_layer import QuantLinear
from whorl.models.quantise import quantise
from whorl.models.weights import weight_version
from whorl.serve.cache import Cache, fit_cache
from whorl.serve.engine_config import EngineConfig
from whorl.serve.grammar import Grammars, Matcher
from whorl.serve.lora import Adapters
from whorl.serve.pages import Pages
from whorl.serve.replies import Reply
from whorl.serve.requests import EngineEvent, EngineHealth, EngineInfo, EngineRequest, Token
from whorl.serve.runner import Runner, Sampled, StepResult
from whorl.serve.scheduler import Chunk, Scheduler
from whorl.serve.sequence import Sequence
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer


@dataclass
class _Open:
    """What the engine keeps of a request besides its sequence."""

    sequence: Sequence
    reply: Reply
    matcher: Matcher | None
    prompt: list[Sampled] = field(default_factory=list)
    hidden: Tensor | None = None


class Engine:
    """A model, its cache and everyone who waits for it.

    `submit` and `abort` take effect at once, `step` computes one step and returns what came of it.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        end_ids: Many[int],
        config: EngineConfig,
        *,
        version: str = "",
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.version, self.end_ids = version, frozenset(end_ids)
        device = model.embed.weight.device
        context, count = fit_cache(model.config, config, model.compute_dtype, device)
        self.scheduler = Scheduler(
            Pages(count, config.page),
            budget=max(config.budget, config.most),
            most=config.most,
            context=context,
        )
        self.adapters = Adapters(model)
        cache = Cache(model.config, count, config.page, model.compute_dtype, device)
        self.runner = Runner(model, cache, self.adapters, context)
        self._grammars: Grammars | None = None
        self._open: dict[str, _Open] = {}
        self._refused: list[EngineEvent] = []
        self._counters = dict.fromkeys(
            ("steps", "prompt_tokens", "cached_tokens", "reply_tokens", "model_seconds", "engine_seconds"),
            0.0,
        )
        for name, directory in config.adapters.items():
            self.adapters.load(name, directory)

    @classmethod
    def start(cls, path: str | Path, config: EngineConfig) -> Engine:
        """The engine of a model directory; says on stderr what it can hold."""
        keep_freed_memory()
        directory = model_directory(path)
        tokenizer = Tokenizer.load(directory)
        dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
        model = load(
            directory, dtype=dtype, device=choose_device(None if config.device == "auto" else config.device)
        )
        if model.embed.weight.dtype != model.compute_dtype:
            model = model.to(model.compute_dtype)  # no step casts a weight
        if config.quantize != "none":
            model = quantise(model, config.quantize, head=True)
        ends = set(tokenizer.end_ids)
        if has_template(directory):
            ends |= set(ChatTemplate.load(directory).end_ids(tokenizer))
        engine = cls(model, tokenizer, sorted(ends), config, version=weight_version(directory))
        engine.warm()
        return engine

    def warm(self) -> None:
        """Two tokens that nobody asked for and nothing remembers: kernels that are compiled on this machine
        or tried before their first use are then no request's wait."""
        params = SamplingParams(max_tokens=2, temperature=0, ignore_end=True)
        self.submit(EngineRequest(id="warm", ids=(0,), params=params))
        while self.busy:
            self.step()
        self._counters = dict.fromkeys(self._counters, 0.0)

    # -- what it is -------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        pages = self.scheduler.pages
        return EngineInfo(
            weight_version=self.version,
            adapters=dict(self.adapters.versions),
            context=self.scheduler.context,
            cache_tokens=pages.count * pages.size,
            vocab_size=self.model.config.vocab_size,
            dtype=str(self.model.compute_dtype).removeprefix("torch."),
            quantize=quantised(self.model),
            device=self.model.embed.weight.device.type,
            images=self.model.config.vision is not None,
        )

    @property
    def health(self) -> EngineHealth:
        pages = self.scheduler.pages
        return EngineHealth(
            status="ready",
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            pages_free=pages.free,
            pages_total=pages.count,
            counters={**self._counters, "preemptions": float(self.scheduler.preemptions)},
        )

    @property
    def busy(self) -> bool:
        return bool(self._open or self._refused)

    # -- requests ---------------------------------------------------------------------------------

    def submit(self, request: EngineRequest) -> None:
        """Put a request in line. One that can never be served gets its error with the next step."""
        try:
            self._check(request)
            matcher = self._matcher(request.grammar) if request.grammar else None
            seed = f"{self.version}/{self.adapters.versions.get(request.adapter, '')}".encode()
            reply = Reply(request, self.tokenizer, self.end_ids)
            sequence = self.scheduler.add(request, seed)
        except InputError as error:
            self._refused.append(EngineEvent(id=request.id, error=str(error)))
        except Exception as error:  # noqa: BLE001 - what one request holds is not the others' trouble
            self._refused.append(fault(request.id, error))
        else:
            self._open[request.id] = _Open(sequence, reply, matcher)

    def abort(self, id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        open_request = self._open.pop(id, None)
        if open_request is not None:
            self.scheduler.finish(open_request.sequence)
            self.runner.forget(id)

    def load_adapter(self, name: str, directory: str) -> str:
        return self.adapters.load(name, directory)

    def unload_adapter(self, name: str) -> None:
        """Requests that wait for the adapter or use it are told that it is gone."""
        self.adapters.unload(name)
        for id, one in list(self._open.items()):
            if one.sequence.request.adapter == name:
                self.abort(id)
                self._refused.append(EngineEvent(id=id, error=f"adapter {name!r} was unloaded"))

    def _check(self, request: EngineRequest) -> None:
        config = self.model.config
        strange = next((token for token in request.ids if not 0 <= token < config.vocab_size), None)
        if strange is not None:
            raise InputError(f"token {strange} is outside the vocabulary of {config.vocab_size}")
        if request.adapter and request.adapter not in self.adapters.versions:
            raise InputError(f"there is no adapter {request.adapter!r}; load it first")
        patches = sum(image.grid[0] * image.grid[1] for image in request.images)
        places = request.image_positions
        if patches and config.vision is None:
            raise InputError("the request has images, but the model is text-only; use a multimodal one")
        for image in request.images:
            wanted = (image.grid[0] * image.grid[1], config.vision.patch_values if config.vision else 0)
            if min(image.grid) < 1 or image.pixels.shape != wanted:
                raise InputError(f"an image is {list(image.pixels.shape)} and must be {list(wanted)}")
        if len(places) != patches or len(request.images) != len(request.image_digests):
            raise InputError(f"the request has {len(places)} image positions for {patches} patches")
        if any(not 0 <= at < len(request.ids) for at in places) or list(places) != sorted(places):
            raise InputError("image positions must ascend and lie inside the prompt")

    def _matcher(self, grammar: str) -> Matcher:
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, sorted(self.end_ids), self.model.config.vocab_size)
        return self._grammars.compile(grammar)

    # -- the step ---------------------------------------------------------------------------------

    def step(self) -> list[EngineEvent]:
        """One step for everyone: what each request has got from it."""
        events, self._refused = self._refused, []
        begun = time.perf_counter()
        chunks = self.scheduler.schedule()
        if not chunks:
            return events
        allowed = self._allowed(chunks, events)
        chunks = [chunk for chunk in chunks if chunk.sequence.id in self._open]
        if not chunks:
            return events
        computed = time.perf_counter()
        result = self.runner.step(chunks, allowed)
        spent = time.perf_counter() - computed
        for chunk in chunks:
            try:
                event = self._after(chunk, result)
            except Exception as error:  # noqa: BLE001 - it is this request's reply that cannot be made
                event = fault(chunk.sequence.id, error)
                self.abort(chunk.sequence.id)
            if event is not None:
                events.append(event)
        self._counters["steps"] += 1
        self._counters["model_seconds"] += spent
        self._counters["engine_seconds"] += time.perf_counter() - begun - spent
        return events

    def _allowed(self, chunks: Many[Chunk], events: list[EngineEvent]) -> dict[str, Tensor]:
        """What the grammars of this step's sequences let come; one that cannot go on ends its request."""
        allowed = {}
        for chunk in chunks:
            id = chunk.sequence.id
            matcher = self._open[id].matcher
            if matcher is not None and chunk.samples:
                try:
                    allowed[id] = torch.from_numpy(matcher.allowed())
                except InputError as error:
                    events.append(EngineEvent(id=id, error=str(error)))
                    self.abort(id)
                except Exception as error:  # noqa: BLE001 - the matcher is this request's alone
                    events.append(fault(id, error))
                    self.abort(id)
        return allowed

    def _after(self, chunk: Chunk, result: StepResult) -> EngineEvent | None:
        """The chunk is computed: what its request gets, and whether it is done."""
        sequence = chunk.sequence
        one, id = self._open[sequence.id], sequence.id
        self.scheduler.computed(chunk)
        if chunk.start < sequence.prompt_length:
            self._counters["prompt_tokens"] += min(chunk.stop, sequence.prompt_length) - chunk.start
        if id in result.broken:
            self.abort(id)
            return EngineEvent(id=id, error=result.broken[id], fault=True)
        # What was kept of these tokens goes: a sequence that gave its pages away computes them again.
        one.prompt[chunk.start :] = result.prompts.get(id, one.prompt[chunk.start :])
        if id in result.hidden:
            one.hidden = result.hidden[id] + (one.hidden if chunk.start and one.hidden is not None else 0)
        if not chunk.samples:
            return None
        event = self._sampled(one, result.sampled[id]) if id in result.sampled else self._read(one)
        if event.last:
            self.abort(id)
        return event

    def _read(self, one: _Open) -> EngineEvent:
        """The answer to a request that generates nothing."""
        request = one.sequence.request
        embedding: tuple[float, ...] = ()
        if one.hidden is not None:
            embedding = tuple((one.hidden / one.hidden.norm().clamp(min=1e-12)).tolist())
        prompt = self._prompt(one) if request.kind == "score" else ()
        return EngineEvent(id=request.id, prompt=prompt, embedding=embedding, finish="stop")

    def _sampled(self, one: _Open, sampled: Sampled) -> EngineEvent:
        sequence, request = one.sequence, one.sequence.request
        first = not sequence.reply
        sequence.tokens.append(sampled.token)
        self._counters["reply_tokens"] += 1
        ended = sampled.token in self.end_ids and not request.params.ignore_end
        grammar_ended = False
        if one.matcher is not None and not ended:
            grammar_ended = one.matcher.accept(sampled.token)
        parts, met = one.reply.push(sampled.token, ended)
        stop: str | int | None = sampled.token if ended else met
        full = len(sequence.tokens) >= sequence.limit
        done = stop is not None or grammar_ended
        if done or full:
            parts += one.reply.finish()
        if first:
            self._counters["cached_tokens"] += sequence.cached
        return EngineEvent(
            id=request.id,
            tokens=(self._token(sampled),),
            parts=tuple(parts),
            prompt=self._prompt(one) if first and request.prompt_logprobs else (),
            cached_tokens=sequence.cached,
            finish="stop" if done else "length" if full else "",
            stop=stop,
        )

    def _prompt(self, one: _Open) -> tuple[Token, ...]:
        first = one.sequence.request.ids[0]
        return (self._token(Sampled(first, math.nan)), *map(self._token, one.prompt))

    def _token(self, sampled: Sampled) -> Token:
        text = self.tokenizer.decode
        top = tuple((id, logprob, text([id])) for id, logprob in sampled.top)
        return Token(
            id=sampled.token, logprob=sampled.logprob, text=text([sampled.token]), top=top,
            drawn=sampled.drawn, kept=sampled.kept,
        )  # fmt: skip


def fault(id: str, error: Exception) -> EngineEvent:
    """The end of a request that the engine could not go on with."""
    return EngineEvent(
        id=id, error=f"the request failed: {type(error).__name__}: {one_line(error)}", fault=True
    )


def quantised(model: Decoder) -> str:
    """ "int8", "int4", or "" where the blocks' matrices are whole."""
    bits = next((module.bits for module in model.layers.modules() if isinstance(module, QuantLinear)), None)
    return "" if bits is None else f"int{bits}"


def has_template(directory: Path) -> bool:
    """Whether a model directory can be talked to."""
    try:
        ChatTemplate.load(directory)
    except InputError:
        return False
    return True
