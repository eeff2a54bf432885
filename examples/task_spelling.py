"""A task: examples, and a grade for each reply. No base class; `whorl.tasks.Task` is a protocol.

The same object makes training conversations, grades them in evaluation and, later, pays rewards,
so those cannot disagree.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from whorl.base.nouns import Conversation, Message, Trace
from whorl.tasks import Example, Grade

WORDS = {
    "train": ("whorl", "spindle", "thread", "fibre", "loom", "shuttle"),
    "test": ("distaff", "bobbin", "heddle"),
}


@dataclass(frozen=True)
class Spelling:
    """Spell a word backwards."""

    name: str = "spelling"

    def examples(self, split: str) -> Iterator[Example]:
        for word in WORDS[split]:
            question = Message(role="user", content=(f"Spell {word!r} backwards.",))
            yield Example(
                id=f"spelling/{word}",
                conversation=Conversation(messages=(question,)),
                reference=word[::-1],
            )

    async def grade(self, example: Example, trace: Trace) -> Grade:
        said = trace.message.text.strip().lower()
        if said == example.reference:
            return Grade(score=1.0)
        return Grade(score=0.0, reason=f"said {said!r}, not {example.reference!r}")


task = Spelling()
