"""`whorl studio`: the application behind uvicorn, one address to click."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import quote

from whorl.base.collector import keep_loaded
from whorl.base.posix import end_with_stdin
from whorl.base.progress import say
from whorl.serve.api.listening import Server, address_of, check_proxying, http_settings, listen
from whorl.studio.application import app
from whorl.studio.config import StudioConfig
from whorl.studio.studio import Studio


def run_studio(config: StudioConfig, ready: Callable[[str], None] | None = None) -> None:
    """Serve the studio until Ctrl-C or SIGTERM; `ready` is told the address to open. KeyboardInterrupt, when
    all is closed, where it was Ctrl-C."""
    check_proxying(config.trusted_proxy, config.root_path)
    if config.end_with_stdin:
        end_with_stdin()
    listener = listen(config.host, config.port)
    try:
        studio = Studio.open(config)
        host, address = address_of(listener, config.root_path)
        say(f"studio over {studio.workspace.resolve()}: {', '.join(studio.pool.names()) or 'no model yet'}")
        if not ipaddress.ip_address(host).is_loopback:
            say(
                f"{host} is reachable from other machines: put HTTPS in front of it, and give people"
                " tokens on /people"
            )

        def opened() -> None:
            entrance = f"{address}/enter?key={quote(studio.sessions.key)}"
            say(f"open {entrance}")
            if ready is not None:
                ready(entrance)

        settings = http_settings(
            app(studio), trusted_proxy=config.trusted_proxy, drain_seconds=config.limits.drain_seconds,
            lifespan=True,
        )  # fmt: skip
        server = Server(settings, opened)
        keep_loaded()
        server.run(sockets=[listener])
    finally:
        listener.close()
    server.check_interrupted()
