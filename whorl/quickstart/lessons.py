"""What the assistant is taught and asked: the run's tools, its tasks, and conversations made of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from whorl.base.nouns import Conversation
from whorl.quickstart.conversations import (
    OWN_QUESTIONS,
    RESULT_WORDS,
    document_entries,
    lessons,
    memories,
    mixed,
    names_of,
    passages,
    strangers,
)
from whorl.quickstart.corpus import Corpus
from whorl.tasks.arithmetic import Arithmetic
from whorl.tasks.digits import Digits
from whorl.tasks.lookups import LookUps
from whorl.tasks.task import Task
from whorl.tools.builtin import calculator_tool, lookup_tool, titles
from whorl.tools.definition import Tool
from whorl.tools.entries import Entry
from whorl.tools.pythondocs import PythonDocs

# Shares of conversations. Look-ups are the hardest: a name never seen is to be copied exactly.
LOOKUPS, STRANGERS, ARITHMETIC, DIGITS, MEMORIES = 0.35, 0.08, 0.16, 0.38, 0.03
ARENA_PROMPTS = 300  # held-out ones of each task, for battles
LEAST_NAMES = 20  # titles below which there is nothing to hold out


@dataclass(frozen=True)
class Course:
    """The tools and tasks of one run. `lookups` is None where the documents have too few titles."""

    seed: int
    entries: Mapping[str, Entry]
    own: bool  # the entries are the user's
    cases: int = 360  # held-out cases of each task, at most
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def tools(self) -> tuple[Tool, ...]:
        find = titles(self.entries) if self.own else self.entries.get
        return (calculator_tool(), lookup_tool(find, max_words=RESULT_WORDS))

    @cached_property
    def arithmetic(self) -> Arithmetic:
        return Arithmetic(seed=self.seed, n_test=min(self.cases, 300))

    @cached_property
    def digits(self) -> Digits:
        return Digits(seed=self.seed, n_test=self.cases)

    @cached_property
    def lookups(self) -> LookUps | None:
        cases = min(self.cases, 300)
        sentences = {name: entry.sentence for name, entry in self.entries.items()}
        if self.own:
            task = LookUps(sentences=sentences, questions=OWN_QUESTIONS, seed=self.seed, n_test=cases)
        else:
            task = LookUps(sentences=sentences, seed=self.seed, n_test=cases)
        enough = len(sentences) >= LEAST_NAMES and task.names["train"] and task.names["test"]
        return task if enough else None

    @property
    def tasks(self) -> list[tuple[Task, Sequence[Tool]]]:
        """What is asked of the model, each with the tools it may call."""
        tasks: list[tuple[Task, Sequence[Tool]]] = [(self.digits, ()), (self.arithmetic, self.tools)]
        return tasks if self.lookups is None else [*tasks, (self.lookups, self.tools)]

    @property
    def arena_tasks(self) -> list[tuple[Task, Sequence[Tool]]]:
        """The same with as many held-out prompts as battles need, however few the figures were asked to take.
        Of the digits, those few are all that is held out."""
        tasks: list[tuple[Task, Sequence[Tool]]] = [
            (self.digits, ()), (replace(self.arithmetic, n_test=ARENA_PROMPTS), self.tools)
        ]  # fmt: skip
        if self.lookups is not None:
            tasks.append((replace(self.lookups, n_test=ARENA_PROMPTS), self.tools))
        return tasks

    def conversations(self, n: int) -> Iterator[Conversation]:
        """`n` conversations to learn from, the same ones for the same seed."""
        streams = [(lessons(self.arithmetic, self.tools), ARITHMETIC), (lessons(self.digits), DIGITS)]
        if self.lookups is not None:
            streams.append((lessons(self.lookups, self.tools), LOOKUPS))
            if self.own:  # their titles are found from something close, too
                streams.append((passages(self.lookups, self.entries, seed=self.seed), MEMORIES))
            else:
                streams.append((memories(self.lookups, seed=self.seed), MEMORIES))
                streams.append((strangers(self.lookups, self.tools, seed=self.seed), STRANGERS))
        return mixed(streams, n, seed=self.seed)


def plan_course(corpus: Corpus, seed: int, cases: int = 360) -> Course:
    """The tasks that the corpus allows: look-ups over the user's titles, or Python's documented names."""
    entries = document_entries(corpus.own_documents()) if corpus.own else PythonDocs().entries()
    names = names_of(entries)
    return Course(seed, names.entries, corpus.own, cases, names.left_out)
