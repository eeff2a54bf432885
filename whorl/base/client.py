"""A client of OpenAI's protocol: Whorl's own server, or any other.

    client = OpenAIClient("http://127.0.0.1:8000", api_key=…)
    async for delta in client.chat(conversation, params): …
    trace = await client.reply(conversation, params)

What a server says is wrong becomes one line: `InputError` where the request or the key is to blame,
`FaultError` where the server is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict

from whorl.base.errors import FaultError, InputError
from whorl.base.nouns import Conversation, Message, SamplingParams, ToolCall, Trace

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5  # at a request that is told to come back later
LONGEST_WAIT = 20.0  # seconds between two attempts
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 300.0
KEPT_SECONDS = (
    2.0  # an idle connection; servers close theirs after five, and one that both let go of is an error
)
DEFAULTS = SamplingParams()
# Parameters beyond OpenAI's own are sent only where they say something.
OWN = ("top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What has come since the last one. `calls` are pieces: (index, id, name, arguments so far new)."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[int, str, str, str], ...] = ()
    logprobs: tuple[float, ...] = ()
    token_ids: tuple[int, ...] = ()  # with `return_token_ids`, and `prompt_ids` in the first delta
    prompt_ids: tuple[int, ...] = ()
    template_hash: str = ""
    tokenizer_hash: str = ""
    sampled_logprobs: tuple[float, ...] = ()  # with `return_token_ids` too, as `kept`: see `Trace`
    kept: tuple[int, ...] = ()
    finish: str = ""
    weight_version: str = ""
    tokens: int = 0  # of the whole reply, in the last delta, where the server tells


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text's tokens and the log-prob of each given those before it; the first has none (NaN)."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]


class Client(Protocol):
    """A model to talk to, wherever it is."""

    def chat(self, conversation: Conversation, params: SamplingParams) -> AsyncIterator[Delta]: ...

    async def score(self, text: str | Sequence[int]) -> Scored: ...


@dataclass
class ReplySoFar:
    """Deltas put together."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)  # index → [id, name, arguments]
    logprobs: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    template_hash: str = ""
    tokenizer_hash: str = ""
    sampled_logprobs: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    finish: str = ""
    weight_version: str = ""

    def add(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        for index, id, name, arguments in delta.calls:
            call = self.calls.setdefault(index, ["", "", ""])
            call[0], call[1], call[2] = call[0] or id, call[1] + name, call[2] + arguments
        self.logprobs += delta.logprobs
        self.token_ids += delta.token_ids
        self.prompt_ids += delta.prompt_ids
        self.template_hash = delta.template_hash or self.template_hash
        self.tokenizer_hash = delta.tokenizer_hash or self.tokenizer_hash
        self.sampled_logprobs += delta.sampled_logprobs
        self.kept += delta.kept
        self.finish = delta.finish or self.finish
        self.weight_version = delta.weight_version or self.weight_version

    def message(self) -> Message:
        """A call whose arguments are no JSON object is the model's mistake, and stays text."""
        calls, broken = [], ""
        for _, (id, name, arguments) in sorted(self.calls.items()):
            try:
                value = json.loads(arguments or "{}")
            except json.JSONDecodeError:
                value = None
            if name and isinstance(value, dict):
                calls.append(ToolCall(name=name, arguments=value, id=id))
            else:
                broken += f"{name}({arguments})"
        text = self.content + broken
        return Message(
            role="assistant", content=(text,) if text else (), tool_calls=tuple(calls),
            reasoning=self.reasoning or None,
        )  # fmt: skip


class OpenAIClient:
    """`url` with or without /v1; `model` "" is the only one, or the first, that is served there. `traced`
    asks servers of ours for the tokens of each reply."""

    def __init__(self, url: str, *, model: str = "", api_key: str = "", traced: bool = False) -> None:
        import httpx

        self.traced, self._ours = traced, False
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url} is not a server URL (must start with http:// or https://)")
        self.url, self.model = url.rstrip("/").removesuffix("/v1"), model
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=f"{self.url}/v1", headers=headers, trust_env=False,
                timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_SECONDS),
            )  # fmt: skip
        except httpx.InvalidURL as error:
            raise InputError(f"{url!r} is not a server URL: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """The server's cards of what it serves."""
        answer = await self._ask("GET", "/models", None)
        found = answer.get("data")
        if not isinstance(found, list) or not all(isinstance(one, dict) and "id" in one for one in found):
            raise FaultError(
                f"{self.url} does not answer /v1/models as the OpenAI API does; is it an"
                " OpenAI-compatible server?"
            )
        return found

    async def connect(self) -> dict[str, Any]:
        """See that the server is there and serves the model; returns its card."""
        cards = await self.models()
        if not cards:
            raise InputError(f"{self.url} serves no model")
        if not self.model:
            self.model = str(cards[0]["id"])
        for card in cards:
            if card["id"] == self.model:
                self._ours = card.get("owned_by") == "whorl"
                return card
        names = ", ".join(str(card["id"]) for card in cards)
        raise InputError(f"{self.url} serves no model {self.model!r}; it serves {names}")

    async def chat(
        self, conversation: Conversation, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[Delta, None]:
        """A reply as it comes. `more` goes into the request as it is."""
        body = await self._chat_body(conversation, params) | {"stream": True} | more
        body["stream_options"] = {"include_usage": True}
        async with self._stream(body) as lines:
            async for data in lines:
                delta = _delta(data, self.url)
                if delta is not None:
                    yield delta

    async def reply(self, conversation: Conversation, params: SamplingParams, **more: Any) -> Trace:
        """The whole reply. With `logprobs` and `return_token_ids` true, and a server that gives both, the
        trace has them."""
        body = await self._chat_body(conversation, params) | more
        answer = await self._ask("POST", "/chat/completions", body)
        try:
            choice = answer["choices"][0]
            message, finish = choice["message"], choice["finish_reason"]
            delta = _delta_of(message)
            scores = (choice.get("logprobs") or {}).get("content") or []
            ids = tuple(int(one) for one in choice.get("token_ids") or ())
            logprobs = tuple(float(one["logprob"]) for one in scores) if ids else ()
            drawn = _drawn(choice if ids else {})
            prompt = tuple(int(one) for one in answer.get("prompt_token_ids") or ())
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise FaultError(
                f"{self.url} returned a response that does not follow the OpenAI API: {error!r}"
            ) from error
        whole = ReplySoFar()
        whole.add(delta)
        return Trace(
            message=whole.message(), finish="length" if finish == "length" else "stop", sampling=params,
            weight_version=str(answer.get("system_fingerprint") or ""), prompt_ids=prompt, token_ids=ids,
            logprobs=logprobs, template_hash=str(answer.get("template_hash") or ""),
            tokenizer_hash=str(answer.get("tokenizer_hash") or ""), **drawn,
        )  # fmt: skip

    async def score(self, text: str | Sequence[int]) -> Scored:
        """The log-probs of a text, or of token ids, through /v1/completions. InputError where the
        server cannot: it must honour `echo` with `max_tokens` 0."""
        prompt = text if isinstance(text, str) else list(text)
        body = {"model": await self._name(), "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
        answer = await self._ask("POST", "/completions", body)
        try:
            found = answer["choices"][0]["logprobs"]
            logprobs = tuple(float("nan") if one is None else float(one) for one in found["token_logprobs"])
            tokens = tuple(str(token) for token in found["tokens"])
            ids = tuple(int(id) for id in found.get("token_ids", prompt if isinstance(prompt, list) else ()))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.url} does not return log-probs for a prompt (echo with logprobs)"
            ) from error
        return Scored(token_ids=ids, tokens=tokens, logprobs=logprobs)

    # -- requests ---------------------------------------------------------------------------------

    async def _name(self) -> str:
        if not self.model:
            await self.connect()
        return self.model

    async def _chat_body(self, conversation: Conversation, params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": await self._name(), "messages": [one.to_openai() for one in conversation.messages],
            "max_tokens": params.max_tokens, "temperature": params.temperature, "top_p": params.top_p,
            "seed": params.seed,
        }  # fmt: skip
        body |= {
            name: getattr(params, name) for name in OWN if getattr(params, name) != getattr(DEFAULTS, name)
        }
        for name in ("presence_penalty", "frequency_penalty"):
            body |= {name: getattr(params, name)} if getattr(params, name) else {}
        body |= {"stop": list(params.stop)} if params.stop else {}
        body |= {"tools": list(conversation.tools)} if conversation.tools else {}
        if self.traced and self._ours:
            body |= {"logprobs": True, "return_token_ids": True}
        if conversation.template_args:
            body["chat_template_kwargs"] = dict(conversation.template_args)
        return body

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx

        for attempt in range(ATTEMPTS):
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                raise self._unreachable(error) from error
            if answer.status_code != 429 or attempt + 1 == ATTEMPTS:
                break
            await asyncio.sleep(_wait(answer.headers.get("retry-after"), attempt))
        self._check(answer.status_code, answer.text)
        try:
            value = answer.json()
        except ValueError as error:
            raise FaultError(
                f"{self.url} answers {path} with something other than JSON; is it an OpenAI-compatible"
                " server?"
            ) from error
        if not isinstance(value, dict):
            raise FaultError(
                f"{self.url} answers {path} with something other than a JSON object; is it an"
                " OpenAI-compatible server?"
            )
        return value

    def _stream(self, body: dict[str, Any]) -> _Stream:
        return _Stream(self, self._http, body)

    def _unreachable(self, error: httpx.TransportError) -> FaultError:
        kind = str(error) or type(error).__name__
        return FaultError(f"{self.url} does not answer ({kind}); is the server running?")

    def _check(self, status: int, text: str) -> None:
        if status < 400:
            return
        said = _error_text(text)
        if status in (401, 403):
            raise InputError(f"{self.url} rejects the key ({said}); give a valid one")
        if status < 500 and status != 429:
            raise InputError(f"{self.url} rejects the request: {said}")
        raise FaultError(f"{self.url} failed with {status}: {said}")


class _Stream:
    """A streamed answer's data, event by event; errors in its midst are raised."""

    def __init__(self, client: OpenAIClient, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self._client, self._http, self._body = client, http, body

    async def __aenter__(self) -> AsyncIterator[dict[str, Any]]:
        import httpx

        for attempt in range(ATTEMPTS):
            request = self._http.build_request("POST", "/chat/completions", json=self._body)
            try:
                self._answer = await self._http.send(request, stream=True)
            except httpx.TransportError as error:
                raise self._client._unreachable(error) from error
            if self._answer.status_code != 429 or attempt + 1 == ATTEMPTS:
                break
            await self._answer.aclose()
            await asyncio.sleep(_wait(self._answer.headers.get("retry-after"), attempt))
        if self._answer.status_code >= 400:
            text = (await self._answer.aread()).decode("utf-8", "replace")
            await self._answer.aclose()
            self._client._check(self._answer.status_code, text)
        return self._events()

    async def __aexit__(self, *_: object) -> None:
        await self._answer.aclose()

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        import httpx

        finished = False
        try:
            async for line in self._answer.aiter_lines():
                if not line.startswith("data:"):
                    continue  # comments that keep the line open, and what we do not read
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                try:
                    value = json.loads(data)
                except json.JSONDecodeError as error:
                    raise FaultError(
                        f"{self._client.url} streamed something other than JSON: {data[:80]!r}"
                    ) from error
                if isinstance(value, dict) and value.get("error"):
                    raise FaultError(f"{self._client.url} stopped with an error: {_error_text(data)}")
                finished = finished or _finishes(value)
                yield value
        except httpx.TransportError as error:
            raise self._client._unreachable(error) from error
        if not finished:  # a proxy or a dying server ends the answer in good order, and half a reply is none
            raise FaultError(f"{self._client.url} closed the stream before the reply was complete; try again")


def _wait(stated: str | None, attempt: int) -> float:
    seconds = float(stated) if stated is not None and stated.replace(".", "", 1).isdigit() else 2.0**attempt
    return min(seconds, LONGEST_WAIT)


def _error_text(text: str) -> str:
    """What the server says in its error, in one line."""
    try:
        error = json.loads(text)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (json.JSONDecodeError, KeyError, TypeError):
        said = text
    return " ".join(str(said).split())[:300] or "no reason given"


def _finishes(data: Any) -> bool:
    choices = data.get("choices") if isinstance(data, dict) else None
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
    )


def _delta(data: Any, url: str) -> Delta | None:
    """One event's news; None where it has none."""
    try:
        usage = data.get("usage") or {}
        version = str(data.get("system_fingerprint") or "")
        if not data["choices"]:
            return Delta(tokens=int(usage.get("completion_tokens", 0)), weight_version=version)
        choice = data["choices"][0]
        delta = _delta_of(choice["delta"])
        scores = (choice.get("logprobs") or {}).get("content") or []
        return Delta(
            content=delta.content, reasoning=delta.reasoning, calls=delta.calls,
            logprobs=tuple(float(one["logprob"]) for one in scores), finish=choice.get("finish_reason") or "",
            weight_version=version, token_ids=tuple(int(one) for one in choice.get("token_ids") or ()),
            prompt_ids=tuple(int(one) for one in data.get("prompt_token_ids") or ()),
            template_hash=str(data.get("template_hash") or ""),
            tokenizer_hash=str(data.get("tokenizer_hash") or ""), **_drawn(choice),
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FaultError(f"{url} streams events that do not follow the OpenAI API: {error!r}") from error


class _Drawn(TypedDict):
    sampled_logprobs: tuple[float, ...]
    kept: tuple[int, ...]


def _drawn(choice: Mapping[str, Any]) -> _Drawn:
    """How a choice's tokens were drawn, from a server that tells."""
    return {
        "sampled_logprobs": tuple(float(one) for one in choice.get("sampled_logprobs") or ()),
        "kept": tuple(int(one) for one in choice.get("kept") or ()),
    }


def _delta_of(message: Mapping[str, Any]) -> Delta:
    calls = tuple(
        (int(call.get("index", place)), str(call.get("id") or ""), str(call["function"].get("name") or ""),
         str(call["function"].get("arguments") or ""))
        for place, call in enumerate(message.get("tool_calls") or [])
    )  # fmt: skip
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return Delta(content=message.get("content") or "", reasoning=str(reasoning), calls=calls)


async def whole(deltas: AsyncIterator[Delta]) -> tuple[Message, str, str]:
    """A streamed reply to its end: message, why it ended, and the weights' version."""
    reply = ReplySoFar()
    async for delta in deltas:
        reply.add(delta)
    return reply.message(), reply.finish, reply.weight_version
