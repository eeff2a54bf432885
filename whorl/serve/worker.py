"""The engine's process: `python -m whorl.serve.worker FD`, frames over an inherited socket.

One thread owns the model; one reads what comes, one writes what goes, so that neither a slow reader
nor a long step holds up the other side; one says every second that the process lives. When the socket
closes, or one of the threads fails, the process leaves.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
from contextlib import suppress

from whorl.base.collector import end_at_once, keep_loaded
from whorl.base.errors import WhorlError, one_line
from whorl.base.posix import ignore_leave_signals
from whorl.serve.engine import Engine
from whorl.serve.engine_config import EngineConfig
from whorl.serve.engine_loop import Pulse, run_engine
from whorl.serve.wire import Beat, Close, Failed, Message, Ready, encode, read_frame

BEAT_SECONDS = 1.0

Inbox = queue.SimpleQueue[Message]
Outbox = queue.SimpleQueue[Message | None]


def main(arguments: list[str]) -> int:
    ignore_leave_signals()
    end_at_once()
    descriptor, model, config = int(arguments[0]), arguments[1], json.loads(arguments[2])
    connection = socket.socket(fileno=descriptor)
    inbox: Inbox = queue.SimpleQueue()
    outbox: Outbox = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(connection, outbox), daemon=True)
    writer.start()
    try:
        engine = Engine.start(model, EngineConfig(**config))
    except WhorlError as error:  # told over there as the user's mistake
        outbox.put(Failed(one_line(error, most=2000)))
    else:
        keep_loaded()
        pulse, leaving = Pulse(), threading.Event()
        outbox.put(Ready(engine.info))
        threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
        threading.Thread(target=_beat, args=(engine, pulse, outbox, leaving), daemon=True).start()
        run_engine(engine, inbox, outbox.put, pulse)
        leaving.set()
    outbox.put(None)
    writer.join()
    return 0


def _read(connection: socket.socket, inbox: Inbox) -> None:
    try:
        while (message := read_frame(connection)) is not None:
            inbox.put(message)
    except OSError:
        pass  # the other side is gone, which is what closing means
    finally:  # also after a frame that is none: who sends such frames is not to be waited for
        inbox.put(Close())


def _write(connection: socket.socket, outbox: Outbox) -> None:
    try:
        while (message := outbox.get()) is not None:
            connection.sendall(encode(message))
    except OSError:
        pass  # nobody reads any more
    finally:  # the reader here, and the other side, see the end
        with suppress(OSError):  # it is closed already
            connection.shutdown(socket.SHUT_RDWR)


def _beat(engine: Engine, pulse: Pulse, outbox: Outbox, leaving: threading.Event) -> None:
    while not leaving.wait(BEAT_SECONDS):
        outbox.put(Beat(engine.health, pulse.seconds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
