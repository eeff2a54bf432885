"""A socket before anything is loaded, and how HTTP is spoken on it."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import HANDLED_SIGNALS

from whorl.base.errors import InputError

HEADER_BYTES = 64 << 10


def listen(host: str, port: int) -> socket.socket:
    """A listening socket before anything is loaded: a port in use is said at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Connections take it from here: asyncio leaves it out on sockets that were made without naming TCP.
        # With Nagle's algorithm a body waits 40 ms for the other side to acknowledge its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}; choose another") from error


def address_of(listener: socket.socket, root_path: str) -> tuple[str, str]:
    """The host, and the address a browser takes."""
    host, port = listener.getsockname()[:2]
    return host, f"http://{f'[{host}]' if ':' in host else host}:{port}{root_path}"


def http_settings(
    application: ASGIApp, *, trusted_proxy: Sequence[str], drain_seconds: int, lifespan: bool = False
) -> uvicorn.Config:
    """How HTTP is spoken: whose forwarded headers are believed, how long requests may take to end."""
    return uvicorn.Config(
        application, log_level="warning", access_log=False, lifespan="on" if lifespan else "off",
        proxy_headers=bool(trusted_proxy), forwarded_allow_ips=list(trusted_proxy) or None,
        server_header=False, h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=drain_seconds,
    )  # fmt: skip


class Server(uvicorn.Server):
    """Lets what runs end at SIGINT or SIGTERM, and returns. uvicorn would raise the signal once more, which
    ends the process before what it started is closed, with a code that looks like a crash."""

    asked: int | None = None  # the signal that it was first asked to leave by

    def __init__(self, config: uvicorn.Config, opened: Callable[[], None] = lambda: None) -> None:
        """`opened` is called when the application has started and requests are taken."""
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python has signals for the main thread alone
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:  # from here on a second signal ends the process at once
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = sig
        super().handle_exit(sig, frame)

    def check_interrupted(self) -> None:
        """KeyboardInterrupt where it was Ctrl-C: the command then ends as it does at every Ctrl-C."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt


def check_proxying(trusted_proxy: Sequence[str], root_path: str) -> None:
    """InputError for what would only be found when a request comes."""
    for address in trusted_proxy:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise InputError(f"--trusted-proxy {address} is not an address or network: {error}") from error
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise InputError(f"--root-path {root_path} must begin with / and must not end with /")
