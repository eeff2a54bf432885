"""Stores on both databases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.arena.store.server import NoServerError, PostgreSQL
from whorl.arena.store import Pairing, Store
from whorl.base.nouns import Message


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    try:
        server = PostgreSQL()
    except NoServerError as reason:
        if os.environ.get("CI") == "true" and not os.environ.get("WHORL_WITHOUT_POSTGRES"):
            pytest.fail(f"{reason}; set WHORL_WITHOUT_POSTGRES=1 to go on without one", pytrace=False)
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(postgresql: PostgreSQL) -> str:
    """The name of a database with a store as `populated` makes it: copying is quicker than making."""
    url = postgresql.database()
    populated(url).close()
    return url.partition("@/")[2].partition("?")[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that is not there yet, on each database; with `store`, that one's."""
    wanted = "store" in request.fixturenames
    if request.param == "sqlite":
        if wanted:
            shutil.copy(request.getfixturevalue("blank"), tmp_path / "arena.sqlite")
        return str(tmp_path / "arena.sqlite")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database(f"TEMPLATE {request.getfixturevalue('template')}" if wanted else "")


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
