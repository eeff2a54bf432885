"""`Studio`: what every page reaches for, in one place."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from whorl.arena.store import Person, Store
from whorl.arena.store.store import default_store
from whorl.base.errors import InputError
from whorl.evals.serving import is_address
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.room import BattleRoom
from whorl.studio.config import StudioConfig
from whorl.studio.models.discovery import find_models, is_model
from whorl.studio.models.joined import JoinedModels
from whorl.studio.models.pool import ModelPool
from whorl.studio.web.limiter import Limiter
from whorl.studio.web.pages import Pages
from whorl.studio.web.sessions import Sessions


@dataclass(kw_only=True)
class Studio:
    """A workspace with its store, its models, its people."""

    config: StudioConfig
    workspace: Path
    store: Store
    pool: ModelPool
    joined: JoinedModels
    sessions: Sessions
    battles: BattleRoom
    pages: Pages = field(default_factory=Pages)
    messages: Limiter
    sign_ins: Limiter
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  # what rooms do at the end

    @classmethod
    def open(cls, config: StudioConfig) -> Studio:
        """Open the workspace: its store is made where it is missing, its models are found."""
        workspace = Path(config.workspace or os.environ.get("WHORL_WORKSPACE") or ".")
        if not workspace.is_dir():
            raise InputError(f"--workspace {workspace} is not a directory")
        private = workspace / "studio"
        store = Store.open(config.store or default_store(workspace))
        try:
            pool = ModelPool(config.limits.running)
            studio = cls(
                config=config, workspace=workspace, store=store, pool=pool,
                battles=BattleRoom(store, pool, config.limits),
                joined=JoinedModels(private / "models.json"),
                sessions=Sessions(store, private / "secret", config.session_days),
                messages=Limiter(config.limits.messages, "messages"),
                sign_ins=Limiter(config.limits.sign_ins, "attempts"),
            )  # fmt: skip
            studio._find_models()
        except BaseException:
            store.close()
            raise
        return studio

    async def close(self) -> None:
        await self.battles.close()
        for close in self.closing:
            await close()
        await self.pool.close()
        self.store.close()

    def person(self, request: Request) -> Person:
        """Who asks; ApiError 401 for a stranger."""
        person = self.sessions.person(request)
        if person is None:
            raise ApiError(401, "you are signed out; sign in again", code="signed_out")
        return person

    def admin(self, request: Request) -> Person:
        person = self.person(request)
        if person.role != "admin":
            raise ApiError(403, "only an admin may do this; ask one", code="not_admin")
        return person

    def join(self, name: str, address: str, *, served_as: str = "", api_key: str = "") -> None:
        """A model more, kept for the next start. InputError where it is none or the name is taken."""
        if not is_address(address) and not is_model(Path(address)):
            raise InputError(f"{address} holds no model: it needs config.json, tokenizer.json, *.safetensors")
        self.pool.add(name, address, served_as=served_as, api_key=api_key)
        self.store.add_model(name, address=address)
        self.joined.keep(name, address, served_as=served_as, api_key=api_key)

    def _find_models(self) -> None:
        """Those of the command line, those that joined, and the workspace's own. A folder that the store
        knows by a name keeps that name: its votes stand there."""
        addresses: dict[str, str] = {}
        for model in self.store.models():
            if model.address and model.active:
                addresses.setdefault(_place(model.address), model.name)
        for folder_name, folder in find_models(self.workspace).items():
            place = _place(str(folder))
            self._pool_once(addresses.get(place, folder_name), place)
        for held in self.joined.all():
            if is_address(held.address) or is_model(Path(held.address)):
                self.pool.add(held.name, held.address, served_as=held.served_as, api_key=held.api_key)
        for address in self.config.model:
            place = _place(address)
            if place not in {model.address for model in self.pool.all()}:
                self.join(addresses.get(place) or _name(address), place)

    def _pool_once(self, name: str, address: str) -> None:
        self.pool.add(name, address)
        if name not in {model.name for model in self.store.models()}:
            self.store.add_model(name, address=address)


def _place(address: str) -> str:
    return address if is_address(address) else str(Path(address).resolve())


def _name(address: str) -> str:
    """A name for what has none: the folder's, or the server's host."""
    if is_address(address):
        return address.partition("://")[2].rstrip("/").removesuffix("/v1")
    folder = Path(address)
    return folder.parent.name if folder.name == "model" else folder.name
