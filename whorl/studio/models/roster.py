"""Who is in the studio: the workspace's models, also those that are trained while it runs, those that joined
from a page, and the command line's. Each is in the pool, in the store (votes stand under its name) and,
where it joined, in the file that the next start reads.
"""

from __future__ import annotations

import asyncio
import filecmp
from collections.abc import Sequence
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from whorl.arena.store import Store
from whorl.arena.store.records import Model
from whorl.base.errors import InputError, WhorlError
from whorl.base.keys import read_key
from whorl.base.progress import say
from whorl.evals.serving import is_address
from whorl.studio.models.discovery import TOPS, find_models, is_model
from whorl.studio.models.joined import Broken, Joined, JoinedModels
from whorl.studio.models.places import (
    Wanted,
    check_key,
    check_model,
    default_name,
    find_place,
    free_name,
    read_wanted,
)
from whorl.studio.models.pool import ModelPool, PooledModel

LOOK_SECONDS = 5.0  # between two looks for models that were trained meanwhile


class Roster:
    """`begin` it once; `watch` needs a running event loop. The other methods wait for the disk: call them
    in a thread."""

    def __init__(self, workspace: Path, store: Store, pool: ModelPool, joined: JoinedModels) -> None:
        self.workspace, self.store, self.pool, self.joined = workspace, store, pool, joined
        pool.met = self._met
        self._looking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    # -- at the start ------------------------------------------------------------------------------

    def begin(self, words: Sequence[str], key_files: Sequence[str]) -> None:
        """InputError for what the command line asks and cannot be had. What joined earlier and cannot be
        had now is a card that is down and says why: nobody's typing error ends everyone's studio."""
        wanted = [read_wanted(word, self.workspace) for word in words]
        keys = _keys(key_files)
        self._follow_workspace()
        claimed = {one.place: one.name for one in wanted if one.name}
        held = [(one, self._settled(one)) for one in self.joined.all()]
        claimed |= {
            find_place(one.address, self.workspace): one.name
            for one, trouble in held if isinstance(one, Joined) and not trouble
        }  # fmt: skip
        for name, place in self._unknown(claimed):
            self.pool.add(name, place)
        for one, trouble in held:
            self._bring_back(one, trouble)
        for asked in wanted:
            self._bring(asked, keys)
        if keys.keys() - {""}:
            raise InputError(
                f"--key-file {next(iter(keys.keys() - {''}))}=…: there is no --model with that name"
            )

    def _settled(self, one: Joined | Broken) -> str:
        """Why an entry cannot be had, "" where it can; one in an earlier version's form is kept anew."""
        if isinstance(one, Broken):
            return one.why
        try:
            place = find_place(one.address, self.workspace)
            check_model(place)
            check_key(one.api_key)
            self._check_free(one.name, place)
        except InputError as error:
            return str(error)
        if place != one.address:
            self.joined.keep(one.name, place, served_as=one.served_as, api_key=one.api_key)
        return ""

    def _bring_back(self, one: Joined | Broken, trouble: str) -> None:
        if isinstance(one, Joined) and not trouble:
            place = find_place(one.address, self.workspace)
            self.pool.add(one.name, place, served_as=one.served_as, api_key=one.api_key)
            self._register(one.name, place, one.served_as)
            return
        # Under its own name where that is free: another model's is not taken for it.
        name = free_name(one.name, self.pool.names())
        model = self.pool.add(name, one.address if isinstance(one, Joined) else "")
        model.fall(trouble)
        # A directory may come back, as a disk does; what is wrong with the others must be mended first.
        model.barred = isinstance(one, Broken) or is_address(one.address) or is_model(Path(one.address))
        say(f"{name} is not available: {trouble}")

    def _bring(self, asked: Wanted, keys: dict[str, str]) -> None:
        here = self._here(asked.place, asked.served_as)
        name = self.name_for(asked.place, asked.served_as) if here is None else here.name
        if asked.name and asked.name != name:
            if here is not None or self._known_as(asked.place, asked.served_as):
                raise InputError(f"{asked.place} is {name} here already; remove {asked.name}=")
            name = asked.name
        key = keys.pop(name, "") or (keys.get("", "") if is_address(asked.place) else "")
        if here is None or key or asked.served_as not in ("", here.served_as):
            self.join(name, asked.place, served_as=asked.served_as, api_key=key)

    # -- joining and leaving -----------------------------------------------------------------------

    def name_for(self, place: str, served_as: str = "") -> str:
        """What a model is called that is given no name: as the store knows it, since votes stand there."""
        known = self._known_as(place, served_as)
        taken = {model.name for model in self.store.models()} | set(self.pool.names())
        return known or free_name(default_name(place, self.workspace, served_as), taken)

    def join(self, name: str, address: str, *, served_as: str = "", api_key: str = "") -> None:
        """A model more, kept for the next start. InputError where it is none, or is here, or the name is
        taken."""
        place = find_place(address, self.workspace)
        check_model(place)
        check_key(api_key)
        here = self._here(place, served_as)
        if here is not None and here.name != name:
            raise InputError(f"this model is already here as {here.name}")
        self._check_free(name, place)
        self.pool.add(name, place, served_as=served_as, api_key=api_key)
        self._register(name, place, served_as)
        self.joined.keep(name, place, served_as=served_as, api_key=api_key)

    def leave(self, name: str, address: str, served_as: str) -> None:
        """Also after a restart."""

        def gone(one: Joined | Broken) -> bool:
            same = isinstance(one, Joined) and (one.address, one.served_as) == (address, served_as)
            return one.name == name or same

        self.joined.drop(gone)
        known = self._known().get(name)
        if known is not None:
            self.store.add_model(name, address=known.address, aliases=known.aliases, active=False)

    def _check_free(self, name: str, place: str) -> None:
        known = self._known().get(name)
        if known is not None and known.address and not self._is_at(known, place):
            raise InputError(f"the name {name} already has votes for {known.address}; choose another")

    def _here(self, place: str, served_as: str) -> PooledModel | None:
        return next(
            (
                one for one in self.pool.all()
                if one.address == place and (not served_as or served_as == one.served_as)
            ),
            None,
        )  # fmt: skip

    # -- the store ---------------------------------------------------------------------------------

    def _known(self) -> dict[str, Model]:
        return {model.name: model for model in self.store.models()}

    def _is_at(self, model: Model, place: str) -> bool:
        """Earlier versions kept places as they were typed."""
        if not model.address or model.address == place:
            return bool(model.address)
        try:
            return find_place(model.address, self.workspace) == place
        except InputError:
            return False

    def _known_as(self, place: str, served_as: str = "") -> str:
        """The name that the store knows a place by, "" for none; of several the one that has not left."""
        found = [
            model for model in self.store.models()
            if self._is_at(model, place) and (not served_as or served_as in (model.name, *model.aliases))
        ]  # fmt: skip
        found.sort(key=lambda model: not model.active)
        return found[0].name if found else ""

    def _register(self, name: str, place: str, served_as: str = "") -> None:
        """What a server calls it gives it away in a reply as its name does: it is an alias."""
        known = self._known().get(name)
        aliases = known.aliases if known is not None else ()
        if served_as and served_as not in (name, *aliases):
            aliases = (*aliases, served_as)
        if known != (made := Model(name=name, address=place, aliases=aliases, active=True)):
            self.store.add_model(name, address=made.address, aliases=aliases)

    def _met(self, model: PooledModel) -> None:
        if model.name in self.pool.names():
            self._register(model.name, model.address, model.served_as)

    # -- the workspace -----------------------------------------------------------------------------

    def watch(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except (WhorlError, OSError) as error:  # a disk or a store that is away is looked at again
                say(f"the workspace's models could not be listed: {error}")

    async def look(self) -> None:
        """Bring in what was trained since the last look."""
        async with self._looking:
            for name, place in await run_in_threadpool(self._unknown, {}):
                self.pool.add(name, place)

    def _unknown(self, claimed: dict[str, str]) -> list[tuple[str, str]]:
        """(name, place) of the workspace's models that are not in the pool, made known to the store. A folder
        that the store knows by a name keeps it; one that left stays away until the command line or a page
        names it again."""
        here = {model.address for model in self.pool.all()}
        found = {str(folder.resolve()): name for name, folder in find_models(self.workspace).items()}
        fresh = {place: name for place, name in found.items() if place not in here}
        if not fresh:
            return []
        known = self._known()
        taken = {*known, *self.pool.names(), *claimed.values()}
        brought = []
        for place, called in fresh.items():
            name = self._known_as(place) or claimed.get(place) or free_name(called, taken)
            if name in known and not known[name].active:
                continue
            taken.add(name)
            self._register(name, place)
            brought.append((name, place))
        return brought

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


def _keys(files: Sequence[str]) -> dict[str, str]:
    """Name → key; "" for the file that is given without a name."""
    found = {}
    for word in files:
        name, sign, file = word.partition("=")
        if not sign or "/" in name:
            name, file = "", word
        found[name] = check_key(read_key(file, "--key-file"))
    return found


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
