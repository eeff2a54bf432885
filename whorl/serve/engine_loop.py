"""The thread's loop that owns an engine: take what has come, step, say what it gave."""

from __future__ import annotations

import queue
from collections.abc import Callable

from whorl.base.errors import WhorlError
from whorl.serve.engine import Engine
from whorl.serve.wire import Abort, Answer, Close, Events, Generate, LoadAdapter, Message, UnloadAdapter


def run_engine(engine: Engine, inbox: queue.SimpleQueue[Message], say: Callable[[Message], None]) -> None:
    """Serve until `Close` comes; `say` is called on this thread and must not wait."""
    while True:
        try:
            message = inbox.get(block=not engine.busy)
        except queue.Empty:
            message = None
        if isinstance(message, Close):
            return
        if message is not None:
            _handle(engine, message, say)
            continue  # everything that waits joins the same step
        events = engine.step()
        if events:
            say(Events(tuple(events), engine.health))


def _handle(engine: Engine, message: Message, say: Callable[[Message], None]) -> None:
    match message:
        case Generate(request):
            engine.submit(request)
        case Abort(id):
            engine.abort(id)
            say(Events((), engine.health))
        case LoadAdapter(call, name, directory):
            say(_answer(engine, call, lambda: engine.load_adapter(name, directory)))
        case UnloadAdapter(call, name):
            say(_answer(engine, call, lambda: engine.unload_adapter(name)))


def _answer(engine: Engine, call: int, action: Callable[[], str | None]) -> Answer:
    try:
        text, error = action() or "", ""
    except WhorlError as problem:
        text, error = "", str(problem)
    return Answer(call, text, error, engine.info)
