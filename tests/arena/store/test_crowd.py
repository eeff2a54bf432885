"""Everything at once on one store: nobody waits for ever, nobody is told of a fault, the log holds."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from whorl.arena.store import Said, Store
from whorl.base.errors import InputError
from whorl.base.nouns import ImagePart, Message

WRITERS, DEEDS = 6, 40
IMAGES = [ImagePart(data=b"\x89PNG " + bytes([number])) for number in range(3)]


class Writer:
    """Draws deeds on few prompts and a shared set of conversations, so that they meet."""

    def __init__(self, store: Store, number: int, shared: list[str]) -> None:
        self.store, self.shared = store, shared
        self.draw = random.Random(number)
        self.person = store.add_person(f"writer {number}").id
        self.done: Counter[str] = Counter()

    def prompt(self) -> list[Message]:
        draw = self.draw
        images = draw.sample(IMAGES, draw.choice([0, 0, 1, 2]))
        return [Message(role="user", content=(f"Which of {draw.randrange(4)} is it?", *images))]

    def begin(self) -> None:
        pair = self.store.start_battle(
            self.person, self.prompt(), model_a="amber-1", model_b="birch-2", probability=1,
            consent=self.draw.choice(["rate", "train"]),
        )  # fmt: skip
        self.shared.append(pair.id)

    def chat(self) -> None:
        self.shared.append(self.store.start_chat(self.person, self.prompt(), consent="train"))

    def whole(self) -> None:
        reply = [Said(message=Message(role="assistant", content=("Yes.",)))]
        vote = self.store.add_battle(
            self.person, self.prompt(), model_a="birch-2", model_b="amber-1", probability=1,
            consent="rate", a=reply, b=reply, winner="tie",
        )  # fmt: skip
        self.shared.append(vote.battle.id)

    def answer(self) -> None:
        reply = [Said(message=Message(role="assistant", content=("Yes.",)))]
        self.store.answer(self.draw.choice(self.shared), a=reply, b=reply)

    def vote(self) -> None:
        self.store.vote(self.draw.choice(self.shared), "model_a")

    def consent(self) -> None:
        self.store.set_consent(self.draw.choice(self.shared), self.draw.choice(["none", "rate", "train"]))

    def erase(self) -> None:
        self.store.erase(self.draw.choice(self.shared))

    def leave(self) -> None:
        """And come back: all that was said is gone."""
        self.store.erase_person(self.person)
        self.person = self.store.add_person(f"again {self.person}").id

    def thumb(self) -> None:
        talk = self.draw.choice(self.shared)
        turn = self.store.say(talk, Message(role="assistant", content=("Yes.",)))
        self.store.thumb(turn, 1, person=self.store.conversation(talk).person, reason="so")

    def run(self) -> None:
        deeds = [self.begin, self.chat, self.whole, self.answer, self.vote, self.consent, self.erase,
                 self.leave, self.thumb]  # fmt: skip
        for deed in self.draw.choices(deeds, weights=[4, 2, 2, 6, 6, 2, 1, 0.3, 2], k=DEEDS):
            try:
                deed()
            except InputError:
                self.done[f"{deed.__name__} refused"] += 1
            else:
                self.done[deed.__name__] += 1


def test_a_crowd_leaves_one_whole_log(store: Store) -> None:
    first = Writer(store, 99, [])
    for deed in (first.begin, first.chat, first.whole):
        deed()
    writers = [Writer(store, number, first.shared) for number in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(writer.run) for writer in writers]:
            done.result()
    done = sum((writer.done for writer in writers), Counter())
    assert sum(done.values()) == WRITERS * DEEDS
    assert all(done[name] for name in ("begin", "chat", "whole", "answer", "vote", "consent", "erase"))
    found = store.verify()
    assert found.ok, found.problem
    assert found.votes == done["vote"] + done["whole"] + 1
    heads = store.conversations()
    assert found.erased == sum(one.erased is not None for one in heads)
    begun = sa.text("SELECT prompt FROM arena_conversations WHERE erased IS NULL")
    with_words = sa.text("SELECT id FROM arena_prompts WHERE sketch IS NOT NULL")
    with_keys = sa.text("SELECT prompt FROM arena_prompt_keys")
    with store.database.read() as connection:
        wanted, sketched, named = (
            set(connection.execute(query).scalars()) for query in (begun, with_words, with_keys)
        )
    assert sketched <= named <= wanted, "a prompt is known as long as a conversation began with it"
