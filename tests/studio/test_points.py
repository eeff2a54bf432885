"""Points come from the log alone, and never from which side won."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arena.battles import WINNERS
from whorl.arena.store.records import BattleVote
from whorl.base.nouns import ImagePart, Message
from whorl.studio.battles.categories import CATEGORIES, category_of
from whorl.studio.battles.points import DAY, QUESTS, Ledger, Standing

MODELS = ("amber", "birch", "cedar")
SWAPPED = {"model_a": "model_b", "model_b": "model_a"}


def vote(seq: int, **more: Any) -> BattleVote:
    given_ = {
        "battle": f"b{seq}", "model_a": "amber", "model_b": "birch", "winner": "model_a", "time": seq * 60.0,
        "probability": 0.5, "voter": "1", "category": "general", "prompt": str(seq), "rated": True,
        "reason": "",
    } | more  # fmt: skip
    return BattleVote(seq=seq, style=(), purpose="rate", consent="rate", weights_a=(), weights_b=(), **given_)


LOGS = st.lists(
    st.tuples(
        st.permutations(MODELS).map(lambda names: names[:2]), st.sampled_from(WINNERS),
        st.sampled_from(["1", "2"]), st.sampled_from([*CATEGORIES, "", "other"]), st.integers(1, 3).map(str),
        st.floats(0.01, 1), st.integers(0, DAY), st.booleans(),
    ),
    max_size=30,
).map(
    lambda made: [
        vote(
            number + 1, model_a=pair[0], model_b=pair[1], winner=winner, voter=voter, category=category,
            prompt=prompt, probability=p, time=float(sum(one[6] for one in made[: number + 1])), rated=rated,
        )
        for number, (pair, winner, voter, category, prompt, p, _, rated) in enumerate(made)
    ]
)  # fmt: skip


def all_said(ledger: Ledger, log: list[BattleVote]) -> Any:
    end = log[-1].time if log else 0.0
    return (
        [ledger.gains_of(one.battle) for one in log],
        [ledger.standing(voter, end + late) for voter in ("1", "2", "3") for late in (0, DAY, 3 * DAY)],
    )


@given(LOGS, st.lists(st.integers(0, 9), max_size=6))
@settings(max_examples=60, deadline=None)
def test_taken_in_pieces_or_at_once_it_is_the_same(log: list[BattleVote], pieces: list[int]) -> None:
    piecewise, left = Ledger(), list(log)
    for size in [*pieces, len(log)]:
        piecewise.take(left[:size])
        left = left[size:]
    once = Ledger(log)
    assert all_said(piecewise, log) == all_said(once, log)
    assert once.standing("3", 0) == Standing() and once.votes_of("3") == ()


@given(LOGS)
@settings(max_examples=60, deadline=None)
def test_tallies_add_up(log: list[BattleVote]) -> None:
    ledger = Ledger(log)
    for voter in ("1", "2"):
        own = [one for one in log if one.voter == voter]
        standing = ledger.standing(voter, own[-1].time if own else 0.0)
        gains = [gain for one in own for gain in ledger.gains_of(one.battle)]
        assert standing.points == sum(gain.points for gain in gains)
        assert all(gain.points >= 0 for gain in gains)
        assert standing.votes == len(own) and standing.rated == sum(one.rated for one in own)
        days = sorted({int(one.time // DAY) for one in own})
        run = 0
        for day in reversed(days):
            run += 1
            if day - 1 not in days:
                break
        assert standing.streak == run and standing.longest >= run
        assert standing.alike <= standing.met_again
        assert [quest.name for quest in standing.quests] == [quest.name for quest in QUESTS]


@given(LOGS, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_no_outcome_earns_more_than_another(log: list[BattleVote], seed: int) -> None:
    """With each question met once, any outcomes at all earn the same."""
    once = [one._replace(prompt=f"once {number}") for number, one in enumerate(log)]
    chance = random.Random(seed)
    other = [one._replace(winner=chance.choice(WINNERS)) for one in once]
    assert all_said(Ledger(once), once) == all_said(Ledger(other), other)


@given(LOGS)
@settings(max_examples=60, deadline=None)
def test_sides_do_not_matter(log: list[BattleVote]) -> None:
    """Mirrored battles with mirrored outcomes earn the same, questions met again included."""
    mirrored = [
        one._replace(model_a=one.model_b, model_b=one.model_a, winner=SWAPPED.get(one.winner, one.winner))
        for one in log
    ]
    assert all_said(Ledger(mirrored), mirrored) == all_said(Ledger(log), log)


def whole(ledger: Ledger, now: float) -> set[str]:
    return {quest.name for quest in ledger.standing("1", now).quests if quest.whole}


def test_quests_are_done_and_are_of_a_day() -> None:
    log = [vote(1, probability=0.3)]
    assert whole(Ledger(log), 60) == {"first", "ground"}
    log.append(vote(2, probability=1.0, category="code"))
    assert whole(Ledger(log), 120) == {"first", "ground", "unsure"}
    log.append(vote(3, model_a="birch", model_b="amber", winner="model_b", prompt="1", probability=0.1))
    assert whole(Ledger(log), 180) == {"first", "ground", "unsure", "again"}
    log += [vote(4, probability=0.1), vote(5, probability=0.1)]
    assert whole(Ledger(log), 300) == {quest.name for quest in QUESTS}
    assert whole(Ledger(log), DAY) == set()
    assert Ledger(log).standing("1", DAY).streak == 1 and Ledger(log).standing("1", 2 * DAY).streak == 0
    again = Ledger(log).gains_of("b3")
    assert any(gain.points == 15 and "the same way" in gain.what for gain in again)


def test_judging_otherwise_costs_nothing_and_earns_no_quest() -> None:
    log = [vote(1), vote(2, prompt="1", winner="tie")]
    standing = Ledger(log).standing("1", 120)
    assert (standing.alike, standing.met_again) == (0, 1) and "again" not in whole(Ledger(log), 120)


def test_haste_earns_no_more() -> None:
    log = [vote(number, time=float(number)) for number in range(1, 61)]
    ledger = Ledger(log)
    assert sum(gain.points for gain in ledger.gains_of("b60")) == 0
    assert sum(gain.points for gain in ledger.gains_of("b40")) > 0


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Write a python function that reverses a list.", "code"), ("```\nx\n```", "code"),
        ("What is 17 * 23?", "mathematics"), ("Prove that there are infinitely many primes.", "mathematics"),
        ("Tell me a story about a spindle.", "general"), ("word " * 400, "long"), ("", "general"),
    ],
)  # fmt: skip
def test_categories(text: str, category: str) -> None:
    message = Message(role="user", content=(text,))
    assert category_of(message) == category
    picture = replace(message, content=(ImagePart(data=b"x"), text))
    assert category_of(picture) == "images"
