"""A model directory served for the time of an evaluation or a chat, by a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from whorl.base.errors import FaultError, InputError

START_SECONDS = 600.0
STOP_SECONDS = 20.0


SERVING = r"serving .* at (http://\S+)/v1$"


class _Server:
    """A verb of ours that says its address and stays; `address` finds it in the line."""

    def __init__(self, words: Sequence[str], address: str) -> None:
        # Its standard input ends with this process, whatever becomes of it, and the server with that.
        command = [sys.executable, "-m", "whorl", *words, "--end_with_stdin=true"]
        self._pattern = address
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in our terminal is for us: a chat stops a reply with it
        )
        self.said: list[str] = []
        self.address = ""
        self._known = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if found := re.search(self._pattern, line.rstrip()):
                self.address = found[1]
                self._known.set()
        self._known.set()

    def wait(self) -> str:
        self._known.wait(START_SECONDS)
        if self.address:
            return self.address
        if self._known.is_set():
            self.process.wait(STOP_SECONDS)  # it has closed its stderr, and so is about to end
        last = next((line for line in reversed(self.said) if line), "it printed nothing").removeprefix(
            "whorl: "
        )
        if self.process.poll() == 2:
            raise InputError(last)
        raise FaultError(f"the server did not start: {last}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def served(model: str | Path, *words: str) -> Iterator[str]:
    """The address of a server of `model` on a free port of this machine, stopped at the end. `words`
    go to `whorl serve`. What it says when it does not start becomes the error."""
    with staying("serve", str(model), "--port", "0", *words, address=SERVING) as found:
        yield found


@contextmanager
def staying(*words: str, address: str) -> Iterator[str]:
    """The address that `whorl WORDS` says, by the pattern's group, while it runs beside us."""
    server = _Server(words, address)
    try:
        yield server.wait()
    finally:
        server.stop()


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))
