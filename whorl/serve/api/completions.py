"""/v1/completions: texts or tokens go on, and are scored where `echo` asks for it; and /v1/embeddings."""

from __future__ import annotations

import base64
import math
import secrets
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl.serve.api.chat import usage_of
from whorl.serve.api.errors import ApiError
from whorl.serve.api.metrics import Timer
from whorl.serve.api.schemas import CompletionRequest, EmbeddingRequest, prompts_of
from whorl.serve.api.served import Served, ServedModel, event_error, merged, prepared, unless_gone
from whorl.serve.api.streaming import sse
from whorl.serve.requests import EngineEvent, EngineRequest, Token
from whorl.serve.wire import PrepareText


async def token_prompts(
    model: ServedModel, given: list[str | list[int]], field: str
) -> list[tuple[int, ...]]:
    """Each prompt's ids; a text is tokenised where prompts are prepared."""
    found = []
    for prompt in given:
        if isinstance(prompt, str):
            made = await prepared(model, PrepareText(prompt), field)
            found.append(tuple(made.ids))
        else:
            found.append(tuple(prompt))
        if not found[-1]:
            raise ApiError(400, f"{field} has an empty prompt; give at least one token", param=field)
    return found


class _Choice:
    def __init__(self) -> None:
        self.prompt: list[Token] = []
        self.tokens: list[Token] = []
        self.text = ""
        self.finish = ""
        self.cached = 0

    def add(self, event: EngineEvent) -> str:
        """Take an event in; returns the text that it adds."""
        self.prompt += event.prompt
        self.tokens += event.tokens
        self.finish = event.finish or self.finish
        self.cached = max(self.cached, event.cached_tokens)
        text = "".join(part.text for part in event.parts if part.kind == "content")
        self.text += text
        return text


class Completion:
    """One request: every prompt `n` times."""

    def __init__(self, served: Served, asked: CompletionRequest, lenient: bool) -> None:
        self.served, self.asked = served, asked
        self.ignored = asked.check_fields(lenient=lenient)
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self.model, self.adapter = served.find(asked.model)
        self.prompts = prompts_of(asked.prompt, "prompt", served.limits.choices)
        self.only_score = asked.max_tokens == 0
        if self.only_score and not asked.echo:
            raise ApiError(400, "max_tokens 0 without echo asks for nothing", param="max_tokens")
        if asked.echo and asked.stream:
            raise ApiError(400, "echo is not streamed; leave out stream", param="echo")
        if asked.n * len(self.prompts) > served.limits.choices:
            message = f"n times prompts is over {served.limits.choices}; ask for fewer at once"
            raise ApiError(400, message, param="n")
        limit = asked.max_tokens or (16 if asked.max_tokens is None else 1)
        self.params = served.params(asked, self.model, limit)

    @property
    def headers(self) -> dict[str, str]:
        ignored = {"X-Whorl-Ignored": ", ".join(self.ignored)} if self.ignored else {}
        return {"X-Whorl-Weights": self.model.client.info.weight_version, **ignored}

    async def answer(self, http: HttpRequest) -> Response:
        prompts = await token_prompts(self.model, self.prompts, "prompt")
        if not self.asked.stream:
            return JSONResponse(await unless_gone(http, self._whole(prompts)), headers=self.headers)
        stack = AsyncExitStack()
        await stack.enter_async_context(self.served.admitted(self.model, len(prompts) * self.asked.n))
        seconds = self.served.limits.keep_alive_seconds
        return sse(self._chunks(prompts, stack), seconds, self.headers)

    def _requests(self, prompts: list[tuple[int, ...]]) -> list[EngineRequest]:
        scored = self.asked.echo and self.asked.logprobs is not None
        return [
            EngineRequest(
                id=f"{self.id}-{place}-{number}", ids=ids, kind="score" if self.only_score else "text",
                params=self.params, adapter=self.adapter, number=number, priority=self.asked.priority,
                top_logprobs=self.asked.logprobs or 0, prompt_logprobs=scored and not self.only_score,
            )
            for place, ids in enumerate(prompts)
            for number in range(self.asked.n)
        ]  # fmt: skip

    async def _events(self, prompts: list[tuple[int, ...]]) -> AsyncIterator[tuple[int, EngineEvent]]:
        timer = Timer(self.served.metrics, self.model.name)
        stream = merged(self.model.client, self._requests(prompts))
        try:
            async for place, event in stream:
                if event.error:
                    raise event_error(event)
                timer.saw(event)
                yield place, event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def _whole(self, prompts: list[tuple[int, ...]]) -> dict[str, Any]:
        choices = [_Choice() for _ in range(len(prompts) * self.asked.n)]
        async with self.served.admitted(self.model, len(choices)):
            async for place, event in self._events(prompts):
                choices[place].add(event)
        found = [await self._choice(place, choice, prompts) for place, choice in enumerate(choices)]
        return self._body(found) | {"usage": self._usage(prompts, choices)}

    async def _choice(self, place: int, choice: _Choice, prompts: list[tuple[int, ...]]) -> dict[str, Any]:
        text, tokens = choice.text, choice.tokens
        if self.asked.echo:
            given = self.prompts[place // self.asked.n]
            before = choice.prompt or await self._texts(prompts[place // self.asked.n])
            text = (given if isinstance(given, str) else "".join(token.text for token in before)) + text
            tokens = [*before, *tokens]
        scores = legacy_logprobs(tokens, self.asked.logprobs) if self.asked.logprobs is not None else None
        finish = "length" if self.only_score else choice.finish
        return {"index": place, "text": text, "logprobs": scores, "finish_reason": finish}

    async def _texts(self, ids: tuple[int, ...]) -> list[Token]:
        """An echoed prompt's tokens as text, from a scoring of it."""
        request = EngineRequest(id=f"{self.id}-echo-{secrets.token_hex(4)}", ids=ids, kind="score")
        found: list[Token] = []
        async for event in self.model.client.generate(request):
            if event.error:
                raise event_error(event)
            found += event.prompt
        return found

    async def _chunks(
        self, prompts: list[tuple[int, ...]], admitted: AsyncExitStack
    ) -> AsyncIterator[dict[str, Any]]:
        choices = [_Choice() for _ in range(len(prompts) * self.asked.n)]
        async with admitted:
            events = self._events(prompts)
            try:
                async for place, event in events:
                    text = choices[place].add(event)
                    scores = None
                    if self.asked.logprobs is not None:
                        scores = legacy_logprobs(list(event.tokens), self.asked.logprobs)
                    if text or event.finish or scores:
                        choice = {"index": place, "text": text, "logprobs": scores,
                                  "finish_reason": event.finish or None}  # fmt: skip
                        yield self._body([choice])
            finally:
                await events.aclose()  # type: ignore[attr-defined]
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            yield self._body([]) | {"usage": self._usage(prompts, choices)}

    def _usage(self, prompts: list[tuple[int, ...]], choices: list[_Choice]) -> dict[str, Any]:
        reply = sum(len(choice.tokens) for choice in choices)
        return usage_of(sum(map(len, prompts)), reply, max(choice.cached for choice in choices))

    def _body(self, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.asked.model,
            "system_fingerprint": self.model.client.info.weight_version, "choices": choices,
        }  # fmt: skip


def legacy_logprobs(tokens: list[Token], count: int | None) -> dict[str, Any]:
    """The form of /v1/completions. The first token of a text has none: null."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    tops = [
        {text: logprob for _, logprob, text in reversed(token.top)} | {token.text: token.logprob}
        for token in tokens
    ]
    known = [not math.isnan(token.logprob) for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [one.logprob if has else None for one, has in zip(tokens, known, strict=True)],
        "top_logprobs": [top if has else None for top, has in zip(tops, known, strict=True)]
        if count
        else None,
        "text_offset": offsets,
        "token_ids": [token.id for token in tokens],
    }


async def embeddings(served: Served, asked: EmbeddingRequest, http: HttpRequest, lenient: bool) -> Response:
    """The mean of the last hidden states of each input, of unit length."""
    ignored = asked.check_fields(lenient=lenient)
    model, adapter = served.find(asked.model)
    prompts = await token_prompts(model, prompts_of(asked.input, "input", served.limits.choices), "input")
    id = secrets.token_hex(12)
    requests = [
        EngineRequest(id=f"embd-{id}-{place}", ids=ids, kind="embed", adapter=adapter)
        for place, ids in enumerate(prompts)
    ]
    found: list[tuple[float, ...]] = [()] * len(requests)

    async def work() -> None:
        async with served.admitted(model, len(requests)):
            async for place, event in merged(model.client, requests):
                if event.error:
                    raise event_error(event)
                found[place] = event.embedding or found[place]

    await unless_gone(http, work())
    data = [
        {"object": "embedding", "index": place, "embedding": _encoded(vector, asked.encoding_format)}
        for place, vector in enumerate(found)
    ]
    count = sum(map(len, prompts))
    usage = {"prompt_tokens": count, "total_tokens": count}
    headers = {"X-Whorl-Weights": model.client.info.weight_version}
    headers |= {"X-Whorl-Ignored": ", ".join(ignored)} if ignored else {}
    body = {"object": "list", "data": data, "model": asked.model, "usage": usage}
    return JSONResponse(body, headers=headers)


def _encoded(vector: tuple[float, ...], form: str) -> Any:
    if form == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
