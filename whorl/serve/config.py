"""What `whorl serve` does: models, their engines, and the API in front of them."""

from __future__ import annotations

from pydantic import Field

from whorl.base.config import Config
from whorl.serve.engine_config import EngineConfig


class LimitsConfig(Config):
    """What one request, and all of them together, may take."""

    body: int = Field(default=64 << 20, ge=1024)
    """Bytes of a request's body."""
    choices: int = Field(default=16, ge=1)
    """`n`, and prompts of one completions or embeddings request."""
    queue: int = Field(default=256, ge=1)
    """Sequences of a model that run or wait; more are answered 429."""
    prepare_seconds: float = Field(default=20.0, gt=0)
    """Time to render, tokenise and decode one request's prompt."""
    preparers: int = Field(default=1, ge=1)
    """Processes that do so, of each model."""
    drain_seconds: int = Field(default=30, ge=0)
    """Time that requests are given to end when the server is asked to stop."""
    keep_alive_seconds: float = Field(default=10.0, gt=0)
    """A silent stream sends a comment after so long."""


class ServeConfig(Config):
    """One server."""

    models: tuple[str, ...]
    """Model directories, each served under its name: the folder's, or `--name` for the first."""
    name: str | None = None
    """The first model's name in the API."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0: a free one."""
    api_key_file: str | None = None
    """A file with one key a line; then every route needs one, but /health and /ready."""
    metrics_key_file: str | None = None
    """Likewise for /metrics alone; without it /metrics takes the API's keys."""
    trusted_proxy: tuple[str, ...] = ()
    """Addresses whose forwarded headers are believed."""
    root_path: str = ""
    """The path that a proxy serves this under."""
    lenient: bool = False
    """Ignore unknown parameters, naming them in a header, instead of refusing them."""
    end_with_stdin: bool = False
    """End when standard input does: who started this has gone."""
    traces: str | None = None
    """A file that gets one record of every chat reply: tokens, log-probs, weights."""
    engine: EngineConfig = EngineConfig()
    """Every model's engine."""
    limits: LimitsConfig = LimitsConfig()
    """What requests may take."""
