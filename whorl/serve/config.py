"""What `whorl serve` does: models, their engines, and the API in front of them."""

from __future__ import annotations

from pydantic import Field

from whorl.base.config import Config
from whorl.serve.engine_config import EngineConfig


class LimitsConfig(Config):
    """What one request, and all of them together, may take."""

    body: int = Field(default=64 << 20, ge=1024)
    """Maximum size of a request body, in bytes."""
    choices: int = Field(default=16, ge=1)
    """Maximum `n`, and maximum prompts per completions or embeddings request."""
    queue: int = Field(default=256, ge=1)
    """Maximum running and waiting sequences per model; beyond that, requests get a 429."""
    prepare_seconds: float = Field(default=20.0, gt=0)
    """Time limit for rendering, tokenising and decoding one request's prompt."""
    preparers: int = Field(default=2, ge=1)
    """Prompt-preparation processes per model; with only one, a large prompt delays all others."""
    priority: int = 0
    """The lowest `priority` a request may ask for. Lower runs first: below 0, clients may jump the queue."""
    drain_seconds: int = Field(default=30, ge=0)
    """How long running requests may take to finish when the server is asked to stop."""
    keep_alive_seconds: float = Field(default=10.0, gt=0)
    """Seconds of silence before a keep-alive comment is sent on a stream."""


class ServeConfig(Config):
    """One server."""

    models: tuple[str, ...]
    """Model directories, each served under its folder's name (`--name` overrides it for the first)."""
    name: str | None = None
    """The first model's name in the API."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0: any free port."""
    api_key_file: str | None = None
    """A file with one key per line; every route except /health and /ready then requires a key."""
    metrics_key_file: str | None = None
    """The same, for /metrics only; without it, /metrics accepts the API keys."""
    trusted_proxy: tuple[str, ...] = ()
    """Proxy addresses whose forwarded headers are trusted."""
    root_path: str = ""
    """The path prefix under which a proxy serves this."""
    lenient: bool = False
    """Ignore unknown parameters and list them in a response header, instead of rejecting them."""
    end_with_stdin: bool = False
    """Exit when standard input closes, i.e. when the parent process is gone."""
    traces: str | None = None
    """A file to which one record per reply is appended: tokens, log-probs, weights."""
    engine: EngineConfig = EngineConfig()
    """Engine settings, the same for every model."""
    limits: LimitsConfig = LimitsConfig()
    """Limits on requests."""
