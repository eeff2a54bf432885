"""Tasks that nobody waits for: what fails in one is seen on the terminal, at once."""

from __future__ import annotations

import asyncio
import logging


def watched(task: asyncio.Task[None], what: str) -> asyncio.Task[None]:
    """The task itself; an exception that ends it goes to stderr with its traceback. asyncio says it only when
    the task is collected, and never where somebody has looked at the exception meanwhile."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logging.getLogger(__name__).error("%s failed", what, exc_info=error)

    task.add_done_callback(ended)
    return task
