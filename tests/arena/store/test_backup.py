"""Backups: of one moment, read back, restored on either database, and nothing ever written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from whorl.arena.store import Pairing, Store, backup_workspace, restore_workspace
from whorl.arena.store.backup import check_backup
from whorl.base.errors import DataError, InputError
from whorl.base.logbook import Logbook
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two runs, one inside a folder, with small files, weights and a checkpoint."""
    place = tmp_path / "workspace"
    for name in ("first", "deep/second"):
        book = Logbook(place / name)
        book.metric(1, loss=2.5)
        (place / name / "config.toml").write_text("[train]\nsteps = 3\n")
        (place / name / "model").mkdir()
        (place / name / "model" / "model.safetensors").write_bytes(b"w" * 1000)
        (place / name / "model" / "config.json").write_text("{}")
        (place / name / "checkpoints" / "step-1").mkdir(parents=True)
        (place / name / "checkpoints" / "step-1" / "manifest.json").write_text("{}")
    return place


@pytest.fixture
def full(store: Store, fight: Fight) -> Store:
    for number in range(4):
        store.vote(fight(store, f"Question {number} about {number * 7}").id, "model_a")
    chat = store.start_chat(1, [Message(role="user", content=("Keep me, ünï \0.",))], consent="train")
    turn = store.say(chat, Message(role="assistant", content=("I do.",)), trace={"token_ids": [1]})
    store.thumb(turn, 1, person=1, reason="good")
    store.erase(next(iter(store.battles())).battle)
    return store


def contents(store: Store) -> object:
    talks = store.conversations()
    return (
        store.models(), store.people(), talks, [store.turns(talk.id) for talk in talks],
        [store.preferences(talk.id) for talk in talks], list(store.battles(rated=None)), store.head(),
    )  # fmt: skip


def test_a_workspace_comes_back_as_it_was(full: Store, address: str, workspace: Path, tmp_path: Path) -> None:
    made = backup_workspace(tmp_path / "backup", workspace=workspace, store=address)
    assert (made.votes, made.head) == (4, full.head())
    assert sorted(made.left_out) == sorted(
        f"{run}/{name}"
        for run in ("first", "deep/second")
        for name in ("model/model.safetensors", "checkpoints/step-1/manifest.json")
    )
    there = tmp_path / "there"
    restore_workspace(tmp_path / "backup", workspace=there)
    with Store.open(there / "arena" / "arena.sqlite", create=False) as restored:
        assert contents(restored) == contents(full)
        assert restored.verify(full.head()).ok
        restored.add_person("bob")  # numbers go on
        assert [person.id for person in restored.people()] == [1, 2]
        assert restored.settings == full.settings
    for run in ("first", "deep/second"):
        for name in ("config.toml", "metrics.jsonl", "model/config.json"):
            assert (there / run / name).read_bytes() == (workspace / run / name).read_bytes()
        assert not (there / run / "checkpoints").exists()


def test_a_file_moves_to_a_server_and_goes_on_there(
    full: Store, address: str, tmp_path: Path, postgresql: object, fight: Fight
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    backup_workspace(tmp_path / "backup", workspace=empty, store=address)
    target = postgresql.database()  # type: ignore[attr-defined]
    restore_workspace(tmp_path / "backup", workspace=empty, store=target)
    with Store.open(target, create=False) as restored:
        assert contents(restored) == contents(full)
        restored.vote(fight(restored, "A new question, on the server now").id, "tie")
        assert restored.verify(full.head()).ok
    with pytest.raises(InputError, match="already contains a store"):
        restore_workspace(tmp_path / "backup", workspace=empty, store=target)
    with Store.open(target) as restored:
        assert restored.verify().votes == 5


def test_nothing_is_written_over(full: Store, address: str, workspace: Path, tmp_path: Path) -> None:
    backup_workspace(tmp_path / "backup", workspace=workspace, store=address)
    with pytest.raises(InputError, match="never overwritten"):
        backup_workspace(tmp_path / "backup", workspace=workspace, store=address)
    there = tmp_path / "there"
    (there / "arena").mkdir(parents=True)
    (there / "arena" / "arena.sqlite").write_text("precious")
    with pytest.raises(InputError, match="stores are never overwritten"):
        restore_workspace(tmp_path / "backup", workspace=there)
    assert (there / "arena" / "arena.sqlite").read_text() == "precious"
    assert not (there / "first").exists()
    (there / "arena" / "arena.sqlite").unlink()
    (there / "first").mkdir()
    (there / "first" / "config.toml").write_text("mine")
    with pytest.raises(InputError, match=r"config\.toml exists and differs"):
        restore_workspace(tmp_path / "backup", workspace=there)
    assert [path.name for path in there.rglob("*") if path.is_file()] == ["config.toml"]


def test_every_flipped_byte_is_found(full: Store, address: str, workspace: Path, tmp_path: Path) -> None:
    backup_workspace(tmp_path / "backup", workspace=workspace, store=address)
    assert check_backup(tmp_path / "backup").votes == 4
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        if path.name in ("whorl-backup.json", "manifest.json"):
            continue  # the manifests' own words are not under a hash
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(DataError):
            restore_workspace(tmp_path / "backup", workspace=tmp_path / "there")
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError):
            check_backup(tmp_path / "backup")
        path.unlink()
        with pytest.raises(DataError):
            check_backup(tmp_path / "backup")
        path.write_bytes(whole)
    assert check_backup(tmp_path / "backup").votes == 4
    assert not (tmp_path / "there").exists()


def test_a_manifest_that_points_outside_is_refused(workspace: Path, tmp_path: Path) -> None:
    backup_workspace(tmp_path / "backup", workspace=workspace)
    path = tmp_path / "backup" / "whorl-backup.json"
    manifest = json.loads(path.read_text())
    entry = next(iter(manifest["files"].values()))
    for name in ("../escaped.toml", "/tmp/escaped.toml", "a/../../escaped.toml"):
        path.write_text(json.dumps({**manifest, "files": {name: entry}}))
        with pytest.raises(DataError, match="outside the workspace"):
            restore_workspace(tmp_path / "backup", workspace=tmp_path / "there")
    path.write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(InputError, match="newer whorl"):
        check_backup(tmp_path / "backup")


def test_backups_are_not_backed_up_and_a_bare_workspace_is_said(workspace: Path, tmp_path: Path) -> None:
    one = backup_workspace(workspace / "backups" / "one", workspace=workspace)
    two = backup_workspace(workspace / "backups" / "two", workspace=workspace)
    assert one.files == two.files and one.head is None
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="nothing to back up"):
        backup_workspace(tmp_path / "none", workspace=tmp_path / "bare")
    with pytest.raises(InputError, match="no store at"):
        backup_workspace(tmp_path / "none", workspace=workspace, store=tmp_path / "no.sqlite")
    with pytest.raises(InputError, match="is not a backup"):
        restore_workspace(workspace / "first", workspace=tmp_path / "there")
    assert not (tmp_path / "none").exists()


def test_a_backup_taken_while_votes_come_in_is_of_one_moment(
    store: Store, address: str, tmp_path: Path, fight: Fight
) -> None:
    import threading

    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.vote(fight(store, f"Question {number} about {number * 7}").id, "tie")

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for number in range(3):
            made = backup_workspace(tmp_path / f"backup-{number}", workspace=tmp_path, store=address)
            restore_workspace(tmp_path / f"backup-{number}", workspace=tmp_path / f"there-{number}")
            with Store.open(tmp_path / f"there-{number}" / "arena" / "arena.sqlite") as restored:
                assert restored.verify(made.head).votes == made.votes
    finally:
        stop.set()
        writer.join()
    shutil.rmtree(tmp_path / "there-0")
