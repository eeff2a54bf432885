"""The engine's process: `python -m whorl.serve.worker FD`, frames over an inherited socket.

One thread owns the model; one reads what comes, one writes what goes, so that neither a slow reader
nor a long step holds up the other side. When the socket closes, the process leaves.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading

from whorl.base.errors import WhorlError
from whorl.serve.engine import Engine
from whorl.serve.engine_config import EngineConfig
from whorl.serve.engine_loop import run_engine
from whorl.serve.wire import Close, Failed, Message, Ready, encode, read_frame


def main(arguments: list[str]) -> int:
    descriptor, model, config = int(arguments[0]), arguments[1], json.loads(arguments[2])
    connection = socket.socket(fileno=descriptor)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(connection, outbox), daemon=True)
    writer.start()
    try:
        engine = Engine.start(model, EngineConfig(**config))
    except WhorlError as error:  # told over there as the user's mistake
        outbox.put(Failed(str(error)))
    else:
        outbox.put(Ready(engine.info))
        threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
        run_engine(engine, inbox, outbox.put)
    outbox.put(None)
    writer.join()
    return 0


def _read(connection: socket.socket, inbox: queue.SimpleQueue[Message]) -> None:
    try:
        while (message := read_frame(connection)) is not None:
            inbox.put(message)
    except OSError:
        pass  # the other side is gone, which is what closing means
    inbox.put(Close())


def _write(connection: socket.socket, outbox: queue.SimpleQueue[Message | None]) -> None:
    try:
        while (message := outbox.get()) is not None:
            connection.sendall(encode(message))
    except OSError:
        pass  # nobody reads any more; the reader says so to the engine


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
