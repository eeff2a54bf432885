"""`Studio`: what every page reaches for, in one place."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from whorl.arena.store import Person, Store
from whorl.arena.store.store import default_store
from whorl.base.errors import InputError
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.room import BattleRoom
from whorl.studio.config import StudioConfig
from whorl.studio.models.joined import JoinedModels
from whorl.studio.models.pool import ModelPool
from whorl.studio.models.roster import Roster
from whorl.studio.web.limiter import Limiter
from whorl.studio.web.pages import Pages
from whorl.studio.web.sessions import Sessions

CHANGES = 4  # things changed, and searches, for each message that a person may send


@dataclass(kw_only=True)
class Studio:
    """A workspace with its store, its models, its people."""

    config: StudioConfig
    workspace: Path
    store: Store
    pool: ModelPool
    roster: Roster
    sessions: Sessions
    battles: BattleRoom
    pages: Pages = field(default_factory=Pages)
    messages: Limiter
    changes: Limiter  # of whatever kind
    sign_ins: Limiter
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  # what rooms do at the end

    @classmethod
    def open(cls, config: StudioConfig) -> Studio:
        """Open the workspace: its store is made where it is missing, its models are found."""
        workspace = Path(config.workspace or os.environ.get("WHORL_WORKSPACE") or ".")
        if not workspace.is_dir():
            raise InputError(f"--workspace {workspace} is not a directory")
        private = workspace / "studio"
        store = Store.open(
            config.store or default_store(workspace), backups=default_store(workspace).parent / "backups"
        )
        try:
            pool = ModelPool(config.limits.running)
            studio = cls(
                config=config, workspace=workspace, store=store, pool=pool,
                battles=BattleRoom(store, pool, config.limits),
                roster=Roster(workspace, store, pool, JoinedModels(private / "models.json")),
                sessions=Sessions(store, private / "secret", config.session_days),
                messages=Limiter(config.limits.messages, "messages"),
                changes=Limiter(CHANGES * config.limits.messages, "changes"),
                sign_ins=Limiter(config.limits.sign_ins, "attempts"),
            )  # fmt: skip
            studio.roster.begin(config.model, config.key_file)
        except BaseException:
            store.close()
            raise
        return studio

    async def close(self) -> None:
        await self.battles.close()
        for close in self.closing:
            await close()
        await self.roster.close()
        await self.pool.close()
        self.store.close()

    def person(self, request: Request) -> Person:
        """Who asks; ApiError 401 for a stranger."""
        person = self.sessions.person(request)
        if person is None:
            raise ApiError(401, "you are signed out; sign in again", code="signed_out")
        return person

    def take_change(self, request: Request) -> None:
        """Count what the request is about to change; strangers change nothing but by signing in."""
        person = self.sessions.person(request)
        if person is not None:
            self.changes.take(person.id)

    def admin(self, request: Request) -> Person:
        person = self.person(request)
        if person.role != "admin":
            raise ApiError(403, "only an admin may do this; ask one", code="not_admin")
        return person

    def join(self, name: str, address: str, *, served_as: str = "", api_key: str = "") -> None:
        """A model more, kept for the next start. InputError where it is none or the name is taken."""
        self.roster.join(name, address, served_as=served_as, api_key=api_key)

    async def leave(self, name: str) -> None:
        """Out of the studio, also after a restart; its votes and conversations stay."""
        model = self.pool.find(name)
        await run_in_threadpool(self.roster.leave, name, model.address, model.served_as)
        await self.pool.remove(name)
