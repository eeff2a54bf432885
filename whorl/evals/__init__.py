"""How good a model is: tasks put to it, with standard errors, and what plain compressors reach."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.evals.baselines import NGram, xz_bits, zlib_bits
    from whorl.evals.evaluation import Report, evaluate, paired
    from whorl.evals.finding import find_task, find_tasks
    from whorl.evals.grading import Graded, TaskReport, grade_task
    from whorl.evals.judge import Verdict, ask, read_verdict
    from whorl.evals.judge_questions import Question, ask_questions, read_answers, read_questions
    from whorl.evals.judge_report import Comparison, Score, compare_answers, score_answers
    from whorl.evals.own_task import OwnTask
    from whorl.evals.serving import served

PUBLIC = {
    "evaluate": "evaluation",
    "Report": "evaluation",
    "paired": "evaluation",
    "find_task": "finding",
    "find_tasks": "finding",
    "OwnTask": "own_task",
    "ask": "judge",
    "read_verdict": "judge",
    "Verdict": "judge",
    "Question": "judge_questions",
    "ask_questions": "judge_questions",
    "read_answers": "judge_questions",
    "read_questions": "judge_questions",
    "Comparison": "judge_report",
    "Score": "judge_report",
    "compare_answers": "judge_report",
    "score_answers": "judge_report",
    "served": "serving",
    "grade_task": "grading",
    "TaskReport": "grading",
    "Graded": "grading",
    "zlib_bits": "baselines",
    "xz_bits": "baselines",
    "NGram": "baselines",
}
__all__ = [
    "Comparison", "Graded", "NGram", "OwnTask", "Question", "Report", "Score", "TaskReport", "Verdict", "ask",
    "ask_questions", "compare_answers", "evaluate", "find_task", "find_tasks", "grade_task", "paired",
    "read_answers", "read_questions", "read_verdict", "score_answers", "served", "xz_bits", "zlib_bits",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
