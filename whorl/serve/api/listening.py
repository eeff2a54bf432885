"""A socket before anything is loaded, and how HTTP is spoken on it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

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
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}; take another") from error


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


def check_proxying(trusted_proxy: Sequence[str], root_path: str) -> None:
    """InputError for what would only be found when a request comes."""
    for address in trusted_proxy:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise InputError(f"--trusted-proxy {address} is no address or network: {error}") from error
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise InputError(f"--root-path {root_path} begins with / and does not end with it")
