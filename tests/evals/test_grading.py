"""A task put to a scripted model: the tools really run, and the figures are what the replies deserve."""

from __future__ import annotations

import pytest

from whorl.base.nouns import Conversation, Message, ToolCall, Trace
from whorl.evals.grading import grade_task
from whorl.tasks.arithmetic import Arithmetic
from whorl.tools.builtin import calculator_tool


class Scripted:
    """Calls the calculator with the asked expression, then says its result; wrong for every third case."""

    def __init__(self, task: Arithmetic) -> None:
        self.solutions = {e.id: task.solution(e) for e in task.examples("test")}
        self.wrong = set(list(self.solutions)[::3])

    def __call__(self, conversations: list[Conversation]) -> list[Trace]:
        return [Trace(message=self.reply(conversation)) for conversation in conversations]

    def reply(self, conversation: Conversation) -> Message:
        last = conversation.messages[-1]
        if last.role == "tool":
            return Message(role="assistant", content=(f"It is {last.text}.",))
        call = self.solutions[conversation.id][0].tool_calls[0]
        if conversation.id in self.wrong:
            call = ToolCall(name=call.name, arguments={"expression": "1 + 1"})
        return Message(role="assistant", tool_calls=(call,))


def test_right_replies_count_and_wrong_ones_do_not() -> None:
    task = Arithmetic(n_test=9)
    report = grade_task(task, Scripted(task), [calculator_tool()])
    assert report.part("call_exact").mean == pytest.approx(6 / 9)
    assert report.score.n == 9 and report.score.mean == pytest.approx(6 / 9)
    assert report.score.standard_error == pytest.approx((6 / 9 * 3 / 9 / 9) ** 0.5)
    assert any(message.role == "tool" for message in report.cases[1].conversation.messages)


def test_the_limit_takes_the_first_examples() -> None:
    task = Arithmetic(n_test=9)
    report = grade_task(task, Scripted(task), [calculator_tool()], limit=4)
    assert [case.example.id for case in report.cases] == [e.id for e in task.examples("test")][:4]
