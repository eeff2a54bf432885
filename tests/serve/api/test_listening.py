"""Sockets as they are listened on."""

from __future__ import annotations

import socket

from whorl.serve.api.listening import listen


def test_connections_send_without_delay() -> None:
    """asyncio sets this only on sockets that name TCP, and one from `create_server` does not."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
