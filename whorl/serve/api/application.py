"""The ASGI application: routes over served models."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl import __version__
from whorl.serve.api.chat import Chat
from whorl.serve.api.completions import Completion, embeddings
from whorl.serve.api.errors import ApiError, Faults, add_handlers, error_response
from whorl.serve.api.guards import BodyLimit, KeyRing, Keys, Linger
from whorl.serve.api.metrics import CountRequests, Metrics
from whorl.serve.api.schemas import AdapterRequest, ChatRequest, CompletionRequest, EmbeddingRequest
from whorl.serve.api.served import Served, ServedModel
from whorl.serve.api.traces import Traces
from whorl.serve.config import ServeConfig
from whorl.serve.requests import EngineHealth


def app(models: Sequence[ServedModel], config: ServeConfig, keys: KeyRing | None = None) -> FastAPI:
    """OpenAI's API over these models; `keys` are read from the config's files where none are given."""
    keys = keys or KeyRing.read(config)
    made = FastAPI(title="Whorl", version=__version__, redirect_slashes=False)
    made.root_path = config.root_path
    metrics = Metrics()
    traces = Traces(config.traces, metrics.traces_lost) if config.traces is not None else None
    served = Served(models, config.limits, metrics)
    made.state.served = served
    add_handlers(made)
    _describe(made, served)
    _add_openai(made, served, traces, config.lenient)
    _add_watching(made, served, metrics)
    if keys.api:
        _add_adapters(made, served)
    # The last one added is the first one asked.
    made.add_middleware(Faults)
    made.add_middleware(BodyLimit, size=config.limits.body)
    made.add_middleware(Keys, keys=keys)
    made.add_middleware(CountRequests, metrics=metrics)
    made.add_middleware(Linger)
    return made


def _describe(made: FastAPI, served: Served) -> None:
    """The description of the API, with the models that are served now."""
    plain = made.openapi

    def described() -> dict[str, Any]:
        document = copy.deepcopy(plain())
        for kind in (ChatRequest, CompletionRequest, EmbeddingRequest):
            document["components"]["schemas"][kind.__name__]["properties"]["model"]["enum"] = served.names()
        return document

    made.openapi = described  # type: ignore[method-assign]


def _add_openai(made: FastAPI, served: Served, traces: Traces | None, lenient: bool) -> None:
    @made.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, http: HttpRequest) -> Response:
        return await Chat(served, traces, asked, lenient).answer(http)

    @made.post("/v1/completions")
    async def completions(asked: CompletionRequest, http: HttpRequest) -> Response:
        return await Completion(served, traces, asked, lenient).answer(http)

    @made.post("/v1/embeddings")
    async def embed(asked: EmbeddingRequest, http: HttpRequest) -> Response:
        return await embeddings(served, asked, http, lenient)

    @made.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_card(served, name) for name in served.names()]})

    @made.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(_card(served, name))

    @made.get("/")
    async def root() -> Response:
        """What someone sees who opens the address in a browser."""
        api = {"models": served.names(), "api": f"{made.root_path}/v1", "health": f"{made.root_path}/health"}
        return JSONResponse({"whorl": __version__} | api)


def _card(served: Served, name: str) -> dict[str, Any]:
    model, adapter = served.find(name)
    info = model.client.info
    return {
        "id": name, "object": "model", "created": model.created, "owned_by": "whorl", "root": model.name,
        "parent": model.name if adapter else None, "max_model_len": info.context,
        "weight_version": info.weight_version, "adapter_version": info.adapters.get(adapter),
        "dtype": info.dtype, "images": info.images, "return_token_ids": True,
    }  # fmt: skip


def _add_watching(made: FastAPI, served: Served, metrics: Metrics) -> None:
    async def healths() -> dict[str, EngineHealth]:
        found = await asyncio.gather(*(model.client.health() for model in served.models.values()))
        return dict(zip(served.models, found, strict=True))

    async def answer() -> Response:
        down = {name: health for name, health in (await healths()).items() if health.status != "ready"}
        if not down:
            return JSONResponse({"status": "ok"})
        return error_response(ApiError(503, "a model is down", code="engine_down"))

    @made.get("/health")
    async def health() -> Response:
        return await answer()

    @made.get("/ready")
    async def ready() -> Response:
        return await answer()

    @made.get("/metrics")
    async def prometheus() -> Response:
        text = metrics.text(await healths())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_adapters(made: FastAPI, served: Served) -> None:
    """Only where keys are set: a path on the server's disk is nobody's business else."""

    def base(asked: AdapterRequest) -> ServedModel:
        return served.find(asked.model)[0] if asked.model else next(iter(served.models.values()))

    @made.post("/v1/load_lora_adapter")
    async def load(asked: AdapterRequest) -> Response:
        if asked.lora_path is None:
            raise ApiError(400, "lora_path is missing; give the adapter's folder", param="lora_path")
        if asked.lora_name in served.names():
            raise ApiError(400, f"the name {asked.lora_name!r} is in use", param="lora_name")
        version = await base(asked).client.load_adapter(asked.lora_name, asked.lora_path)
        return JSONResponse({"name": asked.lora_name, "version": version})

    @made.post("/v1/unload_lora_adapter")
    async def unload(asked: AdapterRequest) -> Response:
        await base(asked).client.unload_adapter(asked.lora_name)
        return JSONResponse({"name": asked.lora_name})
