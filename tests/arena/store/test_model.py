"""Any order of deeds against a model in plain dictionaries; after each the log verifies."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from whorl.arena.store import Head, Store
from whorl.arena.store.records import CONSENTS, WINNERS
from whorl.base.errors import InputError
from whorl.base.nouns import Message

MODELS = ("amber-1", "birch-2", "cedar-3")


@dataclass
class Kept:
    consent: str
    pair: tuple[str, str]
    answered: set[str] = field(default_factory=set)
    winner: str = ""
    erased: bool = False
    words: list[str] = field(default_factory=list)


class Arena(RuleBasedStateMachine):
    battles = Bundle("battles")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="whorl-model-"))
        self.known: dict[str, Kept] = {}
        self.order: list[str] = []
        self.heads: list[Head] = []

    @initialize()
    def make(self) -> None:
        self.store = Store.open(self.folder / "arena.sqlite", train_share=0.0)
        for name in MODELS:
            self.store.add_model(name)
        self.store.add_person("ann")

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(target=battles, consent=st.sampled_from(CONSENTS), pair=st.permutations(MODELS), text=st.text())
    def begin(self, consent: str, pair: list[str], text: str) -> str:
        opening = [Message(role="user", content=(text,) if text else ())]
        made = self.store.start_battle(
            1, opening, model_a=pair[0], model_b=pair[1], probability=0.5, consent=consent  # type: ignore[arg-type]
        )  # fmt: skip
        self.known[made.id] = Kept(consent, (pair[0], pair[1]), words=[text])
        return made.id

    def refused(self, deed: object, *words: object, **more: object) -> bool:
        try:
            result = deed(*words, **more)  # type: ignore[operator]
        except InputError:
            return True
        if hasattr(result, "head"):
            result = result.head
        if isinstance(result, Head):
            self.heads.append(result)
        return False

    @rule(battle=battles, side=st.sampled_from("ab"), text=st.text(min_size=1))
    def answer(self, battle: str, side: str, text: str) -> None:
        kept, text = self.known[battle], f"{text} says nobody"
        message = Message(role="assistant", content=(text,))
        refused = self.refused(self.store.say, battle, message, side=side)
        assert refused == bool(kept.erased or kept.winner)
        if not refused:
            kept.answered.add(side)
            kept.words.append(text)

    @rule(battle=battles, winner=st.sampled_from(WINNERS))
    def vote(self, battle: str, winner: str) -> None:
        kept = self.known[battle]
        refused = self.refused(self.store.vote, battle, winner)
        assert refused == bool(kept.erased or kept.winner or kept.answered != {"a", "b"})
        if not refused:
            kept.winner = winner
            self.order.append(battle)

    @rule(battle=battles, consent=st.sampled_from(CONSENTS))
    def change_consent(self, battle: str, consent: str) -> None:
        kept = self.known[battle]
        if self.refused(self.store.set_consent, battle, consent):
            assert kept.erased
        else:
            kept.consent = consent

    @rule(battle=battles)
    def erase(self, battle: str) -> None:
        assert self.refused(self.store.erase, battle) == self.known[battle].erased
        self.known[battle].erased = True

    @precondition(lambda self: self.known)
    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "arena.sqlite", create=False)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "store"):
            return
        found = self.store.verify(self.heads[len(self.heads) // 2] if self.heads else None)
        assert found.ok, found.problem
        assert found.votes == len(self.order)
        assert found.erased == sum(kept.erased for kept in self.known.values())
        expected = [(name, *self.known[name].pair, self.known[name].winner) for name in self.order]
        rows = list(self.store.battles(rated=None, consent="none"))
        assert [(row.battle, row.model_a, row.model_b, row.winner) for row in rows] == expected
        for row in rows:
            assert row.consent == self.known[row.battle].consent
            assert row.rated == (row.consent != "none")
        for name, kept in self.known.items():
            texts = [turn.message.text if turn.message else None for turn in self.store.turns(name)]
            assert texts == [None if kept.erased else word for word in kept.words]


Arena.TestCase.settings = settings(max_examples=12, stateful_step_count=20)
TestArena = Arena.TestCase
