"""Questions for a judge, references, and the models' answers to them: read, asked for, and written.

    questions    {"question_id": 81, "category": "writing", "turns": ["…", "…"], "reference": ["…", …]}
                 {"prompt": "…" | [messages], "reference": "…", "category": "…", "id": "…"}
    answers      {"question_id": 81, "model_id": "…", "choices": [{"turns": ["…", "…"]}]}

The first is MT-Bench's form (Zheng et al. 2023, arXiv 2306.05685); answers, and references, have FastChat's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.base.progress import progress
from whorl.evals.judge import JudgeClient, together
from whorl.text.forms import read_conversation
from whorl.text.records import read_records

Answers = Mapping[str, tuple[str, ...]]
"""Question id → the answer of every turn."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """`turns` are asked one after the other; `before` is what was said before the first of them.
    `references` are right answers, "" at a turn that has none."""

    id: str
    turns: tuple[str, ...]
    category: str = ""
    references: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()

    def reference(self, turn: int) -> str:
        return self.references[turn] if turn < len(self.references) else ""

    def asked(self, turn: int) -> tuple[str, ...]:
        """What the judge reads as questions, up to `turn`."""
        told = [f"({one.role}) {one.text}" for one in self.before]
        return ("\n\n".join([*told, self.turns[0]]), *self.turns[1 : turn + 1])


def read_questions(
    path: str | Path, references: str | Path | None = None, limit: int | None = None
) -> list[Question]:
    """The file's questions, with the references of another file where given. `DataError` names the line."""
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for where, record in read_records(_existing(path, "questions")):
        question = _question(record, where)
        if question.id in seen:
            raise DataError(
                f"{where}: question {question.id} is already on {seen[question.id]}; give it a unique id"
            )
        seen[question.id] = where
        questions.append(question)
    if not questions:
        raise InputError(f"{path} contains no questions; write one JSON object per line")
    if references is not None:
        known = {
            id: turns for _, answers in read_answers(references).items() for id, turns in answers.items()
        }
        if not any(one.id in known for one in questions):
            raise InputError(f"{references} has no reference for any question of {path}; their ids differ")
        questions = [replace(one, references=known.get(one.id, one.references)) for one in questions]
    return questions[:limit]


def _existing(path: str | Path, what: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"the file of {what} {path} does not exist")
    return Path(path)


def _question(record: Any, where: str) -> Question:
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        raise DataError(f"{where}: a question must be a JSON object with turns (or a prompt)")
    id = str(record.get("question_id", record.get("id", where.rsplit("/", 1)[-1])))
    category = str(record.get("category") or "")
    before: tuple[Message, ...] = ()
    if "turns" in record:
        turns = _texts(record["turns"], f"{where}: turns")
    elif "prompt" in record:
        before, turns = _prompt(record["prompt"], where)
    else:
        found = ", ".join(sorted(map(str, record))) or "none"
        raise DataError(f"{where}: fields are {found}; a question needs turns (a list of texts) or a prompt")
    given = record.get("reference", record.get("references")) or []
    references = _texts([given] if isinstance(given, str) else given, f"{where}: reference", empty=True)
    if len(references) > len(turns):
        raise DataError(f"{where}: reference has {len(references)} answers for {len(turns)} turns")
    return Question(id=id, turns=turns, category=category, references=references, before=before)


def _prompt(given: Any, where: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    if isinstance(given, str) and given.strip():
        return (), (given,)
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: prompt must be a text or a list of messages")
    conversation = read_conversation({"messages": given}, where)
    if conversation.images:
        raise DataError(f"{where}: the prompt has images, but judges get text only; drop the question")
    *before, last = conversation.messages
    if last.role != "user":
        raise DataError(f"{where}: the prompt must end with the user's turn, not the {last.role}'s")
    return tuple(before), (last.text,)


def _texts(given: Any, where: str, *, empty: bool = False) -> tuple[str, ...]:
    fits = isinstance(given, list) and all(isinstance(text, str) for text in given)
    if not fits or (not empty and not all(text.strip() for text in given)) or not (given or empty):
        raise DataError(f"{where} must be a list of texts, none of them empty")
    return tuple(given)


def read_answers(path: str | Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Model → its answers, from FastChat's form; one file may hold several models'."""
    models: dict[str, dict[str, tuple[str, ...]]] = {}
    for where, record in read_records(_existing(path, "answers")):
        if isinstance(record, DataError):
            raise record
        choices = record.get("choices") if isinstance(record, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or "turns" not in first or "question_id" not in record:
            raise DataError(f"{where}: an answer needs question_id, model_id and choices[0].turns")
        turns = _texts(first["turns"], f"{where}: choices[0].turns", empty=True)
        models.setdefault(str(record.get("model_id") or Path(path).stem), {})[str(record["question_id"])] = (
            turns
        )
    if not models:
        raise InputError(f"{path} contains no answers; write one JSON object per line")
    return models


def write_answers(path: str | Path, model: str, answers: Answers) -> None:
    """In the form `read_answers` reads, atomically."""
    import json

    with atomic_write(path) as file:
        for id, turns in answers.items():
            record = {"question_id": id, "model_id": model, "choices": [{"index": 0, "turns": list(turns)}]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def check_answers(model: str, answers: Answers, questions: Sequence[Question]) -> None:
    """`InputError` where a question, or one of its turns, has no answer."""
    missing = [one.id for one in questions if len(answers.get(one.id, ())) < len(one.turns)]
    if missing:
        raise InputError(
            f"{model} has no answer to {len(missing)} of {len(questions)} questions (the first:"
            f" {missing[0]}); give all its answers, or --limit"
        )


async def ask_questions(
    client: JudgeClient, questions: Sequence[Question], params: SamplingParams, *, model: str, at_once: int
) -> dict[str, tuple[str, ...]]:
    """A model's answers, turn after turn, each turn with its own earlier answers before it."""
    gate = asyncio.Semaphore(at_once)
    with progress(sum(len(one.turns) for one in questions), model, "answers") as bar:

        async def one(question: Question) -> tuple[str, ...]:
            messages, answers = list(question.before), []
            for turn in question.turns:
                messages.append(Message(role="user", content=(turn,)))
                async with gate:
                    trace = await client.reply(Conversation(messages=tuple(messages)), params)
                answers.append(trace.message.text)
                messages.append(Message(role="assistant", content=(answers[-1],) if answers[-1] else ()))
                bar.advance(1)
            return tuple(answers)

        given = await together(map(one, questions))
    return {question.id: answers for question, answers in zip(questions, given, strict=True)}
