"""A real PostgreSQL from pgserver's wheel, and stores on both databases."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from whorl.arena.store import Pairing, Store
from whorl.base.nouns import Message


class PostgreSQL:
    """A server of our own below a temporary folder, reached through a socket there.

    PostgreSQL refuses to run as root; there it runs as `nobody`, so nothing is added to the machine.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("pgserver")
        if found is None or found.origin is None:
            pytest.skip("pgserver is not installed; pip install 'whorl[test]' brings a PostgreSQL")
        self.programs = Path(found.origin).parent / "pginstall" / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="whorl-pg-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = "nobody"
            try:
                owner = pwd.getpwnam(self.user)
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user nobody here")
            os.chmod(self.folder, 0o755)
            for path in (self.folder, self.data):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self.run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "--no-sync")
        self.start()

    def run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self.programs / program, "-D", self.data, *words],
            cwd=self.folder, user=self.user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        if done.returncode:
            log = self.folder / "log"
            pytest.skip(f"{program} of pgserver does not run here: {log.read_text() if log.exists() else ''}")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c max_connections=60 -k {self.folder}"
        self.run("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def crash(self) -> None:
        """SIGKILL to the server and all its processes at once: what was not on disk is gone."""
        number = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        for process in [number, *map(int, children)]:
            os.kill(process, signal.SIGKILL)

    def database(self) -> str:
        """The URL of a fresh database."""
        name = f"arena_{uuid.uuid4().hex[:12]}"
        engine = sa.create_engine(f"postgresql+psycopg://postgres@/postgres?host={self.folder}")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that is not there yet, on each database."""
    if request.param == "sqlite":
        return str(tmp_path / "arena.sqlite")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def store(address: str, tmp_path: Path) -> Iterator[Store]:
    """A store with two models and one person (number 1), where every prompt rates."""
    with Store.open(address, train_share=0.0, backups=tmp_path / "backups") as made:
        for name in ("amber-1", "birch-2"):
            made.add_model(name)
        made.add_person("ann")
        yield made


@pytest.fixture
def fight() -> Callable[..., Pairing]:
    """A battle with both answers in, ready for its vote."""

    def make(store: Store, prompt: str = "What does a whorl do?", **given: object) -> Pairing:
        options = {"model_a": "amber-1", "model_b": "birch-2", "probability": 0.5, "consent": "rate", **given}
        opening = [Message(role="user", content=(prompt,))]
        pair = store.start_battle(1, opening, **options)  # type: ignore[arg-type]
        for side, text in (("a", "It keeps the spindle turning."), ("b", "Nothing **at all**.")):
            reply = Message(role="assistant", content=(text,))
            store.say(pair.id, reply, side=side, weight_version=f"w-{side}")  # type: ignore[arg-type]
        return pair

    return make
