"""What `whorl studio` does: a workspace, the models in it, and who may come in."""

from __future__ import annotations

from pydantic import Field

from whorl.base.config import Config


class StudioLimits(Config):
    """What one person, and all together, may take."""

    body: int = Field(default=24 << 20, ge=1024)
    """Maximum size of a request body in bytes, images included."""
    prompt: int = Field(default=100_000, ge=1)
    """Maximum characters per message."""
    messages: int = Field(default=60, ge=1)
    """Messages and votes a person may send per minute."""
    sign_ins: int = Field(default=10, ge=1)
    """Sign-in attempts per address per minute."""
    running: int = Field(default=4, ge=2)
    """Model directories served at once; the least recently used is stopped to make room."""
    first_token_seconds: float = Field(default=120.0, gt=0)
    """Seconds until a model that has not begun its reply counts as failed."""
    silence_seconds: float = Field(default=60.0, gt=0)
    """The same, for a model that goes silent in the middle of a reply."""
    keep_alive_seconds: float = Field(default=10.0, gt=0)
    """Seconds of silence before a keep-alive comment is sent on a stream."""
    drain_seconds: int = Field(default=5, ge=0)
    """How long running requests may take to finish when the studio is asked to stop."""


class StudioConfig(Config):
    """One studio over one workspace."""

    workspace: str | None = None
    """Where runs, models and votes are; $WHORL_WORKSPACE or the current directory."""
    model: tuple[str, ...] = ()
    """Models in addition to the workspace's: directories, or OpenAI-compatible servers as ADDRESS or
    ADDRESS#SERVED (the model's name there); prefix NAME= to set its name here."""
    key_file: tuple[str, ...] = ()
    """NAME=FILE: a file whose first line is the API key for that model's server. A plain FILE is for every
    --model."""
    store: str | None = None
    """The store of conversations and votes: a file or postgresql://…; default: the workspace's."""
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    """0: any free port."""
    root_path: str = ""
    """The path prefix under which a proxy serves this."""
    trusted_proxy: tuple[str, ...] = ()
    """Proxy addresses whose forwarded headers are trusted."""
    session_days: int = Field(default=14, ge=1)
    """How long a sign-in lasts."""
    end_with_stdin: bool = False
    """Exit when standard input closes, i.e. when the parent process is gone."""
    limits: StudioLimits = StudioLimits()
    """Limits per person and per request."""
