"""Votes without end on the store at argv[1], and says each one once it is acknowledged."""

from __future__ import annotations

import os
import sys

from whorl.arena.store import Store
from whorl.base.nouns import Message


def main() -> None:
    address, name = sys.argv[1:]
    with Store.open(address) as store:
        number = 0
        while True:
            number += 1
            prompt = Message(role="user", content=(f"Writer {name} asks for the {number}th time",))
            pair = store.start_battle(
                1, [prompt], model_a="amber-1", model_b="birch-2", probability=0.5, consent="rate"
            )
            for side in ("a", "b"):
                store.say(pair.id, Message(role="assistant", content=("Yes.",)), side=side)  # type: ignore[arg-type]
            vote = store.vote(pair.id, "tie")
            os.write(1, f"{pair.id} {vote.head}\n".encode())


if __name__ == "__main__":
    main()
