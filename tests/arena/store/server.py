"""A real PostgreSQL from pgserver's wheel, for tests and benches."""

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
from pathlib import Path

import psutil
import sqlalchemy as sa


class NoServerError(Exception):
    """Why there is none here, and what would bring one."""


class PostgreSQL:
    """A server of our own below a temporary folder, reached through a socket there.

    PostgreSQL refuses to run as root; there it runs as `nobody`, so nothing is added to the machine.
    """

    def __init__(self, *, durable: bool = False) -> None:
        """`durable` syncs to disk, as a server does; without it what is killed is processes alone."""
        self.durable = durable
        found = importlib.util.find_spec("pgserver")
        if found is None or found.origin is None:
            raise NoServerError("pgserver is not installed; pip install 'whorl[test]' brings a PostgreSQL")
        self.programs = Path(found.origin).parent / "pginstall" / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="whorl-pg-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = "nobody"
            try:
                owner = pwd.getpwnam(self.user)
            except KeyError as error:
                raise NoServerError(
                    "PostgreSQL does not run as root, and there is no user nobody here"
                ) from error
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
            raise NoServerError(
                f"{self.user} cannot run PostgreSQL from the temporary folder: {error}"
            ) from error
        if done.returncode:
            raise NoServerError(f"{program} of pgserver does not run here: {done.stderr[-2000:]}")

    def start(self) -> None:
        """As a child of ours, so that one that was killed is really gone when it starts again."""
        options = ["-c", "listen_addresses=", "-c", "max_connections=60", "-k", str(self.folder)]
        # Processes are killed here, not the machine: what was handed to the system outlives them, and a
        # busy disk would only make the tests slow. synchronous_commit stays as it is.
        options += [] if self.durable else ["-c", "fsync=off"]
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
        raise NoServerError(
            f"pgserver's PostgreSQL does not start here: {(self.folder / 'log').read_text()[-2000:]}"
        )

    def crash(self) -> None:
        """SIGKILL to the server and its processes: what it had not made durable is gone."""
        helpers = psutil.Process(self.process.pid).children(recursive=True)
        for process in [self.process, *helpers]:
            process.kill()
        self.process.wait()
        psutil.wait_procs(helpers, timeout=30)

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
