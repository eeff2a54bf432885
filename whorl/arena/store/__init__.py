"""The vote store: conversations, battles and votes in SQLite or PostgreSQL, chained by hashes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.arena.store.backup import backup_workspace, restore_workspace
    from whorl.arena.store.exporting import ExportReport, export
    from whorl.arena.store.live import LiveVotes
    from whorl.arena.store.records import (
        BattleVote,
        Conversation,
        Head,
        Model,
        Pairing,
        Person,
        Preference,
        Said,
        Turn,
        Vote,
    )
    from whorl.arena.store.store import Store
    from whorl.arena.store.verification import Verification

PUBLIC = {
    "Store": "store",
    "Model": "records",
    "Person": "records",
    "Conversation": "records",
    "Turn": "records",
    "Pairing": "records",
    "Vote": "records",
    "BattleVote": "records",
    "Preference": "records",
    "Said": "records",
    "Head": "records",
    "Verification": "verification",
    "LiveVotes": "live",
    "export": "exporting",
    "ExportReport": "exporting",
    "backup_workspace": "backup",
    "restore_workspace": "backup",
}
__all__ = [
    "BattleVote", "Conversation", "ExportReport", "Head", "LiveVotes", "Model", "Pairing", "Person",
    "Preference", "Said", "Store", "Turn", "Verification", "Vote", "backup_workspace", "export",
    "restore_workspace",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
