"""`Store`: the one object the studio, the command and the ratings speak to.

Every method but `erase_person` is one transaction. A method that has returned has its row on disk; one
that has raised has changed nothing. A store may be used by many threads, and by many processes that each
open it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import (
    chain,
    covering,
    people,
    preferences,
    prompts,
    saying,
    talks,
    verification,
    votes,
)  # fmt: skip
from whorl.arena.store.database import CHAIN, PROMPTS, Database
from whorl.arena.store.heads import HeadNotes
from whorl.arena.store.migrate import enter, migrate, newest, refuse_newer, refuse_none
from whorl.arena.store.records import (
    BattleVote,
    Consent,
    Conversation,
    Head,
    Model,
    Pairing,
    Person,
    Preference,
    Purpose,
    Role,
    Said,
    Side,
    Turn,
    Vote,
    Winner,
)  # fmt: skip
from whorl.arena.store.schema import log
from whorl.base.errors import InputError, WhorlError
from whorl.base.nouns import Message

FORMAT = 1
TRAIN_SHARE = 0.5


def default_store(workspace: str | Path | None = None) -> Path:
    """The file of a workspace's store ($WHORL_WORKSPACE or the current directory)."""
    return Path(workspace or os.environ.get("WHORL_WORKSPACE") or ".") / "arena" / "arena.sqlite"


class Store:
    """Conversations, battles, votes. Open with `Store.open`."""

    def __init__(self, database: Database, revision: str) -> None:
        self.database = database
        self.revision = revision
        self.settings: Mapping[str, Any] = {}
        self.notes = HeadNotes(None)

    @classmethod
    def open(
        cls,
        address: str | Path,
        *,
        create: bool = True,
        train_share: float | None = None,
        backups: Path | None = None,
        revisions: Sequence[Path] = (),
    ) -> Self:
        """The store at a file's path or `postgresql://USER@HOST/DATABASE`, made or migrated as needed.

        `train_share` of new prompt clusters is kept for training (default 0.5, fixed when the store is
        made); a backup before a migration goes to `backups` (beside the file, or `arena/backups` in
        the workspace), and a PostgreSQL database's heads are noted in the folder that `backups` is in.
        Raises InputError for a store newer than this code, or none with `create` off.
        """
        if train_share is not None and not 0 <= train_share <= 1:
            raise InputError(f"train_share {train_share} must be between 0 and 1")
        database = Database(address)
        beside = database.path.parent if database.path else default_store().parent
        store = cls(database, newest(revisions))
        try:
            if not create:
                refuse_none(database)
            migrate(database, backups=backups or beside / "backups", revisions=revisions)
            store.notes = HeadNotes.of(
                database, backups.parent if backups else beside, known=backups is not None
            )
            store.settings = store._open_log(train_share)
            store.note()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        if self.settings:  # it was opened
            with suppress(WhorlError):  # a database that is gone has no head, and is closed all the same
                self.note()
        self.database.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A look at one moment; refused where a newer whorl has migrated the store meanwhile."""
        with self.database.read() as connection:
            refuse_newer(self.database, connection, self.revision)
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @contextmanager
    def _write(self, *locks: int) -> Iterator[Connection]:
        """A transaction, under `locks`; refused where a newer whorl has migrated the store meanwhile.

        Whoever takes several things in PostgreSQL takes them in this order: conversations, PROMPTS,
        CHAIN, a prompt's row. So nobody waits for one who waits for them."""
        with self.database.write() as connection:
            enter(self.database, connection, self.revision)
            self._lock(connection, *locks)
            yield connection

    def _lock(self, connection: Connection, *locks: int) -> None:
        for lock in locks:
            self.database.lock(connection, lock)

    def _open_log(self, train_share: float | None) -> Mapping[str, Any]:
        """The settings in the log's first row, written when the store is made."""
        first = sa.select(log.c.body).where(log.c.kind == "open").order_by(log.c.seq).limit(1)
        with self.database.read() as connection:
            body = connection.execute(first).scalar()
        if body is None:
            with self._write(CHAIN) as connection:
                if chain.head(connection) == chain.START:
                    self.notes.set_aside()
                    share = TRAIN_SHARE if train_share is None else train_share
                    settings = {"format": FORMAT, "train_share": share, "threshold": prompts.THRESHOLD}
                    settings |= {"ngram": prompts.NGRAM, "hashes": prompts.HASHES, "seed": prompts.SEED}
                    chain.append(connection, "open", "store", settings)
                body = connection.execute(first).scalar() or "{}"
        settings = chain.parse_body(body, f"store {self.database}: row 1 of the log")
        if train_share is not None and train_share != settings.get("train_share"):
            made = settings.get("train_share")
            raise InputError(f"store {self.database} was made with train_share {made}; it cannot be changed")
        return settings

    # -- models and people -------------------------------------------------------------------------

    def add_model(
        self, name: str, *, address: str = "", aliases: Sequence[str] = (), active: bool = True
    ) -> Model:
        """Make a model known, or change what is known of it; its name stays for ever."""
        with self._write() as connection:
            return people.put_model(connection, name, address, aliases, active)

    def models(self) -> list[Model]:
        with self.read() as connection:
            return people.read_models(connection)

    def add_person(self, name: str, *, role: Role = "voter") -> Person:
        """A new person; InputError where the name is taken."""
        with self._write(PROMPTS) as connection:
            return people.add(connection, name, role)

    def people(self) -> list[Person]:
        with self.read() as connection:
            return people.read(connection)

    def person(self, person: int) -> Person | None:
        """The person of that number; None for one who is not there. A session that was opened under
        another `stamp` than this has ended: the token was renewed, or the person erased."""
        with self.read() as connection:
            return people.read_one(connection, person)

    def set_role(self, person: int, role: Role) -> None:
        with self._write() as connection:
            people.set_role(connection, person, role)

    def new_token(self, person: int) -> str:
        """A fresh sign-in token in place of the old one. Only its hash is kept: show it once."""
        with self._write() as connection:
            return people.renew_token(connection, person)

    def sign_in(self, name: str, token: str) -> Person:
        """The person of that name and token. InputError says not which of the two was wrong."""
        with self.read() as connection:
            return people.sign_in(connection, name, token)

    # -- conversations -----------------------------------------------------------------------------

    def start_chat(
        self,
        person: int,
        opening: Sequence[Message],
        *,
        consent: Consent,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """A conversation with one model, seen by name; its id. `opening` is what comes before the
        first reply: a system message if there is one, and the person's. `tools` are what the model may
        call, in OpenAI's form."""
        begun = saying.open_conversation(person, "chat", opening, consent, tools)
        prompt = prompts.prepare(opening)
        chat, placed = str(begun.row["id"]), []
        with self._write() as connection:
            said = saying.begin(connection, begun, None)
            if consent == "train":
                self._lock(connection, PROMPTS)
                place = self._place(connection, prompt, "train")
                saying.set_prompt(connection, chat, place)
                first = next(at for at, message in enumerate(opening) if message.role == "user")
                placed = [(said[first], place)]
            self._lock(connection, CHAIN)
            covering.log_chat(connection, chat, placed)
        return chat

    def start_battle(
        self,
        person: int,
        opening: Sequence[Message],
        *,
        model_a: str,
        model_b: str,
        probability: float,
        consent: Consent,
        category: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Pairing:
        """A conversation with two unnamed models. `probability` is that with which this pair was drawn."""
        begun = saying.open_battle(person, opening, consent, tools, (model_a, model_b), probability, category)
        prompt = prompts.prepare(opening)
        with self._write() as connection:
            place = self._begin(connection, begun, prompt)
            return saying.begin_battle(connection, begun, place)

    def _begin(self, connection: Connection, begun: saying.Opening, prompt: prompts.Prompt) -> prompts.Place:
        """Keep a conversation whose prompt has a place; the lock is taken last and for a new one only."""
        place = prompts.find(connection, prompt)
        saying.begin(connection, begun, place)
        if place is None:
            self._lock(connection, PROMPTS)
            place = self._place(connection, prompt, None)
            saying.set_prompt(connection, begun.row["id"], place)
        return place

    def _place(
        self, connection: Connection, prompt: prompts.Prompt, founder: Purpose | None
    ) -> prompts.Place:
        return prompts.place(connection, prompt, train_share=self.settings["train_share"], founder=founder)

    def say(
        self,
        conversation: str,
        message: Message,
        *,
        side: Side = "",
        parent: int | None = None,
        model: str | None = None,
        weight_version: str = "",
        trace: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a turn behind `parent` (0: as a new beginning), or behind the last one; its number.

        In a battle `side` says whose reply it is. `trace` is the server's record of the reply."""
        said = Said(message=message, weight_version=weight_version, trace=trace)
        drafted = saying.draft(conversation, said, side)
        with self._write() as connection:
            kept = saying.say(connection, drafted, parent=parent, model=model)
            if kept.held.battle is not None:
                return kept.turn  # the battle's vote covers it
            placed: covering.Placed = []
            if kept.held.consent == "train" and covering.asks(connection, message, kept.parent):
                prompt = prompts.of_message(message)
                self._lock(connection, PROMPTS)
                placed = [(kept.turn, self._place(connection, prompt, "train"))]
            self._lock(connection, CHAIN)
            covering.log_turn(connection, conversation, kept.turn, placed)
            return kept.turn

    def answer(self, battle: str, *, a: Sequence[Said] = (), b: Sequence[Said] = ()) -> dict[Side, list[int]]:
        """Add what both sides of a battle replied (with tools it is more than one message); the turns'
        numbers by side. The same as `say` for each, in one transaction."""
        given: dict[Side, Sequence[Said]] = {"a": a, "b": b}
        sides = {side: saying.draft_side(battle, said, side) for side, said in given.items() if said}
        if not sides:
            raise InputError(f"battle {battle}: no answer to store; give a, b or both")
        with self._write() as connection:
            made = saying.answer(connection, battle, sides)
        return dict(zip(sides, made, strict=True))

    def turns(self, conversation: str) -> list[Turn]:
        """All turns of a conversation, oldest first, branches too; InputError for an unknown one."""
        with self.read() as connection:
            talks.head(connection, conversation)
            return talks.read_turns(connection, conversation)

    def conversation(self, conversation: str) -> Conversation:
        with self.read() as connection:
            return talks.head(connection, conversation)

    def conversations(
        self,
        *,
        person: int | None = None,
        kind: Literal["chat", "battle"] | None = None,
        erased: bool | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[Conversation]:
        """Heads of conversations, the newest first: the first `limit`, or those that follow the
        conversation `before`, the last of the page above. `erased` False leaves tombstones out."""
        with self.read() as connection:
            return talks.read_heads(connection, person, kind, erased, limit, before)

    def rename_conversation(self, conversation: str, title: str) -> None:
        """Give a conversation a title: one line of up to 200 characters. It goes when the rest goes."""
        title = talks.as_title(title)
        with self._write() as connection:
            talks.rename(connection, conversation, title)

    def turn(self, turn: int) -> Turn:
        with self.read() as connection:
            return talks.read_turn(connection, turn)

    def path(self, turn: int) -> list[Turn]:
        """The turns from the first one to `turn`, by their parents: one branch, as a model sees it."""
        with self.read() as connection:
            conversation = talks.read_turn(connection, turn).conversation
            return talks.path(talks.read_turns(connection, conversation), turn)

    def search(
        self,
        person: int,
        words: str,
        *,
        kind: Literal["chat", "battle"] | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[Turn]:
        """Turns of a person's conversations whose text holds `words`, the newest first; `before` is the
        last turn of the page above. Case does not count; in PostgreSQL as far as its locale knows of it."""
        if not words.strip():
            raise InputError("the search is empty; enter a word")
        with self.read() as connection:
            return talks.search(connection, person, words, kind=kind, limit=limit, before=before)

    def battle(self, battle: str) -> Pairing:
        with self.read() as connection:
            return talks.pairing(connection, battle)

    def open_battle(self, person: int) -> str:
        """A person's latest battle that both sides have answered and that has no vote, "" for none."""
        with self.database.read() as connection:
            return talks.open_battle(connection, person)

    # -- votes -------------------------------------------------------------------------------------

    def vote(
        self, battle: str, winner: Winner, *, person: int | None = None, at: float | None = None
    ) -> Vote:
        """Keep a vote: when this returns, it is on disk.

        `person`, where given, must be the one who asked; `at` is when it was cast (now). InputError for
        an unknown battle, one that has its vote, or one where a side has not answered.
        """
        with self._write() as connection:
            ballot = votes.fill(connection, battle, winner, person=person, at=at)
            if ballot.asked:
                self._lock(connection, PROMPTS)
                ballot = votes.place(connection, ballot)
            self._lock(connection, CHAIN)
            return votes.cast(connection, ballot)

    def add_battle(
        self,
        person: int,
        opening: Sequence[Message],
        *,
        model_a: str,
        model_b: str,
        probability: float,
        consent: Consent,
        a: Sequence[Said],
        b: Sequence[Said],
        winner: Winner,
        category: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        at: float | None = None,
    ) -> Vote:
        """A battle whose answers and vote are there already, as a scripted judge's are: `start_battle`,
        `answer` and `vote` in one transaction."""
        begun = saying.open_battle(person, opening, consent, tools, (model_a, model_b), probability, category)
        number, prompt = begun.row["id"], prompts.prepare(opening)
        said = (saying.draft_side(number, a, "a"), saying.draft_side(number, b, "b"))
        with self._write() as connection:
            last = saying.begin(connection, begun, None)[-1]
            chains = [saying.Chain(last, model_a, said[0]), saying.Chain(last, model_b, said[1])]
            saying.add_turns(connection, chains)
            self._lock(connection, PROMPTS)
            place = self._place(connection, prompt, None)
            saying.set_prompt(connection, number, place)
            saying.begin_battle(connection, begun, place)
            ballot = votes.fill(connection, number, winner, person=person, at=at)
            if ballot.asked:
                ballot = votes.place(connection, ballot)
            self._lock(connection, CHAIN)
            return votes.cast(connection, ballot)

    def battles(
        self,
        *,
        at: float | None = None,
        after: int = 0,
        category: str | None = None,
        consent: Consent = "rate",
        rated: bool | None = True,
    ) -> Iterator[BattleVote]:
        """The votes, in the order they came in.

        `at` gives what the log held at that time (seconds since 1970), with the consents of then: a past
        board comes out again byte for byte. `after` skips the rows up to a `seq`, `consent` is the least
        that was given, and `rated` None gives also those that do not count, with their `reason`.
        """
        with self.read() as connection:
            yield from votes.read_votes(
                connection, at=at, after=after, category=category, consent=consent, rated=rated
            )

    def head(self) -> Head:
        with self.read() as connection:
            return chain.head(connection)

    def last_change(self) -> float:
        """When the log's last row was written: `battles(at=…)` of it is what the log holds now, for ever."""
        with self.database.read() as connection:
            return chain.seconds(connection.execute(chain.LAST).one().recorded)

    def verify(
        self, head: Head | str | None = None, *, advance: Callable[[int], object] | None = None
    ) -> verification.Verification:
        """Walk the whole log, and hold it against the heads that were noted; `head` is one that was written
        down elsewhere, `advance` is told how many rows were read."""
        wanted = Head.parse(head) if isinstance(head, str) else head
        noted = self.notes.read()  # before the look into the store: others go on noting
        with self.read() as connection:
            found = verification.verify(
                connection, wanted, noted=noted, where=str(self.notes.path), advance=advance
            )
        if found.ok:
            self.note()
        return found

    def note(self) -> None:
        """Note the chain's head beside the store: `verify` finds a tail that was cut later."""
        if self.notes.path is None:
            return
        with self.database.read() as connection:
            end = chain.head(connection)
        self.database.sync()
        self.notes.add(end)

    # -- what people may do with their own ---------------------------------------------------------

    def set_consent(self, conversation: str, consent: Consent) -> Head:
        """From now on; boards of the past stay as they were."""
        saying.check_consent(consent)
        with self._write() as connection:
            held = talks.hold(connection, conversation)
            self._lock(connection, PROMPTS)
            placed: covering.Placed = []
            if consent == "train" and held.battle is None:  # a battle's prompt has its place already
                for turn in talks.read_turns(connection, conversation):
                    if turn.message and covering.asks(connection, turn.message, turn.parent):
                        place = self._place(connection, prompts.of_message(turn.message), "train")
                        placed.append((turn.id, place))
            self._lock(connection, CHAIN)
            return votes.set_consent(connection, conversation, consent, placed)

    def erase(self, conversation: str) -> Head:
        """Take away what was said, for good: from the tables and from the database's files. The vote
        stays, without words. Backups made before still hold them."""
        with self._write() as connection:
            talks.hold(connection, conversation)
            self._lock(connection, PROMPTS, CHAIN)
            end = votes.erase(connection, conversation)
        self.database.scrub()
        return end

    def erase_person(self, person: int) -> Head:
        """Erase all conversations of a person, the name and the token. Three transactions, so that a
        person's row is never held beside others': token, words, name. Killed between, call it again."""
        with self._write() as connection:
            people.sign_out(connection, person)
        with self._write() as connection:
            left = talks.hold_all(connection, person)
            self._lock(connection, PROMPTS, CHAIN)
            for conversation in left:
                votes.erase(connection, conversation)
            end = chain.head(connection)
        with self._write() as connection:
            people.forget(connection, person)
        self.database.scrub()
        return end

    def thumb(self, turn: int, value: int, *, person: int, reason: str = "") -> int:
        """A thumb for a reply in one's own chat: 1, -1, or 0 to take it back."""
        with self._write() as connection:
            made = preferences.add_thumb(connection, turn, value, person=person, reason=reason)
            self._lock(connection, CHAIN)
            covering.log_preference(connection, made)
            return made

    def write_better(self, turn: int, message: Message, *, person: int) -> int:
        """A reply in one's own chat, as it should have been."""
        with self._write() as connection:
            made = preferences.add_better(connection, turn, message, person=person)
            self._lock(connection, CHAIN)
            covering.log_preference(connection, made)
            return made

    def preferences(self, conversation: str) -> list[Preference]:
        with self.read() as connection:
            return preferences.read_preferences(connection, conversation)
