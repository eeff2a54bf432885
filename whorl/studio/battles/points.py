"""Points, streaks and daily quests, computed from the log of votes and from nothing else.

What is rewarded is that a vote tells something (its pair was one the board was unsure of) and that it is
meant (the same question to the same two models gets the same answer again). Which side won never changes
what a vote earns: nobody is paid for an opinion. Days follow UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from whorl.arena.store.records import BattleVote
from whorl.studio.battles.categories import CATEGORIES

DAY = 86_400
FOR_A_VOTE = 5
FULL_VOTES_A_DAY = 40  # later ones of a day earn no more for having been cast: haste tells little
FOR_AN_UNSURE_PAIR = 10  # at most, for what the pair's drawing says of it
FOR_A_STREAK = 2  # a day, with the day's first vote …
LONGEST_STREAK = 7  # … up to this many days
FIVE = 5


class Gain(NamedTuple):
    """Points and what they are for."""

    points: int
    what: str


class Quest(NamedTuple):
    """What one may do today. `done` of `of`; `points` come when it is whole."""

    name: str
    words: str
    points: int
    of: int = 1
    done: int = 0

    @property
    def whole(self) -> bool:
        return self.done >= self.of


QUESTS = (
    Quest("first", "Cast the day's first vote", 10),
    Quest("five", "Vote on five battles", 20, of=FIVE),
    Quest("unsure", "Vote on a pair the board is unsure about", 10),
    Quest("ground", "Vote in the category where you have the fewest votes", 10),
    Quest("again", "Re-judge an earlier battle the same way", 15),
)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A person's tally. `streak` counts days in a row up to today, or to yesterday while today has no
    vote yet; `quests` are today's."""

    points: int = 0
    votes: int = 0
    rated: int = 0
    streak: int = 0
    longest: int = 0
    quests: tuple[Quest, ...] = QUESTS
    categories: dict[str, int] = field(default_factory=dict)
    alike: int = 0  # questions met again and judged alike …
    met_again: int = 0  # … of so many

    @property
    def fewest(self) -> tuple[str, ...]:
        """The categories with the fewest votes."""
        least = min(self.categories.get(name, 0) for name in CATEGORIES)
        return tuple(name for name in CATEGORIES if self.categories.get(name, 0) == least)


class Met(NamedTuple):
    """A question and the two models that answered it, whichever stood left."""

    prompt: str
    first: str
    second: str


def met(vote: BattleVote) -> Met:
    return Met(vote.prompt, *sorted((vote.model_a, vote.model_b)))


@dataclass
class _Voter:
    """What is known of one voter so far."""

    votes: list[BattleVote] = field(default_factory=list)
    points: int = 0
    rated: int = 0
    day: int = -1  # of the last vote
    streak: int = 0
    longest: int = 0
    today: dict[str, int] = field(default_factory=dict)  # quest → how far, on `day`
    categories: dict[str, int] = field(default_factory=dict)
    judged: dict[Met, float] = field(default_factory=dict)  # the first one's points at the last meeting
    alike: int = 0
    met_again: int = 0


class Ledger:
    """Takes votes in the order of the log; what it says is a function of those alone."""

    def __init__(self, votes: Iterable[BattleVote] = ()) -> None:
        self._voters: dict[str, _Voter] = {}
        self._models: set[str] = set()
        self._gains: dict[str, tuple[BattleVote, tuple[Gain, ...]]] = {}
        self.take(votes)

    def take(self, votes: Iterable[BattleVote]) -> None:
        for vote in votes:
            self._models |= {vote.model_a, vote.model_b}
            voter = self._voters.setdefault(vote.voter, _Voter())
            gains = tuple(_credit(voter, vote, len(self._models)))
            voter.points += sum(gain.points for gain in gains)
            self._gains[vote.battle] = (vote, gains)

    def vote_of(self, battle: str) -> BattleVote | None:
        found = self._gains.get(battle)
        return found[0] if found else None

    def gains_of(self, battle: str) -> tuple[Gain, ...]:
        found = self._gains.get(battle)
        return found[1] if found else ()

    def votes_of(self, voter: str) -> Sequence[BattleVote]:
        found = self._voters.get(voter)
        return tuple(found.votes) if found else ()

    def standing(self, voter: str, now: float) -> Standing:
        """How the voter stands at `now`, seconds since 1970."""
        found = self._voters.get(voter)
        if found is None:
            return Standing()
        today = int(now // DAY)
        done = found.today if found.day == today else {}
        return Standing(
            points=found.points, votes=len(found.votes), rated=found.rated,
            streak=found.streak if found.day >= today - 1 else 0, longest=found.longest,
            quests=tuple(quest._replace(done=min(done.get(quest.name, 0), quest.of)) for quest in QUESTS),
            categories=dict(found.categories), alike=found.alike, met_again=found.met_again,
        )  # fmt: skip


def how_unsure(vote: BattleVote, models: int) -> float:
    """How unsure the board was of the pair, from 0 to 2; 1 is a pair like any other.

    The pair was drawn with a probability that grows with what its next vote would tell (see
    arena.sampling), and the log keeps it: here it is compared with that of drawing blindly among the
    pairs of the `models` that were known then.
    """
    pairs = models * (models - 1) / 2
    return min(2.0, vote.probability * pairs)


def _credit(voter: _Voter, vote: BattleVote, models: int) -> Iterable[Gain]:
    """Note the vote with its voter; what it earns."""
    day = int(vote.time // DAY)
    if day != voter.day:
        voter.streak = voter.streak + 1 if day == voter.day + 1 else 1
        voter.longest = max(voter.longest, voter.streak)
        voter.day, voter.today = day, {}
        yield Gain(FOR_A_STREAK * min(voter.streak, LONGEST_STREAK), "days in a row")
    before, unsure = voter.today.get("five", 0), how_unsure(vote, models)
    if before < FULL_VOTES_A_DAY:
        yield Gain(FOR_A_VOTE, "the vote")
    if (extra := round(FOR_AN_UNSURE_PAIR * unsure / 2)) and before < FULL_VOTES_A_DAY:
        yield Gain(extra, "information in this pair's vote")
    fewest = min(voter.categories.get(name, 0) for name in CATEGORIES)
    steps = {
        "first": True, "five": True, "unsure": unsure >= 1,
        "ground": vote.category in CATEGORIES and voter.categories.get(vote.category, 0) <= fewest,
        "again": _alike(voter, vote),
    }  # fmt: skip
    for quest in QUESTS:
        if steps[quest.name]:
            voter.today[quest.name] = voter.today.get(quest.name, 0) + 1
            if voter.today[quest.name] == quest.of:
                yield Gain(quest.points, f"today's quest: {quest.words.lower()}")
    voter.categories[vote.category] = voter.categories.get(vote.category, 0) + 1
    voter.votes.append(vote)
    voter.rated += vote.rated


def _alike(voter: _Voter, vote: BattleVote) -> bool:
    """Whether the voter had judged the same two models on the same question, and alike."""
    question = met(vote)
    points = {"model_a": 1.0, "model_b": 0.0}.get(vote.winner, 0.5)
    if vote.model_a != question.first:
        points = 1 - points
    earlier = voter.judged.get(question)
    voter.judged[question] = points
    if earlier is None:
        return False
    voter.met_again += 1
    voter.alike += earlier == points
    return earlier == points
