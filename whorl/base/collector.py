"""Python's search for cycles, kept from the objects that stay: those of the modules that are loaded."""

from __future__ import annotations

import atexit
import gc
import sys


def keep_loaded() -> None:
    """Let no collection look at what there is by now: in a server's process one took a tenth of a second,
    and everybody waited.

    Not where triton is loaded: it takes what is never collected for a leak of its own, and prints it.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def end_at_once() -> None:
    """Spare this process the last collection: through torch's objects it takes up to a second."""
    atexit.register(keep_loaded)
