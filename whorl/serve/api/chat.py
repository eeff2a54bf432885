"""/v1/chat/completions: one or several replies to a conversation, whole or streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl.base.nouns import Message, ToolCall
from whorl.serve.api.errors import ApiError
from whorl.serve.api.metrics import Timer
from whorl.serve.api.schemas import ChatRequest, ignored_header
from whorl.serve.api.served import (
    Served,
    begun,
    check_prompt,
    event_error,
    merged,
    prepared,
    unless_gone,
)
from whorl.serve.api.streaming import sse
from whorl.serve.api.traces import Traces
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
        """A call that the reply's length has cut off stays text."""
        calls, text = [], self.content
        for call in self.calls:
            try:
                arguments = json.loads(call["arguments"])
            except json.JSONDecodeError:
                text += f"{call['name']}({call['arguments']}"
                continue
            calls.append(ToolCall(name=call["name"], arguments=arguments, id=call["id"]))
        content = (text,) if text else ()
        return Message(
            role="assistant", content=content, tool_calls=tuple(calls), reasoning=self.reasoning or None
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
        self.version = self.model.version(self.adapter)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Whorl-Weights": self.version, **ignored_header(self.ignored)}

    async def answer(self, http: HttpRequest) -> Response:
        if not self.asked.stream:
            return JSONResponse(await unless_gone(http, self._whole()), headers=self.headers)
        prompt, room = await begun(http, self.served, self.model, self.asked.n, self._prompt)
        return sse(self._chunks(prompt), room, self.served.limits.keep_alive_seconds, self.headers)

    async def _prompt(self) -> Prepared:
        prompt = await prepared(self.model, self._to_prepare(), "messages")
        check_prompt(self.model, prompt.ids, 1, "messages")
        return prompt

    def _to_prepare(self) -> PrepareChat:
        asked = self.asked
        choice = asked.tool_choice or ("auto" if asked.tools else "none")
        if choice not in ("none", "auto") and not asked.tools:
            raise ApiError(400, "tool_choice needs tools", param="tool_choice")
        return PrepareChat(
            messages=asked.messages, tools=asked.tools or [], template_args=asked.chat_template_kwargs or {},
            tool_choice=choice, response_format=asked.response_format, regex=asked.guided_regex,
            lark=asked.guided_grammar, context=self.model.client.info.context,
        )  # fmt: skip

    def _requests(self, prompt: Prepared) -> list[EngineRequest]:
        asked = self.asked
        return [
            EngineRequest(
                id=f"{self.id}-{number}", ids=prompt.ids, kind="chat", params=self.params,
                images=prompt.images, image_positions=prompt.image_positions,
                image_digests=prompt.image_digests, adapter=self.adapter, number=number,
                priority=asked.priority, grammar=prompt.grammar, calls=prompt.calls,
                top_logprobs=asked.top_logprobs or 0,
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
                timer.saw(number, event)
                yield number, event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def _whole(self) -> dict[str, Any]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        async with self.served.admitted(self.model, self.asked.n):
            prompt = await self._prompt()
            async for number, event in self._events(prompt):
                choices[number].add(event)
                cached = max(cached, event.cached_tokens)
        self._trace(choices, prompt)
        found = [
            {"index": number, "message": choice.message(), "finish_reason": choice.reason,
             "logprobs": token_logprobs(choice.tokens) if self.asked.logprobs else None}
            | self._ids(choice.tokens)
            for number, choice in enumerate(choices)
        ]  # fmt: skip
        told = self._body("chat.completion", found) | self._prompt_ids(prompt)
        return told | {"usage": self._usage(prompt, choices, cached)}

    async def _chunks(self, prompt: Prepared) -> AsyncIterator[dict[str, Any]]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        for number in range(self.asked.n):
            yield self._chunk(number, {"role": "assistant", "content": ""}) | self._prompt_ids(prompt)
        events = self._events(prompt)
        try:
            async for number, event in events:
                delta = choices[number].add(event)
                cached = max(cached, event.cached_tokens)
                scores = token_logprobs(list(event.tokens)) if self.asked.logprobs else None
                ids = self._ids(event.tokens)
                if delta or ((scores or ids) and event.tokens):
                    yield self._chunk(number, delta, scores, more=ids)
                if event.finish:
                    yield self._chunk(number, {}, finish=choices[number].reason)
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        self._trace(choices, prompt)
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            usage = self._usage(prompt, choices, cached)
            yield self._body("chat.completion.chunk", []) | {"usage": usage}

    def _chunk(
        self, number: int, delta: dict[str, Any], scores: Any = None, finish: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        choice = {"index": number, "delta": delta, "logprobs": scores, "finish_reason": finish} | (more or {})
        return self._body("chat.completion.chunk", [choice])

    def _prompt_ids(self, prompt: Prepared) -> dict[str, Any]:
        """What a trace needs of the prompt, for who asked: vLLM's name, and ours beside it."""
        if not self.asked.return_token_ids:
            return {}
        return {
            "prompt_token_ids": list(prompt.ids), "template_hash": prompt.template_hash,
            "tokenizer_hash": prompt.tokenizer_hash,
        }  # fmt: skip

    def _ids(self, tokens: list[Token] | tuple[Token, ...]) -> dict[str, Any]:
        """What a trace needs of the reply's tokens, for who asked."""
        if not self.asked.return_token_ids:
            return {}
        return {
            "token_ids": [token.id for token in tokens],
            "sampled_logprobs": [token.drawn for token in tokens],
            "kept": [token.kept for token in tokens],
        }

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
            self.traces.add(
                f"{self.id}-{number}", self.asked.model, choice.noun(), choice.tokens, choice.finish,
                self.params, prompt, self.version, {"messages": self.asked.messages},
            )  # fmt: skip


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
