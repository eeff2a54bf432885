"""/v1/chat/completions: one or several replies to a conversation, whole or streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl.base.nouns import Message, ToolCall
from whorl.serve.api.errors import ApiError
from whorl.serve.api.metrics import Timer
from whorl.serve.api.schemas import ChatRequest
from whorl.serve.api.served import Served, event_error, merged, prepared, unless_gone
from whorl.serve.api.streaming import sse
from whorl.serve.api.traces import Traces, trace_of
from whorl.serve.requests import EngineEvent, EngineRequest, Token
from whorl.serve.wire import PrepareChat, Prepared


@dataclass
class _Choice:
    """One reply as it grows."""

    tokens: list[Token] = field(default_factory=list)
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str = ""

    def add(self, event: EngineEvent) -> dict[str, Any]:
        """Take an event in; returns what it adds, as a streamed delta."""
        delta: dict[str, Any] = {}
        self.tokens += event.tokens
        for part in event.parts:
            if part.kind == "content":
                self.content += part.text
                delta["content"] = delta.get("content", "") + part.text
            elif part.kind == "reasoning":
                self.reasoning += part.text
                delta["reasoning_content"] = delta.get("reasoning_content", "") + part.text
            else:
                delta.setdefault("tool_calls", []).append(self._call(part.kind, part.text, part.index))
        if event.finish:
            self.finish = event.finish
        return delta

    def _call(self, kind: str, text: str, index: int) -> dict[str, Any]:
        if kind == "call":
            id = f"call_{secrets.token_hex(12)}"
            self.calls.append({"id": id, "name": text, "arguments": ""})
            function = {"name": text, "arguments": ""}
            return {"index": index, "id": id, "type": "function", "function": function}
        self.calls[index]["arguments"] += text
        return {"index": index, "function": {"arguments": text}}

    @property
    def reason(self) -> str:
        return "tool_calls" if self.calls and self.finish == "stop" else self.finish

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None, "refusal": None}
        if not self.calls:
            message["content"] = self.content
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": call["id"], "type": "function",
                 "function": {"name": call["name"], "arguments": call["arguments"]}}
                for call in self.calls
            ]  # fmt: skip
        return message

    def noun(self) -> Message:
        calls = tuple(
            ToolCall(name=call["name"], arguments=json.loads(call["arguments"]), id=call["id"])
            for call in self.calls
        )
        content = (self.content,) if self.content else ()
        return Message(
            role="assistant", content=content, tool_calls=calls, reasoning=self.reasoning or None
        )  # fmt: skip


class Chat:
    """One request on its way: prepared, admitted, generated, answered."""

    def __init__(self, served: Served, traces: Traces | None, asked: ChatRequest, lenient: bool) -> None:
        self.served, self.traces, self.asked = served, traces, asked
        self.ignored = asked.check_fields(lenient=lenient)
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model, self.adapter = served.find(asked.model)
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        limit = asked.max_completion_tokens or asked.max_tokens or self.model.client.info.context
        self.params = served.params(asked, self.model, limit)

    @property
    def headers(self) -> dict[str, str]:
        ignored = {"X-Whorl-Ignored": ", ".join(self.ignored)} if self.ignored else {}
        return {"X-Whorl-Weights": self.version, **ignored}

    @property
    def version(self) -> str:
        """Of the weights, and of the adapter on them."""
        info = self.model.client.info
        return info.weight_version + (f"+{info.adapters.get(self.adapter, '')}" if self.adapter else "")

    async def answer(self, http: HttpRequest) -> Response:
        prompt = await prepared(self.model, self._to_prepare(), "messages")
        if not self.asked.stream:
            return JSONResponse(await unless_gone(http, self._whole(prompt)), headers=self.headers)
        stack = AsyncExitStack()  # a full queue is said before the stream begins
        await stack.enter_async_context(self.served.admitted(self.model, self.asked.n))
        seconds = self.served.limits.keep_alive_seconds
        return sse(self._chunks(prompt, stack), seconds, self.headers)

    def _to_prepare(self) -> PrepareChat:
        asked = self.asked
        choice = asked.tool_choice or ("auto" if asked.tools else "none")
        if choice not in ("none", "auto") and not asked.tools:
            raise ApiError(400, "tool_choice needs tools", param="tool_choice")
        return PrepareChat(
            messages=asked.messages, tools=asked.tools or [], template_args=asked.chat_template_kwargs or {},
            tool_choice=choice, response_format=asked.response_format, regex=asked.guided_regex,
            lark=asked.guided_grammar,
        )  # fmt: skip

    def _requests(self, prompt: Prepared) -> list[EngineRequest]:
        asked = self.asked
        return [
            EngineRequest(
                id=f"{self.id}-{number}", ids=prompt.ids, kind="chat", params=self.params,
                images=prompt.images, image_positions=prompt.image_positions,
                image_digests=prompt.image_digests, adapter=self.adapter, number=number,
                priority=asked.priority, grammar=prompt.grammar, top_logprobs=asked.top_logprobs or 0,
                thinking=prompt.thinking,
            )
            for number in range(asked.n)
        ]  # fmt: skip

    async def _events(self, prompt: Prepared) -> AsyncIterator[tuple[int, EngineEvent]]:
        timer = Timer(self.served.metrics, self.model.name)
        stream = merged(self.model.client, self._requests(prompt))
        try:
            async for number, event in stream:
                if event.error:
                    raise event_error(event)
                timer.saw(event)
                yield number, event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def _whole(self, prompt: Prepared) -> dict[str, Any]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        async with self.served.admitted(self.model, self.asked.n):
            async for number, event in self._events(prompt):
                choices[number].add(event)
                cached = max(cached, event.cached_tokens)
        self._trace(choices, prompt)
        found = [
            {"index": number, "message": choice.message(), "finish_reason": choice.reason,
             "logprobs": token_logprobs(choice.tokens) if self.asked.logprobs else None}
            for number, choice in enumerate(choices)
        ]  # fmt: skip
        return self._body("chat.completion", found) | {"usage": self._usage(prompt, choices, cached)}

    async def _chunks(self, prompt: Prepared, admitted: AsyncExitStack) -> AsyncIterator[dict[str, Any]]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        async with admitted:
            for number in range(self.asked.n):
                yield self._chunk(number, {"role": "assistant", "content": ""})
            events = self._events(prompt)
            try:
                async for number, event in events:
                    delta = choices[number].add(event)
                    cached = max(cached, event.cached_tokens)
                    scores = token_logprobs(list(event.tokens)) if self.asked.logprobs else None
                    if delta or (scores and event.tokens):
                        yield self._chunk(number, delta, scores)
                    if event.finish:
                        yield self._chunk(number, {}, finish=choices[number].reason)
            finally:
                await events.aclose()  # type: ignore[attr-defined]
        self._trace(choices, prompt)
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            usage = self._usage(prompt, choices, cached)
            yield self._body("chat.completion.chunk", []) | {"usage": usage}

    def _chunk(
        self, number: int, delta: dict[str, Any], scores: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return self._body("chat.completion.chunk", [choice])

    def _body(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.asked.model,
            "system_fingerprint": self.version, "choices": choices,
        }  # fmt: skip

    def _usage(self, prompt: Prepared, choices: list[_Choice], cached: int) -> dict[str, Any]:
        return usage_of(len(prompt.ids), sum(len(choice.tokens) for choice in choices), cached)

    def _trace(self, choices: list[_Choice], prompt: Prepared) -> None:
        if self.traces is None:
            return
        for number, choice in enumerate(choices):
            trace = trace_of(choice.noun(), choice.tokens, choice.finish, self.params, prompt, self.version)
            self.traces.add(f"{self.id}-{number}", self.asked.model, trace, prompt, self.asked.messages)


def usage_of(prompt: int, reply: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def token_logprobs(tokens: list[Token]) -> dict[str, Any]:
    """Chat's form. `bytes` are of the token's own text; whole characters need their tokens joined."""
    return {
        "content": [
            _scored(token.text, token.logprob)
            | {"top_logprobs": [_scored(text, logprob) for _, logprob, text in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _scored(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
