"""/v1/completions: texts or tokens go on, and are scored where `echo` asks for it; and /v1/embeddings."""

from __future__ import annotations

import base64
import math
import secrets
import struct
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl.base.nouns import Message
from whorl.serve.api.errors import ApiError
from whorl.serve.api.generation import Generation, usage_of
from whorl.serve.api.schemas import CompletionRequest, EmbeddingRequest, ignored_header, prompts_of
from whorl.serve.api.served import (
    Served,
    ServedModel,
    check_prompt,
    event_error,
    merged,
    prepared,
    unless_gone,
)
from whorl.serve.api.traces import Traces
from whorl.serve.requests import EngineEvent, EngineRequest, Token
from whorl.serve.wire import Prepared, PrepareIds, PrepareText


async def token_prompts(
    model: ServedModel, given: list[str | list[int]], room: int, field: str
) -> list[Prepared]:
    """Each prompt with its ids; a text is tokenised where prompts are prepared."""
    found = []
    for prompt in given:
        if isinstance(prompt, str):
            made = await prepared(model, PrepareText(prompt, context=model.client.info.context), field)
        else:
            made = Prepared(ids=tuple(prompt))
        if not made.ids:
            raise ApiError(400, f"{field} has an empty prompt; give at least one token", param=field)
        check_prompt(model, made.ids, room, field)
        found.append(made)
    return found


class _Choice:
    def __init__(self) -> None:
        self.prompt: list[Token] = []
        self.tokens: list[Token] = []
        self.text = ""
        self.finish = ""
        self.cached = 0
        self.shown = 0  # characters of the tokens whose log-probs have gone

    def add(self, event: EngineEvent) -> str:
        """Take an event in; returns the text that it adds."""
        self.prompt += event.prompt
        self.tokens += event.tokens
        self.finish = event.finish or self.finish
        self.cached = max(self.cached, event.cached_tokens)
        text = "".join(part.text for part in event.parts if part.kind == "content")
        self.text += text
        return text


class Completion(Generation[CompletionRequest, list[Prepared]]):
    """Every prompt `n` times."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(
        self, served: Served, traces: Traces | None, asked: CompletionRequest, lenient: bool
    ) -> None:
        super().__init__(served, traces, asked, lenient)
        self.prompts = prompts_of(asked.prompt, "prompt", served.limits.choices)
        self.only_score = asked.max_tokens == 0
        if self.only_score and not asked.echo:
            raise ApiError(
                400,
                "max_tokens 0 without echo would generate nothing; raise it or set echo",
                param="max_tokens",
            )
        if asked.echo and asked.stream:
            raise ApiError(400, "echo cannot be streamed; remove stream", param="echo")
        if asked.n * len(self.prompts) > served.limits.choices:
            message = f"n times prompts is over {served.limits.choices}; ask for fewer at once"
            raise ApiError(400, message, param="n")
        limit = asked.max_tokens or (16 if asked.max_tokens is None else 1)
        self.params = served.params(asked, self.model, limit)
        self.count = len(self.prompts) * asked.n

    async def prepare(self) -> list[Prepared]:
        made = await token_prompts(self.model, self.prompts, 0 if self.only_score else 1, "prompt")
        if self.asked.echo and self.asked.logprobs is None:  # else the tokens come back with their texts
            for place, given in enumerate(self.prompts):
                if not isinstance(given, str):
                    made[place] = await prepared(self.model, PrepareIds(made[place].ids), "prompt")
        return made

    def requests(self, prompts: list[Prepared]) -> list[EngineRequest]:
        scored = self.asked.echo and self.asked.logprobs is not None
        return [
            EngineRequest(
                id=f"{self.id}-{place}-{number}", ids=prompt.ids, kind="score" if self.only_score else "text",
                params=self.params, adapter=self.adapter, number=number, priority=self.asked.priority,
                top_logprobs=self.asked.logprobs or 0, prompt_logprobs=scored and not self.only_score,
            )
            for place, prompt in enumerate(prompts)
            for number in range(self.asked.n)
        ]  # fmt: skip

    async def whole(self, prompts: list[Prepared]) -> dict[str, Any]:
        choices = [_Choice() for _ in range(self.count)]
        async for place, event in self.events(prompts):
            choices[place].add(event)
        found = [self._choice(place, choice, prompts) for place, choice in enumerate(choices)]
        self._trace(choices, prompts)
        return self.body(found) | {"usage": self._usage(prompts, choices)}

    def _choice(self, place: int, choice: _Choice, prompts: list[Prepared]) -> dict[str, Any]:
        text, tokens, hidden = choice.text, choice.tokens, 0
        if self.asked.echo:
            given, prompt = self.prompts[place // self.asked.n], prompts[place // self.asked.n]
            spelt = prompt.text or "".join(token.text for token in choice.prompt)
            text = (given if isinstance(given, str) else spelt) + text
            tokens, hidden = [*choice.prompt, *tokens], prompt.before
        scores = None
        if self.asked.logprobs is not None:
            scores = legacy_logprobs(tokens, self.asked.logprobs, hidden=hidden)
        finish = "length" if self.only_score else choice.finish
        return {"index": place, "text": text, "logprobs": scores, "finish_reason": finish}

    async def chunks(self, prompts: list[Prepared]) -> AsyncIterator[dict[str, Any]]:
        choices = [_Choice() for _ in range(self.count)]
        events = self.events(prompts)
        try:
            async for place, event in events:
                choice = choices[place]
                text, scores = choice.add(event), None
                if self.asked.logprobs is not None:
                    tokens = list(event.tokens)
                    scores = legacy_logprobs(tokens, self.asked.logprobs, at=choice.shown)
                    choice.shown += sum(len(token.text) for token in tokens)
                if text or event.finish or scores:
                    one = {"index": place, "text": text, "logprobs": scores,
                           "finish_reason": event.finish or None}  # fmt: skip
                    yield self.body([one])
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        self._trace(choices, prompts)
        if self.wants_usage:
            yield self.body([]) | {"usage": self._usage(prompts, choices)}

    def _trace(self, choices: list[_Choice], prompts: list[Prepared]) -> None:
        if self.traces is None or self.only_score:
            return
        for place, choice in enumerate(choices):
            number = place // self.asked.n
            message = Message(role="assistant", content=(choice.text,) if choice.text else ())
            self.traces.add(
                f"{self.id}-{place}", self.asked.model, message, choice.tokens, choice.finish, self.params,
                prompts[number], self.version, {"messages": [], "prompt": self.prompts[number]},
            )  # fmt: skip

    def _usage(self, prompts: list[Prepared], choices: list[_Choice]) -> dict[str, Any]:
        reply = sum(len(choice.tokens) for choice in choices)
        cached = max(choice.cached for choice in choices)
        return usage_of(sum(len(prompt.ids) for prompt in prompts), reply, cached)


def legacy_logprobs(
    tokens: list[Token], count: int | None, *, at: int = 0, hidden: int = 0
) -> dict[str, Any]:
    """The form of /v1/completions. The first token of a text has none: null. `at` characters went before
    these tokens; the first `hidden` tokens stand before the text and take no room in it."""
    offsets = []
    for number, token in enumerate(tokens):
        offsets.append(at)
        at += 0 if number < hidden else len(token.text)
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
    version = model.version(adapter)
    given = prompts_of(asked.input, "input", served.limits.choices)
    id = secrets.token_hex(12)

    async def work() -> tuple[list[tuple[float, ...]], int]:
        found: list[tuple[float, ...]] = [()] * len(given)
        async with served.admitted(model, len(given)):
            prompts = await token_prompts(model, given, 0, "input")
            requests = [
                EngineRequest(id=f"embd-{id}-{place}", ids=prompt.ids, kind="embed", adapter=adapter)
                for place, prompt in enumerate(prompts)
            ]
            async for place, event in merged(model.client, requests):
                if event.error:
                    raise event_error(event)
                found[place] = event.embedding or found[place]
        return found, sum(len(prompt.ids) for prompt in prompts)

    found, count = await unless_gone(http, work())
    data = [
        {"object": "embedding", "index": place, "embedding": _encoded(vector, asked.encoding_format)}
        for place, vector in enumerate(found)
    ]
    body = {
        "object": "list", "data": data, "model": asked.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }  # fmt: skip
    return JSONResponse(body, headers={"X-Whorl-Weights": version, **ignored_header(ignored)})


def _encoded(vector: tuple[float, ...], form: str) -> Any:
    if form == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
