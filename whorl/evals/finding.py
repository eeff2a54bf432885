"""Tasks by the names people type: arithmetic, lookups, digits, gsm8k:FILE, questions.jsonl, module:name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from whorl.base.errors import InputError
from whorl.base.fields import nearest
from whorl.base.names import resolve
from whorl.evals.judge import JudgeClient
from whorl.evals.own_task import OwnTask
from whorl.tasks.arithmetic import Arithmetic
from whorl.tasks.digits import Digits
from whorl.tasks.gsm8k import GSM8K
from whorl.tasks.lookups import LookUps
from whorl.tasks.task import Task
from whorl.tools.builtin import calculator_tool, lookup_tool
from whorl.tools.definition import Tool
from whorl.tools.pythondocs import PythonDocs

Found = tuple[Task, Sequence[Tool]]
Tools = Literal["listed", "known"]


def _arithmetic(tools: Tools) -> Found:
    tool = calculator_tool()
    return Arithmetic(tools=(tool.schema,) if tools == "listed" else ()), (tool,)


def _lookups(tools: Tools) -> Found:
    docs = PythonDocs()
    tool = lookup_tool(docs.find)
    sentences = {entry.name: entry.sentence for entry in docs.entries()}
    return LookUps(sentences=sentences, tools=(tool.schema,) if tools == "listed" else ()), (tool,)


def _digits(_: Tools) -> Found:
    return Digits(), ()


NAMED: dict[str, Callable[[Tools], Found]] = {
    "arithmetic": _arithmetic, "lookups": _lookups, "digits": _digits,
}  # fmt: skip


def find_tasks(
    words: Sequence[str], *, tools: Tools = "listed", judge: JudgeClient | None = None
) -> list[Found]:
    """The tasks of several words, each under a name of its own: files of one name go by their paths."""
    found = [find_task(word, tools=tools, judge=judge) for word in words]
    for place, (task, _) in enumerate(found):
        same = [one for one, _ in found if one.name == task.name]
        if len(same) > 1 and words.count(words[place]) == 1 and all(isinstance(one, OwnTask) for one in same):
            for one in same:
                assert isinstance(one, OwnTask)
                one.name = str(one.path)
    seen: dict[str, str] = {}
    for word, (task, _) in zip(words, found, strict=True):
        if task.name in seen:
            raise InputError(f"{word} and {seen[task.name]} are the same task, {task.name}; give only one")
        seen[task.name] = word
    return found


def find_task(word: str, *, tools: Tools = "listed", judge: JudgeClient | None = None) -> Found:
    """The task a word names, with the tools that are run for it. `tools` "listed" offers them in each
    conversation; "known" does not: the model has learnt which there are."""
    if word in NAMED:
        return NAMED[word](tools)
    if word.startswith("gsm8k:"):
        return GSM8K(test=word.removeprefix("gsm8k:")), ()
    if word == "gsm8k":
        raise InputError("gsm8k needs its file: gsm8k:PATH (openai/grade-school-math has it)")
    if word.endswith((".jsonl", ".json", ".jsonl.gz", ".jsonl.zst")):
        if not Path(word).is_file():
            raise InputError(f"the task file {word} does not exist")
        return OwnTask(word, judge), ()
    if ":" in word:
        made = resolve(word)
        task = made() if isinstance(made, type) else made
        if not isinstance(task, Task):
            raise InputError(f"{word} is not a task: it needs name, examples and grade")
        return task, ()
    raise InputError(
        f"there is no task {word!r}{nearest(word, [*NAMED, 'gsm8k:PATH'])}; or a FILE.jsonl, module:name"
    )
