"""/v1/chat/completions: one or several replies to a conversation, whole or streamed."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from whorl.base.nouns import Message, ToolCall
from whorl.serve.api.errors import ApiError
from whorl.serve.api.generation import Generation, usage_of
from whorl.serve.api.schemas import ChatRequest
from whorl.serve.api.served import Served, check_prompt, prepared
from whorl.serve.api.traces import Traces
from whorl.serve.requests import EngineEvent, EngineRequest, Token
from whorl.serve.wire import PrepareChat, Prepared

CHUNK = "chat.completion.chunk"


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


class Chat(Generation[ChatRequest, Prepared]):
    kind, prefix = "chat.completion", "chatcmpl"

    def __init__(self, served: Served, traces: Traces | None, asked: ChatRequest, lenient: bool) -> None:
        super().__init__(served, traces, asked, lenient)
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        limit = asked.max_completion_tokens or asked.max_tokens or self.model.client.info.context
        self.params = served.params(asked, self.model, limit)

    async def prepare(self) -> Prepared:
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

    def requests(self, prompts: Prepared) -> list[EngineRequest]:
        asked = self.asked
        return [
            EngineRequest(
                id=f"{self.id}-{number}", ids=prompts.ids, kind="chat", params=self.params,
                images=prompts.images, image_positions=prompts.image_positions,
                image_digests=prompts.image_digests, adapter=self.adapter, number=number,
                priority=asked.priority, grammar=prompts.grammar, calls=prompts.calls,
                top_logprobs=asked.top_logprobs or 0,
                thinking=prompts.thinking,
            )
            for number in range(asked.n)
        ]  # fmt: skip

    async def whole(self, prompts: Prepared) -> dict[str, Any]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        async for number, event in self.events(prompts):
            choices[number].add(event)
            cached = max(cached, event.cached_tokens)
        self._trace(choices, prompts)
        found = [
            {"index": number, "message": choice.message(), "finish_reason": choice.reason,
             "logprobs": token_logprobs(choice.tokens) if self.asked.logprobs else None}
            | self._ids(choice.tokens)
            for number, choice in enumerate(choices)
        ]  # fmt: skip
        told = self.body(found) | self._prompt_ids(prompts)
        return told | {"usage": self._usage(prompts, choices, cached)}

    async def chunks(self, prompts: Prepared) -> AsyncIterator[dict[str, Any]]:
        choices = [_Choice() for _ in range(self.asked.n)]
        cached = 0
        for number in range(self.asked.n):
            yield self._chunk(number, {"role": "assistant", "content": ""}) | self._prompt_ids(prompts)
        events = self.events(prompts)
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
        self._trace(choices, prompts)
        if self.wants_usage:
            yield self.body([], CHUNK) | {"usage": self._usage(prompts, choices, cached)}

    def _chunk(
        self, number: int, delta: dict[str, Any], scores: Any = None, finish: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        choice = {"index": number, "delta": delta, "logprobs": scores, "finish_reason": finish} | (more or {})
        return self.body([choice], CHUNK)

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
