"""The models behind the API, and the way of one request through them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from whorl.base.errors import DataError, WhorlError
from whorl.base.files import read_json
from whorl.base.nouns import SamplingParams
from whorl.serve.api.errors import ApiError, from_whorl
from whorl.serve.api.metrics import Metrics
from whorl.serve.api.schemas import Request
from whorl.serve.config import LimitsConfig
from whorl.serve.engine_client import EngineClient
from whorl.serve.preparation import Asked, Preparers
from whorl.serve.requests import EngineEvent, EngineRequest
from whorl.serve.wire import FieldError, Prepared

STOPS = 16  # stop strings of a request
DIGITS = 10  # of a token id
T = TypeVar("T")
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass
class ServedModel:
    """A model under its name. `defaults` are the sampling parameters its generation_config.json states."""

    name: str
    client: EngineClient
    preparers: Preparers
    defaults: dict[str, Any] = field(default_factory=dict)
    created: int = 0
    open: int = 0  # sequences that are prepared, run or wait

    def version(self, adapter: str) -> str:
        """Of the weights, and of the adapter on them."""
        info = self.client.info
        return info.weight_version + (f"+{info.adapters.get(adapter, '')}" if adapter else "")


def stated_defaults(directory: Path) -> dict[str, Any]:
    """Sampling parameters of a model directory that a request does not have to repeat."""
    path = directory / "generation_config.json"
    stated = read_json(path) if path.is_file() else {}
    return {name: stated[name] for name in SAMPLING if isinstance(stated.get(name), int | float)}


class Served:
    """All models of a server, and what its requests may take."""

    def __init__(self, models: Sequence[ServedModel], limits: LimitsConfig, metrics: Metrics) -> None:
        self.models = {model.name: model for model in models}
        self.limits, self.metrics = limits, metrics

    def find(self, name: str) -> tuple[ServedModel, str]:
        """The model, and the adapter of it ("" for none), that the API knows by this name."""
        if name in self.models:
            return self.models[name], ""
        for model in self.models.values():
            if name in model.client.info.adapters:
                return model, name
        raise ApiError(
            404, f"there is no model {name!r}; available: {', '.join(self.names())}", param="model",
            code="model_not_found",
        )  # fmt: skip

    def names(self) -> list[str]:
        return [name for model in self.models.values() for name in (model.name, *model.client.info.adapters)]

    @asynccontextmanager
    async def admitted(self, model: ServedModel, count: int) -> AsyncIterator[None]:
        """Room for `count` sequences in the model's queue, or 429."""
        if model.open + count > self.limits.queue:
            raise ApiError(
                429, f"the queue is full ({model.open} of {self.limits.queue}); retry shortly",
                code="queue_full", headers={"Retry-After": "1"},
            )  # fmt: skip
        model.open += count
        try:
            yield
        finally:
            model.open -= count

    def params(self, asked: Request, model: ServedModel, max_tokens: int) -> SamplingParams:
        """The request's sampling, over the model's own defaults and OpenAI's."""
        values: dict[str, Any] = {"temperature": 1.0, **model.defaults}
        names = (*SAMPLING, "presence_penalty", "frequency_penalty")
        values |= {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if len(stops) > STOPS:
            raise ApiError(400, f"stop has {len(stops)} strings; at most {STOPS} are allowed", param="stop")
        if asked.n > self.limits.choices:
            raise ApiError(400, f"n is {asked.n}; at most {self.limits.choices} are allowed", param="n")
        if asked.priority < self.limits.priority:
            message = f"priority is {asked.priority}; this server takes {self.limits.priority} and above"
            raise ApiError(400, message, param="priority")
        seed = asked.seed if asked.seed is not None else secrets.randbits(63)
        values["top_k"] = max(0, int(values.get("top_k", 0)))  # −1 is "no limit" elsewhere
        bias = biases(asked.logit_bias or {}, model.client.info.vocab_size)
        try:
            return SamplingParams(
                max_tokens=max_tokens, stop=tuple(stops), seed=seed, logit_bias=bias,
                ignore_end=asked.ignore_eos, **values,
            )  # fmt: skip
        except DataError as error:
            raise ApiError(400, str(error), param=str(error).split(" ")[0].rstrip(":")) from error


def biases(given: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    found = []
    for token, bias in given.items():
        known = token.isdecimal() and token.isascii() and len(token) <= DIGITS
        if not known or int(token) >= vocab_size:
            raise ApiError(
                400,
                f"logit_bias: {token[:DIGITS]!r} is not a token id below {vocab_size}",
                param="logit_bias",
            )
        found.append((int(token), bias))
    return tuple(found)


async def prepared(model: ServedModel, asked: Asked, param: str) -> Prepared:
    """The prompt, or the user's mistake with the field that holds it."""
    try:
        return await model.preparers.prepare(asked)
    except WhorlError as error:
        field = error.field if isinstance(error, FieldError) else param
        raise from_whorl(error, field) from error


def check_prompt(model: ServedModel, ids: Sequence[int], room: int, param: str) -> None:
    """ApiError for a prompt that no engine takes, before a stream has begun. `room` is what the reply
    needs at least."""
    info = model.client.info
    if len(ids) + room > info.context:
        # What memory has room for is the context where the model has more.
        remedy = "--memory" if info.context == info.cache_tokens else "--context"
        raise ApiError(
            400, f"the prompt has {len(ids)} tokens and the context is {info.context}, prompt and reply"
            f" together; shorten the prompt or serve with a larger {remedy}",
            param=param, code="context_length_exceeded",
        )  # fmt: skip
    if ids and (min(ids) < 0 or max(ids) >= info.vocab_size):
        strange = next(token for token in ids if not 0 <= token < info.vocab_size)
        raise ApiError(
            400, f"{param}: token {strange} is outside the vocabulary of {info.vocab_size}", param=param
        )


def event_error(event: EngineEvent) -> ApiError:
    return ApiError(503 if event.fault else 400, event.error, code="engine_fault" if event.fault else None)


async def merged(
    client: EngineClient, requests: Sequence[EngineRequest]
) -> AsyncIterator[tuple[int, EngineEvent]]:
    """The events of several requests as they come, with the place of theirs. Leaving aborts them all;
    what one of them raises is raised here."""
    events: asyncio.Queue[tuple[int, EngineEvent] | asyncio.Task[None]] = asyncio.Queue()

    async def follow(place: int, request: EngineRequest) -> None:
        stream = client.generate(request)
        try:
            async for event in stream:
                events.put_nowait((place, event))
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    tasks = [asyncio.create_task(follow(place, request)) for place, request in enumerate(requests)]
    for task in tasks:
        task.add_done_callback(events.put_nowait)  # its end comes behind its events, however it ended
    left = len(tasks)
    try:
        while left:
            got = await events.get()
            if isinstance(got, asyncio.Task):
                left -= 1
                got.result()
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gone(http: HttpRequest) -> None:
    """Returns when the client disconnected. The framework cancels no plain handler by itself."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(http: HttpRequest, work: Any) -> Any:
    """The result of `work`, which is cancelled when the client leaves (then 499, which nobody reads)."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(http))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client disconnected")
        return await task
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
