"""`Studio`: what every page reaches for, in one place."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from whorl.arena.store import Person, Store
from whorl.arena.store.store import default_store
from whorl.base.errors import InputError
from whorl.evals.serving import is_address
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.room import BattleRoom
from whorl.studio.config import StudioConfig
from whorl.studio.models.discovery import TOPS, find_models, is_model
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
        known = {model.name: model for model in self.store.models()}.get(name)
        if known is not None and known.address and _place(known.address) != _place(address):
            raise InputError(f"votes stand under {name} for {known.address}; give this model another name")
        self.pool.add(name, address, served_as=served_as, api_key=api_key)
        self.store.add_model(name, address=address, aliases=known.aliases if known else ())
        self.joined.keep(name, address, served_as=served_as, api_key=api_key)

    async def leave(self, name: str) -> None:
        """Out of the studio, also after a restart; its votes and conversations stay."""
        address = self.pool.find(name).address
        await self.pool.remove(name)
        await run_in_threadpool(self._forget, name, address)

    def _forget(self, name: str, address: str) -> None:
        self.joined.drop(name)
        known = {model.name: model for model in self.store.models()}.get(name)
        self.store.add_model(name, address=address, aliases=known.aliases if known else (), active=False)

    def _follow_workspace(self) -> None:
        """The store knows models by whole paths: those of a workspace that was moved or copied are found."""
        for model in self.store.models():
            if not model.address or is_address(model.address):
                continue
            place = _moved(Path(model.address), self.workspace)
            if place is not None:
                self.store.add_model(
                    model.name, address=str(place), aliases=model.aliases, active=model.active
                )

    def _find_models(self) -> None:
        """Those of the workspace, those that joined, and the command line's. A folder that the store
        knows by a name keeps that name, since its votes stand there; one that left stays away until the
        command line or a page names it again."""
        self._follow_workspace()
        known = {model.name: model for model in self.store.models()}
        names: dict[str, str] = {}
        for model in known.values():
            if model.address and (model.active or _place(model.address) not in names):
                names[_place(model.address)] = model.name
        for found, folder in find_models(self.workspace).items():
            place = _place(str(folder))
            name = names.get(place) or _free(found, known)
            if name not in known:
                self.store.add_model(name, address=place)
            elif not known[name].active:
                continue
            self.pool.add(name, place)
        for held in self.joined.all():
            if is_address(held.address) or is_model(Path(held.address)):
                self.pool.add(held.name, held.address, served_as=held.served_as, api_key=held.api_key)
        for address in self.config.model:
            place = _place(address)
            if place not in {model.address for model in self.pool.all()}:
                self.join(names.get(place) or _free(_name(address), known), place)


def _moved(folder: Path, workspace: Path) -> Path | None:
    """Where a model's directory is in this workspace that it was not in: gone from where it was, or the same
    weights there and here. None where it is none such."""
    for number, part in enumerate(folder.parts):
        place = workspace.joinpath(*folder.parts[number:]).resolve()
        if part not in TOPS or place == folder or not is_model(place):
            continue
        files = {file.name for file in place.glob("*.safetensors")}
        if not folder.exists() or not any(filecmp.cmpfiles(folder, place, files, shallow=False)[1:]):
            return place
    return None


def _free(name: str, taken: Container[str]) -> str:
    """The name, or with a number behind where it is another model's."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in taken)


def _place(address: str) -> str:
    return address if is_address(address) else str(Path(address).resolve())


def _name(address: str) -> str:
    """A name for what has none: the folder's, or the server's host."""
    if is_address(address):
        return address.partition("://")[2].rstrip("/").removesuffix("/v1")
    folder = Path(address)
    return folder.parent.name if folder.name == "model" else folder.name
