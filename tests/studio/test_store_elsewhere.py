"""A studio whose store is a PostgreSQL database: what belongs to the store is kept in its workspace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.arena.store.conftest import postgresql  # noqa: F401  a fixture
from tests.arena.store.server import PostgreSQL
from tests.studio.conftest import studio_process
from whorl.arena.store import Store


def test_its_heads_are_noted_in_the_studio_s_workspace(
    postgresql: PostgreSQL,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, workspace, elsewhere = postgresql.database(), tmp_path / "ws", tmp_path / "elsewhere"
    for folder in (workspace, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("WHORL_WORKSPACE", raising=False)
    with studio_process(workspace, "--store", url) as studio, studio.admin() as admin:
        assert admin.get("/models").status_code == 200
    [noted] = (workspace / "arena").glob("postgresql-*.heads")
    with Store.open(url, create=False) as store:
        assert store.head().hash == json.loads(noted.read_text().splitlines()[-1])["hash"]
    assert not list(elsewhere.iterdir())
