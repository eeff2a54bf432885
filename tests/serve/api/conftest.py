"""A real `whorl serve` process over the model that knows a few conversations."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from tests.models.learnt import save_learnt


class Server:
    """A running server: its process, its address and what it has said."""

    def __init__(self, process: subprocess.Popen[str], patience: float = 90.0) -> None:
        self.process, self.said, self.address = process, [], ""
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._known.wait(patience)
        assert self.address, "".join(self.said)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"serving .* at (http://\S+)/v1", line):
                self.address = found.group(1)
                self._known.set()
        self._known.set()

    @property
    def host(self) -> str:
        """Where it listens, as host:port."""
        return urlsplit(self.address).netloc

    @property
    def worker(self) -> psutil.Process:
        """The engine's process."""
        (found,) = (
            child for child in psutil.Process(self.process.pid).children(recursive=True)
            if "whorl.serve.worker" in " ".join(child.cmdline())
        )  # fmt: skip
        return found

    def client(self, key: str = "none", **more: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=60, **more)  # type: ignore[arg-type]


@contextmanager
def serving(*words: str, model: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "whorl", "serve", str(model), "--port", "0", "--device", "cpu",
               "--dtype", "float32", "--memory", "0.02", "--end_with_stdin=true", *words]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=environment,
        start_new_session=True,  # a signal to its group is not ours; it ends with the pipe that it reads
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="session")
def learnt_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("served") / "knows")


@pytest.fixture(scope="session")
def server(learnt_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    traces = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    with serving("--traces", str(traces), model=learnt_directory) as running:
        running.traces = traces  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    return server.client()
