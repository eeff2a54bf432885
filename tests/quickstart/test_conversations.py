"""Conversations made for training: graded by their own tasks, and free of anything held out."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, Trace
from whorl.data.document import Document
from whorl.quickstart.conversations import (
    MAX_WORDS,
    RESULT_WORDS,
    Names,
    document_entries,
    lessons,
    memories,
    mixed,
    names_of,
    passages,
    strangers,
)
from whorl.tasks import Arithmetic, Digits, LookUps
from whorl.tasks.replies import traced
from whorl.tools import Entry, PythonDocs, calculator_tool, converse, lookup_tool, titles


@pytest.fixture(scope="module")
def python() -> Names:
    return names_of(PythonDocs().entries())


def by_script(script: list[Conversation]):
    """A model that replies what the conversations say it replied."""

    def reply(conversations: list[Conversation]) -> list[Trace]:
        known = {conversation.id: conversation for conversation in script}
        return [Trace(message=known[c.id].messages[len(c.messages)]) for c in conversations]

    return reply


@pytest.mark.parametrize("name", ["arithmetic", "lookups", "digits"])
def test_lessons_grade_1_and_replay_through_the_loop(name: str, python: Names) -> None:
    tools = [calculator_tool(), lookup_tool(python.entries.get, max_words=RESULT_WORDS)]
    schemas = [tool.schema for tool in tools]
    tasks = {
        "arithmetic": Arithmetic(tools=schemas),
        "lookups": LookUps(sentences=python.sentences, tools=schemas),
        "digits": Digits(),
    }
    task = tasks[name]
    examples = list(islice(task.examples("train"), 200))
    taught = list(islice(lessons(task, tools), 200))
    for example, lesson in zip(examples, taught, strict=True):
        replies = [message for message in lesson.messages if message.role == "assistant"]
        assert asyncio.run(task.grade(example, traced(*replies))).score == 1
        assert lesson.tools == example.conversation.tools
    asked = [example.conversation for example in examples]
    outcomes = converse(by_script(taught), asked, tools, max_calls=1)
    assert [outcome.conversation for outcome in outcomes] == taught
    assert all(outcome.ending == "answer" for outcome in outcomes)


def test_a_lookups_result_begins_with_its_answer(python: Names) -> None:
    tool = lookup_tool(python.entries.get, max_words=RESULT_WORDS)
    for lesson in islice(lessons(LookUps(sentences=python.sentences), [tool]), 3000):
        result, reply = lesson.messages[2].text, lesson.messages[3].text
        assert result.split("\n")[0] == reply and reply
        assert len(reply.split()) <= MAX_WORDS
        assert len(result.split()) <= MAX_WORDS + RESULT_WORDS + 2


def test_pythons_names_are_plenty_and_what_is_left_out_is_counted(python: Names) -> None:
    entries = list(PythonDocs().entries())
    assert len(python.entries) + sum(python.left_out.values()) == len(entries)
    assert len(python.entries) > 0.95 * len(entries)
    task = LookUps(sentences=python.sentences)
    assert len(task.names["test"]) > 400 and len(task.names["train"]) > 3500


def test_nothing_held_out_is_ever_taught(python: Names) -> None:
    task = LookUps(sentences=python.sentences)
    held = set(task.names["test"])
    sentences = {python.sentences[name].casefold() for name in held}
    turn = len(task.names["train"]) + 10
    for lesson in islice(memories(task), turn):
        assert lesson.messages[0].text.split("`")[1] not in held
        assert lesson.messages[-1].text.casefold() not in sentences
    for lesson in islice(passages(task, python.entries), turn):
        assert lesson.messages[-1].text not in held
    for example in islice(task.examples("train"), turn):
        assert example.meta["name"] not in held and example.reference.casefold() not in sentences


def test_names_that_do_not_exist_are_looked_up_and_said_not_to_be_there(python: Names) -> None:
    tools = [calculator_tool(), lookup_tool(python.entries.get, max_words=RESULT_WORDS)]
    task = LookUps(sentences=python.sentences, tools=[tool.schema for tool in tools])
    taught = list(islice(strangers(task, tools), 500))
    held = set(task.names["test"])
    names = [lesson.messages[1].tool_calls[0].arguments["name"] for lesson in taught]
    assert len(set(names)) > 450 and held.isdisjoint(names) and set(python.entries).isdisjoint(names)
    for name, lesson in zip(names, taught, strict=True):
        asked, _, result, reply = lesson.messages
        assert f"`{name}`" in asked.text and name in result.text and result.text.startswith("error: ")
        assert reply.text == f"Nothing is documented under `{name}`."
    begun = [replace(lesson, messages=lesson.messages[:1]) for lesson in taught]
    assert [one.conversation for one in converse(by_script(taught), begun, tools, max_calls=1)] == taught


NOTES = [
    Document(
        id="1",
        text="# Brot\n\nMehl und Wasser. Dann warten.\n\n## Käse #\nVom Markt\n"
        "```\n# kein Titel\n```\n\n# Leer\n",
        source="küche.md",
        kind="markdown",
    ),
    Document(id="2", text="Ruf Oma an.\n", source="notes/oma.txt"),
    Document(id="3", text="Second record.\n", source="rows.jsonl", line=2),
    Document(id="4", text="第一句。第二句。\n", source="rows.jsonl", line=3, title="日本語"),
    Document(id="5", text="Again.\n", source="x.txt", title="Brot"),
    Document(id="6", text="word " * 60, source="long.txt"),
]


def test_a_users_own_documents_can_be_asked_for_by_title() -> None:
    names = names_of(document_entries(NOTES))
    assert {name: (entry.sentence, entry.rest) for name, entry in names.entries.items()} == {
        "Brot": ("Mehl und Wasser.", "Dann warten."),
        "Käse": ("Vom Markt", ""),
        "oma": ("Ruf Oma an.", ""),
        "日本語": ("第一句。", "第二句。"),
    }
    assert names.entries["Käse"].where == "küche.md:5"
    assert names.left_out == Counter(
        {
            "no sentence": 1,
            "name given twice": 1,
            f"first sentence over {MAX_WORDS} words or 240 characters": 1,
        }
    )
    tool = lookup_tool(titles(names.entries))
    task = LookUps(sentences=names.sentences, questions=('What is under "{name}"?',), share_test=0.3)
    for lesson in islice(lessons(task, [tool]), 20):
        assert lesson.messages[-1].text == lesson.messages[2].text.split("\n")[0]
    for lesson in islice(passages(task, names.entries), 20):
        assert names.entries[lesson.messages[-1].text].sentence in lesson.messages[0].text


@given(st.text(max_size=300), st.sampled_from(["text", "markdown"]), st.text(max_size=20))
def test_any_document_gives_entries_or_none(text: str, kind, title: str) -> None:
    document = Document(id="1", text=text + "\n", source="a/b.md", kind=kind, title=title)
    names = names_of(document_entries([document]))
    for name, entry in names.entries.items():
        assert name == entry.name and "\n" not in entry.sentence and entry.sentence.strip()


def test_mixture_keeps_shares_and_order() -> None:
    streams = [(lessons(Arithmetic(), [calculator_tool()]), 3.0), (lessons(Digits()), 1.0)]
    drawn = [conversation.id for conversation in mixed(streams, 400, seed=1)]
    kinds = Counter(id.split("-")[0] for id in drawn)
    assert sum(kinds.values()) == 400 and 60 < kinds["digits"] < 140
    arithmetic = [int(id.rpartition("-")[2]) for id in drawn if id.startswith("arithmetic")]
    assert all(before < after for before, after in pairwise(arithmetic))
    again = [(lessons(Arithmetic(), [calculator_tool()]), 3.0), (lessons(Digits()), 1.0)]
    assert drawn == [conversation.id for conversation in mixed(again, 400, seed=1)]
    with pytest.raises(InputError, match="ended after"):
        list(mixed([(iter([]), 1.0)], 1))


def test_entries_of_one_name_only_are_no_training_set() -> None:
    task = LookUps(sentences={"only": "The only one."}, share_test=1.0)
    with pytest.raises(InputError, match="no names outside the test split"):
        next(memories(task))
    assert Entry(name="only", sentence="The only one.").text() == "The only one."
