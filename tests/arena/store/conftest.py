"""A real PostgreSQL from pgserver's wheel, and stores on both databases."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
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
        self.blank = ""
        if os.geteuid() == 0:
            self.user = "nobody"
            try:
                owner = pwd.getpwnam(self.user)
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user nobody here")
            os.chmod(self.folder, 0o755)
            # That user may not be able to reach the environment these tests run in.
            package = Path(found.origin).parent
            for name in (package.name, f"{package.name}.libs"):  # the wheel's programs and their libraries
                if (package.parent / name).is_dir():
                    shutil.copytree(package.parent / name, self.folder / name, symlinks=True)
            self.programs = self.folder / package.name / "pginstall" / "bin"
            for path in (self.folder, self.data):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self.run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "--no-sync")
        self.start()

    def run(self, program: str, *words: str) -> None:
        try:
            done = subprocess.run(
                [self.programs / program, "-D", self.data, *words],
                cwd=self.folder, user=self.user, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=120,
            )  # fmt: skip
        except PermissionError as error:
            pytest.skip(f"{self.user} cannot run PostgreSQL from the temporary folder: {error}")
        if done.returncode:
            pytest.skip(f"{program} of pgserver does not run here: {done.stderr[-2000:]}")

    def start(self) -> None:
        """As a child of ours, so that one that was killed is really gone when it starts again."""
        options = ["-c", "listen_addresses=", "-c", "max_connections=60", "-k", str(self.folder)]
        # Processes are killed here, not the machine: what was handed to the system outlives them, and a
        # busy disk would only make the tests slow. synchronous_commit stays as it is.
        options += ["-c", "fsync=off"]
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *options],
                cwd=self.folder, user=self.user, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        ready = [self.programs / "pg_isready", "-q", "-h", self.folder]
        for _ in range(600):
            if subprocess.run(ready).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.skip(f"pgserver's PostgreSQL does not start here: {(self.folder / 'log').read_text()[-2000:]}")

    def crash(self) -> None:
        """SIGKILL to the server and its processes: what it had not made durable is gone."""
        helpers = psutil.Process(self.process.pid).children(recursive=True)
        for process in [self.process, *helpers]:
            process.kill()
        self.process.wait()
        psutil.wait_procs(helpers, timeout=30)

    def populated(self) -> str:
        """The URL of a fresh database with a store as `populated` makes it, copied from the first."""
        if not self.blank:
            url = self.database()
            populated(url).close()
            self.blank = url.partition("@/")[2].partition("?")[0]
        return self.database(f"TEMPLATE {self.blank}")

    def database(self, options: str = "") -> str:
        """The URL of a fresh database."""
        name = f"arena_{uuid.uuid4().hex[:12]}"
        engine = sa.create_engine(f"postgresql+psycopg://postgres@/postgres?host={self.folder}")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} {options}"))
        engine.dispose()
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # leave at once
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that is not there yet, on each database; with `store`, that one's."""
    wanted = "store" in request.fixturenames
    if request.param == "sqlite":
        if wanted:
            shutil.copy(request.getfixturevalue("blank"), tmp_path / "arena.sqlite")
        return str(tmp_path / "arena.sqlite")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.populated() if wanted else server.database()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blank") / "arena.sqlite"
    populated(str(path)).close()
    return path


def populated(address: str) -> Store:
    """A store with two models and one person (number 1), where every prompt rates."""
    made = Store.open(address, train_share=0.0)
    for name in ("amber-1", "birch-2"):
        made.add_model(name)
    made.add_person("ann")
    return made


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    """A populated store of the test's own."""
    with Store.open(address, create=False) as made:
        yield made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that a file's tests share: each adds to it, or leaves it as it was."""
    if request.param == "sqlite":
        address = str(tmp_path_factory.mktemp("shared") / "arena.sqlite")
    else:
        address = request.getfixturevalue("postgresql").database()
    with populated(address) as made:
        yield made


@pytest.fixture(scope="session")
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
