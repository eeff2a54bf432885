"""What `whorl studio` does: a workspace, the models in it, and who may come in."""

from __future__ import annotations

from pydantic import Field

from whorl.base.config import Config


class StudioLimits(Config):
    """What one person, and all together, may take."""

    body: int = Field(default=24 << 20, ge=1024)
    """Bytes of a request's body; images travel in it."""
    prompt: int = Field(default=100_000, ge=1)
    """Characters of one message."""
    messages: int = Field(default=60, ge=1)
    """Messages and votes a person may send in a minute."""
    sign_ins: int = Field(default=10, ge=1)
    """Attempts to sign in from one address in a minute."""
    running: int = Field(default=4, ge=2)
    """Model directories served at once; who was asked longest ago makes room."""
    first_token_seconds: float = Field(default=120.0, gt=0)
    """A model that has said nothing after so long has failed."""
    silence_seconds: float = Field(default=60.0, gt=0)
    """Likewise one that falls silent in the midst of a reply."""
    keep_alive_seconds: float = Field(default=10.0, gt=0)
    """A silent stream sends a comment after so long."""
    drain_seconds: int = Field(default=5, ge=0)
    """Time that requests are given to end when the studio is asked to stop."""


class StudioConfig(Config):
    """One studio over one workspace."""

    workspace: str | None = None
    """Where runs, models and votes are; $WHORL_WORKSPACE or the current directory."""
    model: tuple[str, ...] = ()
    """Model directories, or URLs of OpenAI-compatible servers, beside those of the workspace."""
    store: str | None = None
    """The store of conversations and votes: a file or postgresql://…; the workspace's own."""
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    """0: a free one."""
    root_path: str = ""
    """The path that a proxy serves this under."""
    trusted_proxy: tuple[str, ...] = ()
    """Addresses whose forwarded headers are believed."""
    session_days: int = Field(default=14, ge=1)
    """How long one stays signed in."""
    end_with_stdin: bool = False
    """End when standard input does: who started this has gone."""
    limits: StudioLimits = StudioLimits()
    """What people may take."""
