"""The nouns every room shares, with their invariants checked where they are made.

Nothing here knows about tokens, tensors or HTTP: a `Conversation` is what a person would call one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from whorl.base.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An encoded image (PNG, JPEG, …) inside a message; decoding belongs to `whorl.text.images`."""

    data: bytes = field(repr=False)
    media_type: str = "image/png"

    def __post_init__(self) -> None:
        if not self.data:
            raise DataError("image part has no bytes; give the encoded file's content")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded bytes: the image's name in content-addressed shards."""
        return hashlib.sha256(self.data).hexdigest()

    def to_data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    @classmethod
    def from_data_uri(cls, uri: str) -> Self:
        head, comma, body = uri.partition(",")
        if not comma or not head.startswith("data:") or not head.endswith(";base64"):
            raise DataError("image URL is not a base64 data URI (data:image/png;base64,…); inline the image")
        try:
            data = base64.b64decode(body, validate=True)
        except ValueError as error:
            raise DataError(f"image data URI is not valid base64: {error}") from error
        return cls(data=data, media_type=head.removeprefix("data:").removesuffix(";base64"))


Part = str | ImagePart


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A request by the assistant to run a tool: its name and its arguments as a JSON object."""

    name: str
    arguments: dict[str, Any]
    id: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise DataError("tool call has no name")
        if not isinstance(self.arguments, dict):
            raise DataError(f"tool call {self.name!r}: arguments must be a JSON object")

    def to_openai(self) -> dict[str, Any]:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text and images in reading order."""

    role: Role
    content: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None  # which call a `tool` message answers
    name: str | None = None
    reasoning: str | None = None  # the assistant's thinking, kept apart from its answer

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"message role {self.role!r} is not one of {', '.join(ROLES)}")
        if isinstance(self.content, str):
            raise DataError("message content is a tuple of parts: write content=(text,)")
        if self.tool_calls and self.role != "assistant":
            raise DataError(f"a {self.role} message cannot call tools; only assistant messages can")

    @property
    def text(self) -> str:
        """The text parts joined; images leave no trace in it."""
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.content if isinstance(part, ImagePart))

    def to_openai(self) -> dict[str, Any]:
        """The OpenAI chat form; images become data URIs."""
        message: dict[str, Any] = {"role": self.role}
        if self.images:
            message["content"] = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": part.to_data_uri()}}
                for part in self.content
            ]
        else:
            message["content"] = self.text
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        for key in ("tool_call_id", "name"):
            if getattr(self, key) is not None:
                message[key] = getattr(self, key)
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return message


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in order, and the tools (JSON-schema functions, OpenAI's form) offered in them."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    id: str = ""
    template_args: dict[str, Any] = field(default_factory=dict)  # e.g. {"enable_thinking": False}

    def __post_init__(self) -> None:
        if not self.messages:
            raise DataError(f"conversation {self.id!r} has no messages")

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How a reply is sampled. `temperature` 0 is greedy, and so is one too near to 0 to divide by
    (`whorl.models.sampling.GREEDY_BELOW`).

    In this order: `logit_bias` and the penalties change the scores of tokens (`repetition_penalty`
    divides, arXiv 1909.05858, and counts the prompt too; `presence_penalty` and `frequency_penalty`
    subtract, as in OpenAI's API, and count the reply alone), then temperature, `top_k`, `top_p` and
    `min_p` (at least this share of the likeliest token's probability) say which may be drawn.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to its logit)
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_end: bool = False  # go on past end tokens, for measuring speed

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise DataError("max_tokens must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise DataError("temperature must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise DataError("top_p must be in (0, 1]")
        if self.top_k < 0:
            raise DataError("top_k must be 0 (no limit) or more")
        if not 0 <= self.min_p <= 1:
            raise DataError("min_p must be between 0 and 1")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise DataError(f"{name} must be between -2 and 2")
        if not 0.01 <= self.repetition_penalty <= 10:
            raise DataError("repetition_penalty must be between 0.01 and 10")
        if any(not text for text in self.stop):
            raise DataError("stop has an empty string; remove it")
        for token, bias in self.logit_bias:
            if token < 0 or not -100 <= bias <= 100:
                raise DataError(
                    f"logit_bias of token {token} must be between -100 and 100, for an id of 0 or more"
                )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One reply as it was sampled: never rendered again to be graded or trained on.

    `token_ids` are the reply's; `prompt_ids` what it was conditioned on. `logprobs[i]` is the
    log-softmax of the model's logits (after its soft cap, before temperature and masks) of
    `token_ids[i]`; `sampled_logprobs[i]` is its log-prob in the distribution that it was drawn from, after
    bias, penalties, grammar, temperature and truncation, and `kept[i]` how many of the vocabulary's tokens
    have a chance there: the likeliest ones, so the count is the truncation's mask. `finish` is why it
    ended: "stop" (an end token or stop string) or "length".
    """

    message: Message
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    sampled_logprobs: tuple[float, ...] = ()
    kept: tuple[int, ...] = ()
    finish: Literal["stop", "length"] = "stop"
    sampling: SamplingParams = field(default_factory=SamplingParams)
    weight_version: str = ""
    template_hash: str = ""
    tokenizer_hash: str = ""
    parent: Trace | None = None  # the reply before this one in the same conversation

    @property
    def chain(self) -> tuple[Trace, ...]:
        """This conversation's replies, oldest first, this one last."""
        return (*(self.parent.chain if self.parent else ()), self)

    def __post_init__(self) -> None:
        for figures in (self.logprobs, self.sampled_logprobs, self.kept):
            if figures and len(figures) != len(self.token_ids):
                raise DataError("a trace needs one figure of each kind per token")
