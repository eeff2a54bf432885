"""Conversations for chat training, made from tasks, documentation and the user's own documents.

A task knows its right replies; running the real tool between them gives a conversation, so what is
trained is what will be graded. Nothing of a task's test split is ever in one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import PurePath
from typing import Protocol

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, Message
from whorl.data.document import Document
from whorl.tasks.lookups import WORD, LookUps
from whorl.tasks.replies import ask, calling, saying
from whorl.tasks.task import Example, randomness
from whorl.tools.definition import Tool
from whorl.tools.entries import Entry, first_sentence
from whorl.tools.loop import answer

MAX_WORDS = 40  # of a first sentence that is to be repeated
MAX_CHARACTERS = 240  # of the same, for scripts that write no spaces
MAX_NAME = 80  # characters of a name or title to be asked about
RESULT_WORDS = 24  # of what a look-up returns after the first sentence
ENOUGH_BYTES = 5_000_000  # of the user's text; below this Python's documentation is mixed in
HEADING = re.compile(r"#{1,6}[ \t]+(\S.*?)[ \t#]*$")
CODE = re.compile(r"[\w.]+\(|>>>")

OWN_QUESTIONS = (
    'What do my documents say about "{name}"?',
    'What is under "{name}"?',
    'Look up "{name}".',
    'What about "{name}"?',
    'And "{name}"?',
)
MEMORY_QUESTIONS = ("From memory: what does `{name}` do?", "Without looking it up, what is `{name}`?")
UNKNOWN = "Nothing is documented under `{name}`."
PASSAGE_QUESTIONS = (
    "Which title fits this?\n{text}",
    "What is this about?\n{text}",
    "{text}\nGive this a title.",
)


class Taught(Protocol):
    """A task that knows the right replies to its examples."""

    def examples(self, split: str) -> Iterator[Example]: ...

    def solution(self, example: Example) -> Sequence[Message]: ...


def solved(task: Taught, example: Example, tools: Mapping[str, Tool]) -> Conversation:
    """`example` with its right replies, and the real tools' results after the calls in them."""
    messages = list(example.conversation.messages)
    for reply in task.solution(example):
        messages.append(reply)
        messages += [answer(call, tools) for call in reply.tool_calls]
    if messages[-1].role != "assistant":
        raise DataError(f"example {example.id!r}: the right replies end with a call; an answer must follow")
    return replace(example.conversation, messages=tuple(messages))


def lessons(task: Taught, tools: Sequence[Tool] = ()) -> Iterator[Conversation]:
    """The task's training examples, solved; as many as its train split has, which may be endless."""
    by_name = {tool.name: tool for tool in tools}
    for example in task.examples("train"):
        yield solved(task, example, by_name)


def mixed(
    streams: Sequence[tuple[Iterator[Conversation], float]], n: int, *, seed: int = 0
) -> Iterator[Conversation]:
    """`n` conversations drawn from `streams` (stream, share), each stream in its own order.

    The shares need not sum to 1. Raises `InputError` where a stream ends before its share is drawn.
    """
    total = sum(share for _, share in streams)
    if total <= 0 or any(share < 0 for _, share in streams):
        raise InputError("mixture shares must be 0 or more, and not all 0")
    shares = [share / total for _, share in streams]
    for index in range(n):
        chosen = int(randomness(seed, "mixture of conversations", index).choice(len(streams), p=shares))
        drawn = next(streams[chosen][0], None)
        if drawn is None:
            raise InputError(
                f"conversation stream {chosen} ended after {index} conversations; lower its share"
            )
        yield drawn


@dataclass(frozen=True, kw_only=True)
class Names:
    """What can be looked up, and how many names were left out, by reason."""

    entries: dict[str, Entry] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def sentences(self) -> dict[str, str]:
        return {name: entry.sentence for name, entry in self.entries.items()}


def names_of(entries: Iterable[Entry]) -> Names:
    """The entries fit for a look-up whose first sentence is repeated; the others are counted."""
    kept: dict[str, Entry] = {}
    left_out: Counter[str] = Counter()
    for entry in entries:
        reason = "name given twice" if entry.name in kept else _unfit(entry)
        if reason:
            left_out[reason] += 1
        else:
            kept[entry.name] = entry
    return Names(entries=kept, left_out=left_out)


def _unfit(entry: Entry) -> str | None:
    """Why an entry's first sentence is no good answer; None where it is one."""
    if not any(character.isalpha() for character in entry.sentence):
        return "no sentence"
    if CODE.match(entry.sentence):
        return "code for a sentence"
    if len(entry.sentence.split()) > MAX_WORDS or len(entry.sentence) > MAX_CHARACTERS:
        return f"first sentence over {MAX_WORDS} words or {MAX_CHARACTERS} characters"
    if not 0 < len(entry.name) <= MAX_NAME:
        return f"no name or one over {MAX_NAME} characters"
    return None


def document_entries(documents: Iterable[Document]) -> Iterator[Entry]:
    """What a user's documents can be asked for by title: markdown headings, title fields, file names.

    A file's name stands for it only where it has no title or heading, and only for its first record.
    """
    for document in documents:
        place = f"{document.source}:{document.line}"
        titled = False
        if document.kind == "markdown":
            for title, body, line in _sections(document.text):
                titled = True
                yield _entry(title, body, f"{document.source}:{document.line + line}")
        if document.title and not titled:
            yield _entry(document.title, document.text, place)
        elif not titled and document.line == 1:
            yield _entry(PurePath(document.source).stem, document.text, place)


def _sections(text: str) -> Iterator[tuple[str, str, int]]:
    """(heading, prose below it up to the next heading, line from 0) of a markdown text.

    Blocks of code are left out: they answer no question in words, and a # in them is a comment.
    """
    title, start, body, fenced = "", 0, "", False
    for number, line in enumerate(text.splitlines(keepends=True)):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            continue
        heading = HEADING.match(line)
        if fenced or not heading:
            body += "" if fenced else line
            continue
        if title:
            yield title, body, start
        title, start, body = heading[1], number, ""
    if title:
        yield title, body, start


def _entry(title: str, body: str, where: str) -> Entry:
    sentence, rest = first_sentence(body)
    return Entry(name=" ".join(title.split()), sentence=sentence, rest=rest, where=where)


def memories(task: LookUps, *, seed: int = 0) -> Iterator[Conversation]:
    """Plain chat about the names that are not held out: asked to answer from memory, no tool, the
    documented first sentence. Endless."""
    yield from _chats(task, {}, MEMORY_QUESTIONS, seed)


def strangers(task: LookUps, tools: Sequence[Tool], *, seed: int = 0) -> Iterator[Conversation]:
    """Questions about names that do not exist: of a name that is not held out one part is made anew, of words
    from the documentation. The call, and that nothing is documented there. Endless.

    Besides the honest answer they teach to copy: real names repeat each other's words, so that many tokens
    are never part of one, and the model would not copy those."""
    by_name = {tool.name: tool for tool in tools}
    names = _trained(task)
    words = sorted({word for name in names for word in WORD.findall(task.sentences[name])})
    for place in count():
        rng = randomness(seed, "names that do not exist", place)
        parts = names[int(rng.integers(len(names)))].split(".")
        drawn = [words[index] for index in rng.integers(len(words), size=int(rng.integers(1, 4)))]
        made = ("_".join(drawn).lower(), "".join(map(str.capitalize, drawn)), "".join(drawn).lower())
        parts[int(rng.integers(len(parts)))] = made[int(rng.integers(len(made)))]
        name = ".".join(parts)
        if name in task.sentences:
            continue
        question = task.questions[int(rng.integers(len(task.questions)))]
        asked = ask(question.format(name=name), tools=task.tools, id=f"{task.name}-unknown-{place}")
        call = calling(task.tool, name=name)
        results = [answer(one, by_name) for one in call.tool_calls]
        yield replace(asked, messages=(*asked.messages, call, *results, saying(UNKNOWN.format(name=name))))


def passages(task: LookUps, entries: Mapping[str, Entry], *, seed: int = 0) -> Iterator[Conversation]:
    """Plain chat about the user's passages that are not held out: the passage, then its title. Endless."""
    yield from _chats(task, entries, PASSAGE_QUESTIONS, seed)


def _chats(
    task: LookUps, entries: Mapping[str, Entry], questions: Sequence[str], seed: int
) -> Iterator[Conversation]:
    names = _trained(task)
    for turn in count():
        for place, index in enumerate(randomness(seed, questions[0], turn).permutation(len(names))):
            name = names[index]
            rng = randomness(seed, questions[0] + "?", turn, place)
            question = questions[int(rng.integers(len(questions)))]
            text = entries[name].text(RESULT_WORDS) if name in entries else ""
            id = f"{task.name}-chat-{turn}-{place}"
            asked = ask(question.format(name=name, text=text), id=id)
            reply = saying(name if entries else task.sentences[name])
            yield replace(asked, messages=(*asked.messages, reply))


def _trained(task: LookUps) -> tuple[str, ...]:
    names = task.names["train"]
    if not names:
        raise InputError(f"task {task.name}: no names outside the test split; give more documents")
    return names
