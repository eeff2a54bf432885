"""What goes to the engine and what comes back: plain data, the same inside a process and on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whorl.base.nouns import SamplingParams
from whorl.text.images import Patches
from whorl.text.reply import ReplyPart

Kind = Literal["chat", "text", "score", "embed"]
Finish = Literal["", "stop", "length"]


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One sequence to work on.

    `kind` "chat" and "text" generate: a chat's reply is taken apart into content, thinking and tool
    calls, a text's is plain. "score" generates nothing and returns the log-prob of every prompt
    token but the first. "embed" returns the mean of the last hidden states, of unit length.
    `number` counts random numbers: equal (seed, number) draw alike, whatever else is in the batch;
    the choices of one request are numbers 0, 1, … Its prompt's images are in reading order, their
    digests are what the prefix cache knows them by.
    """

    id: str
    ids: tuple[int, ...]
    kind: Kind = "text"
    params: SamplingParams = field(default_factory=SamplingParams)
    images: tuple[Patches, ...] = ()
    image_positions: tuple[int, ...] = ()
    image_digests: tuple[str, ...] = ()
    adapter: str = ""  # "" is the model itself
    number: int = 0
    priority: int = 0  # lower goes first
    calls: bool = False  # the grammar holds the reply to tool calls
    grammar: str = ""  # llguidance's grammar, as JSON; see whorl.serve.grammar
    top_logprobs: int = 0  # of the likeliest tokens beside each token
    prompt_logprobs: bool = False  # generate, and score the prompt too
    thinking: bool = False  # the prompt has opened <think>


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token with the log-softmax of the model's logits at it (before temperature, penalties, masks).

    `text` is its own bytes' text, U+FFFD where they are no whole character. `top` are the likeliest
    (id, log-prob, text) at its place. The first token of a prompt has log-prob NaN. `drawn` is a reply's
    token's log-prob in the distribution that it was drawn from, which keeps `kept` of the vocabulary's tokens
    (see `whorl.models.sampling.Choice`).
    """

    id: int
    logprob: float
    text: str = ""
    top: tuple[tuple[int, float, str], ...] = ()
    drawn: float = 0.0
    kept: int = 1


@dataclass(frozen=True, kw_only=True)
class EngineEvent:
    """What became of a request in one step. The last event of a request has `finish` or `error`.

    `parts` are what a reader sees now; stop strings and end tokens are not in them. `stop` is the
    string or the id of the end token that ended it. `error` is one line for the user; `fault` says
    that the engine is to blame, not the request.
    """

    id: str
    tokens: tuple[Token, ...] = ()
    parts: tuple[ReplyPart, ...] = ()
    prompt: tuple[Token, ...] = ()
    embedding: tuple[float, ...] = ()
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    finish: Finish = ""
    stop: str | int | None = None
    error: str = ""
    fault: bool = False

    @property
    def last(self) -> bool:
        return bool(self.finish or self.error)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What a client may know about an engine that is up."""

    weight_version: str
    adapters: dict[str, str]  # name → version
    context: int  # tokens of a prompt and its reply together
    cache_tokens: int
    vocab_size: int
    dtype: str
    quantize: str  # "", "int8" or "int4"
    device: str
    images: bool


@dataclass(frozen=True, kw_only=True)
class EngineHealth:
    """The truth about an engine, for /health and /metrics. `status` "starting", "ready" or "down"."""

    status: Literal["starting", "ready", "down"]
    running: int = 0
    waiting: int = 0
    pages_free: int = 0
    pages_total: int = 0
    restarts: int = 0
    reason: str = ""  # why it is down
    counters: dict[str, float] = field(default_factory=dict)  # since the start: steps, prompt_tokens, …
