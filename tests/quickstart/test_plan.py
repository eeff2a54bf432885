"""The chat's steps fit into the time that is left, whatever came before took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.quickstart.plan import LEAST_STEPS, MOST_CHAT, SHARES, Plan, plan_chat

MINUTES, PLANNED = 10.0, 600


def plan() -> Plan:
    budget = {name: 60 * MINUTES * share for name, share in SHARES.items()}
    return Plan(192, 4, 512, 200, PLANNED, 10_000.0, 3_000_000, "bfloat16", budget)


@given(spent=st.floats(0, 900), rate=st.floats(100, 1e6))
def test_the_run_ends_in_its_time_where_it_can(spent: float, rate: float) -> None:
    made = plan_chat(plan(), spent, rate)
    assert LEAST_STEPS <= made.chat_steps <= MOST_CHAT * PLANNED
    if made.chat_steps > LEAST_STEPS:
        assert spent + made.budget["chat"] + made.budget["figures"] <= 60 * MINUTES + 1e-6


@pytest.mark.parametrize(
    ("spent", "rate", "steps"), [(165, 10_000, 829), (254, 8_000, 472), (165, 40_000, 1200), (600, 8_000, 10)]
)
def test_what_is_slower_gets_fewer_and_what_is_faster_more(spent: float, rate: float, steps: int) -> None:
    assert plan_chat(plan(), spent, rate).chat_steps == steps
