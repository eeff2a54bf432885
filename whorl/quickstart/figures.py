"""The run's figures, every one measured on held-out cases of the model directory it made."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.base.client import OpenAIClient
from whorl.base.errors import FaultError
from whorl.base.logbook import Logbook
from whorl.base.nouns import Conversation, SamplingParams
from whorl.base.progress import say
from whorl.base.results import meets
from whorl.data.tokenset import TokenSplit
from whorl.evals.baselines import NGram, xz_bits, zlib_bits
from whorl.evals.evaluation import Report, evaluate
from whorl.evals.grading import TaskReport
from whorl.evals.likelihood import score_tokens
from whorl.evals.serving import served
from whorl.models.weights import weight_version
from whorl.quickstart.corpus import Corpus
from whorl.quickstart.lessons import Course
from whorl.quickstart.plan import SEQUENCE
from whorl.tasks.estimate import Estimate
from whorl.tasks.task import Task
from whorl.tools.definition import Tool

HELD_OUT_BYTES = 400_000  # of held-out documents that are scored
CALL_TOKENS = 96  # the longest reply asked for
CACHE_GB = 0.25  # of the server that is asked


@dataclass(frozen=True)
class Figure:
    """One row of the table. `floor` None: shown beside, not judged; `note`: why it was not measured, or what
    is to be known beside it."""

    name: str
    value: float = math.nan
    error: float = math.nan
    cases: int = 0
    floor: float | None = None
    lower_is_better: bool = False
    unit: str = "%"
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.floor is None or math.isnan(self.value):
            return None
        return meets(self.value, self.floor, lower_is_better=self.lower_is_better)


@dataclass(frozen=True)
class Figures:
    """All rows, and a few of the replies they were counted on."""

    rows: list[Figure]
    samples: list[tuple[str, str]]

    def to_json(self) -> dict[str, object]:
        return {"rows": [asdict(row) for row in self.rows], "samples": [list(pair) for pair in self.samples]}


def measure_figures(
    model_dir: Path, base_dir: Path, corpus: Corpus, course: Course, logbook: Logbook, cases: int
) -> Figures:
    """Measure the models on what they have never seen: the chat model through its server's API, as
    everyone else will meet it, and so the base model's bits per byte, on at most `cases` documents."""
    rows = likelihood_rows(base_dir, corpus, cases)
    reports = asyncio.run(ask_served(model_dir, course.tasks)).tasks
    digits, arithmetic = reports[:2]
    rows.append(_share("digits read from unseen images", digits.score, 96))
    rows.append(_share("arithmetic on unseen operands, with the calculator", arithmetic.score, 98))
    calls, answers = "correct look-up call for unseen names", "answer repeats the documented first sentence"
    if course.lookups is None:
        why = "does not apply: the documents have too few titles"
        rows += [Figure(calls, floor=95, note=why), Figure(answers, floor=80, note=why)]
    else:
        lookups = reports[2]
        rows += [_share(calls, lookups.part("call"), 95), _share(answers, lookups.part("answer"), 80)]
    log_figures(rows, logbook)
    return Figures(rows, [pair for report in reports for pair in _samples(report)])


def log_figures(rows: Sequence[Figure], logbook: Logbook) -> None:
    """The measured ones, as results of the run."""
    for row in rows:
        if not math.isnan(row.value):
            logbook.event(
                "result", name=row.name, value=row.value, unit=row.unit, cases=row.cases, floor=row.floor,
                error=0.0 if math.isnan(row.error) else row.error, lower_is_better=row.lower_is_better,
            )  # fmt: skip


@asynccontextmanager
async def asked(model_dir: Path) -> AsyncIterator[OpenAIClient]:
    """The model behind a server of its own. FaultError where other weights answer there."""
    with served(model_dir, "--memory", str(CACHE_GB)) as address:
        async with OpenAIClient(address) as client:
            check_weights(await client.connect(), address, model_dir)
            yield client


async def ask_served(model_dir: Path, tasks: Sequence[tuple[Task, Sequence[Tool]]]) -> Report:
    async with asked(model_dir) as client:
        params = SamplingParams(max_tokens=CALL_TOKENS)
        return await evaluate(client, tasks, model=str(model_dir), params=params)


async def score_served(
    model_dir: Path, documents: Sequence[NDArray[np.integer]]
) -> list[NDArray[np.float32]]:
    async with asked(model_dir) as client:
        return await score_tokens(client, documents, window=SEQUENCE, stride=SEQUENCE // 2)


def check_weights(card: Mapping[str, Any], address: str, model_dir: Path) -> None:
    """FaultError where the server at `address`, by its model's card, has other weights than the directory."""
    if card.get("weight_version") != weight_version(model_dir):
        raise FaultError(f"{address} serves other weights than {model_dir}; run the command again")


def likelihood_rows(model_dir: Path, corpus: Corpus, cases: int) -> list[Figure]:
    """Bits per byte of the held-out documents: the model's, and what compressors and 5-grams need."""
    split, training = corpus.tokens.split("validation"), corpus.tokens.split("train")
    chosen = _up_to(split, HELD_OUT_BYTES)[:cases]
    say(f"scoring {len(chosen)} held-out documents")
    ids = [split.document(number) for number in chosen]
    sizes = [split.text_bytes(number) for number in chosen]
    vocabulary = corpus.tokenizer.vocab_size
    first = math.log2(vocabulary)  # a document's first token, which nothing predicts
    learnt = asyncio.run(score_served(model_dir, ids))
    model_bits = [first - float(row.sum()) / math.log(2) for row in learnt]
    texts = [corpus.tokenizer.decode(row.tolist(), skip_control=True).encode() for row in ids]
    ngram = NGram([training.document(number) for number in range(len(training))], vocabulary)
    ngram_bits = [first + ngram.bits(row) for row in ids]
    zlib = Estimate.ratio([zlib_bits(text) for text in texts], sizes)
    ours = Estimate.ratio(model_bits, sizes)
    rows = [
        ("held-out bits per byte", ours, zlib.mean, "floor: zlib -9 of each document alone"),
        ("  a 5-gram model of the same tokens", Estimate.ratio(ngram_bits, sizes), None, "for comparison"),
    ]
    figures = [
        Figure(name, value.mean, value.standard_error, value.n, floor, True, "bits/byte", note)
        for name, value, floor, note in rows
    ]
    xz = xz_bits(texts) / sum(sizes)
    return [*figures, Figure("  xz -9 of all of them", xz, cases=len(texts), lower_is_better=True,
                             unit="bits/byte", note="for comparison")]  # fmt: skip


def _up_to(split: TokenSplit, limit: int) -> list[int]:
    chosen, held = [], 0
    for number in range(len(split)):
        if held and held + split.text_bytes(number) > limit:
            continue
        chosen.append(number)
        held += split.text_bytes(number)
    return chosen


def _share(name: str, estimate: Estimate, floor: float) -> Figure:
    return Figure(name, 100 * estimate.mean, 100 * estimate.standard_error, estimate.n, floor)


def _samples(report: TaskReport, n: int = 2) -> Iterator[tuple[str, str]]:
    """The first replies, right or wrong: question, and everything the assistant did."""
    for case in report.cases[:n]:
        yield (
            _question(case.example.conversation),
            " → ".join(_turns(case.conversation, case.example.conversation)),
        )


def _question(conversation: Conversation) -> str:
    message = conversation.messages[-1]
    return ("[image] " if message.images else "") + message.text


def _turns(conversation: Conversation, asked: Conversation) -> Iterator[str]:
    for message in conversation.messages[len(asked.messages) :]:
        for call in message.tool_calls:
            yield f"{call.name}({', '.join(str(value) for value in call.arguments.values())})"
        if message.text:
            yield message.text if message.role == "assistant" else f"«{message.text}»"
