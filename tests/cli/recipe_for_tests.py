"""A configuration for `test_config_command`."""

from whorl.base.config import Config


class Inner(Config):
    rate: float = 0.5
    """How fast."""


class Outer(Config):
    steps: int = 3
    eager: bool = False
    data: list[str] = []
    inner: Inner = Inner()
