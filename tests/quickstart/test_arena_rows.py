"""The rows of the round trip: which votes meet them, which do not, and what stands beside them."""

from __future__ import annotations

import pytest

from whorl.arena.battles import Battle
from whorl.quickstart.arena_rows import ABOVE, NOT_BELOW, rating_rows
from whorl.quickstart.figures import Figure
from whorl.quickstart.table import table_lines

NAMES = {"base": "run-base", "chat": "run-chat", "dpo": "run-dpo"}


def battles(model: str, other: str, won: int, tied: int, lost: int) -> list[Battle]:
    """Sides change from battle to battle."""
    made = []
    for place, result in enumerate(["won"] * won + ["tied"] * tied + ["lost"] * lost):
        left, right = (model, other) if place % 2 else (other, model)
        winner = {"tied": "tie", "won": model, "lost": other}[result]
        named = {left: "model_a", right: "model_b"}.get(winner, winner)
        made.append(Battle(model_a=left, model_b=right, winner=named))  # type: ignore[arg-type]
    return made


def rows(chat: tuple[int, int, int], dpo: tuple[int, int, int]) -> tuple[Figure, Figure]:
    above, below = rating_rows(
        battles("run-chat", "run-base", *chat) + battles("run-dpo", "run-chat", *dpo), NAMES
    )
    assert (above.name, below.name) == (ABOVE, NOT_BELOW)
    return above, below


@pytest.mark.parametrize("base_ties", [0, 1, 5])
def test_a_worse_model_is_not_met_whatever_base_did(base_ties: int) -> None:
    _, below = rows((140 - base_ties, base_ties, 0), (40, 53, 146))
    assert below.met is False
    assert below.value == pytest.approx(-166, abs=2) and below.error == pytest.approx(21, abs=1)
    assert below.floor == pytest.approx(-1.96 * below.error, abs=0.1) and below.cases == 239
    assert below.note == "won 40, tied 53, lost 146"


@pytest.mark.parametrize("base_ties", [0, 1, 5])
def test_ties_alone_are_met_and_said(base_ties: int) -> None:
    above, below = rows((140 - base_ties, base_ties, 0), (0, 239, 0))
    assert below.met and below.value == pytest.approx(0, abs=0.5)
    assert below.error == pytest.approx(22.5, abs=0.5), "239 ties, and nothing of what base did"
    line = table_lines([below])[-1]
    assert line.endswith("≥ -44  met: all 239 tied, so the votes show no difference")
    assert above.met and above.cases == 140


def test_not_below_turns_where_the_interval_leaves_0() -> None:
    """A vote more or less decides: 1.88 standard errors below, and 1.97."""
    assert rows((139, 1, 0), (42, 129, 61))[1].met
    assert rows((139, 1, 0), (42, 129, 62))[1].met is False
    assert rows((139, 1, 0), (62, 129, 42))[1].met


def test_above_turns_where_the_two_intervals_part() -> None:
    """Two models alone stand half their difference from the middle each, and so do their intervals."""
    for won, lost, met in ((64, 36, True), (61, 39, True), (59, 41, False), (36, 64, False)):
        (above, none) = rating_rows(battles("run-chat", "run-base", won, 0, lost), NAMES)
        assert above.met is met, (won, lost)
        assert above.floor == pytest.approx(1.96 * above.error, rel=1e-3)
        assert none.met is None and none.note == "does not apply: no vote that rates"
    assert rating_rows(battles("run-chat", "run-base", 3, 0, 0), NAMES)[0].met is False, "three wins are few"


def test_above_looks_at_the_models_own_intervals() -> None:
    above, _ = rows((139, 1, 0), (0, 239, 0))
    assert above.met and above.floor is not None and above.floor > 1.95 * above.error
    assert above.note == "won 139, tied 1, lost 0"


def test_no_vote_has_no_row() -> None:
    above, below = rating_rows([], NAMES, "does not apply: nothing was learnt")
    assert above.met is None and "no vote" in above.note and below.note.endswith("nothing was learnt")
