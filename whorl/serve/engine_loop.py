"""The thread's loop that owns an engine: take what has come, step, say what it gave."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from whorl.base.errors import WhorlError, one_line
from whorl.serve.engine import Engine
from whorl.serve.wire import Abort, Answer, Close, Events, Generate, LoadAdapter, Message, UnloadAdapter


class Pulse:
    """How long the engine's thread has been at what it does; read by other threads."""

    def __init__(self) -> None:
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """0 while it waits for work."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    @contextmanager
    def beating(self) -> Iterator[None]:
        self._begun = time.monotonic()
        try:
            yield
        finally:
            self._begun = None


def run_engine(
    engine: Engine, inbox: queue.SimpleQueue[Message], say: Callable[[Message], None], pulse: Pulse
) -> None:
    """Serve until `Close` comes; `say` is called on this thread and must not wait."""
    while True:
        try:
            message = inbox.get(block=not engine.busy)
        except queue.Empty:
            message = None
        if isinstance(message, Close):
            return
        with pulse.beating():
            if message is not None:
                _handle(engine, message, say)
                continue  # everything that waits joins the same step
            events = engine.step()
        say(Events(tuple(events), engine.health))  # also without events: a long prompt has its chunks


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
        return Answer(call, action() or "", "", engine.info)
    except WhorlError as problem:
        return Answer(call, "", one_line(problem, most=2000), engine.info)
    except Exception as problem:  # noqa: BLE001 - one command's failure is not the requests'
        said = f"the engine failed: {type(problem).__name__}: {one_line(problem)}"
        return Answer(call, "", said, engine.info, fault=True)
