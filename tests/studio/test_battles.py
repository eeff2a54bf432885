"""Battles over HTTP: what a browser learns and when, votes that are kept, models that fail."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.studio.conftest import StudioProcess, studio_process
from tests.studio.stub_server import StubModel, stub_model
from whorl.arena.store import Store
from whorl.studio.battles.personal import ENOUGH
from whorl.studio.battles.second_look import second_looks


class Room(NamedTuple):
    studio: StudioProcess
    amber: StubModel
    birch: StubModel
    cedar: StubModel
    folder: Path

    @property
    def models(self) -> tuple[StubModel, ...]:
        return self.amber, self.birch, self.cedar


PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJ"
    "RU5ErkJggg=="
)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace's store where every prompt rates."""
    path = tmp_path_factory.mktemp("blank") / "arena" / "arena.sqlite"
    path.parent.mkdir()
    Store.open(path, train_share=0.0).close()
    return path.parent


@contextmanager
def arena(
    folder: Path,
    blank: Path,
    *models: StubModel,
    words: tuple[str, ...] = (),
    whorl: tuple[str, ...] = ("-m", "whorl"),
) -> Iterator[StudioProcess]:
    """A studio over `folder` with these models, by their names."""
    (folder / "studio").mkdir(parents=True, exist_ok=True)
    if not (folder / "arena").exists():
        shutil.copytree(blank, folder / "arena")
    held = [{"name": one.name, "address": one.address, "served_as": "", "api_key": ""} for one in models]
    with Store.open(folder / "arena" / "arena.sqlite") as store:
        for one in models:
            store.add_model(one.name, address=one.address)
    (folder / "studio" / "models.json").write_text(json.dumps({"format": 1, "models": held}))
    with studio_process(folder, *words, whorl=whorl) as process:
        yield process


def settled(http: httpx.Client, number: str) -> dict[str, Any]:
    """The battle once both have answered, or one has failed."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        shown = http.get(f"/api/arena/{number}").json()
        if shown["state"] != "answering":
            return dict(shown)
        time.sleep(0.03)
    raise AssertionError("the battle does not settle")


def begin(http: httpx.Client, text: str = "What is a whorl?", **more: Any) -> dict[str, Any]:
    answer = http.post("/api/arena", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    return settled(http, answer.json()["id"])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[Room]:
    """A studio with three models; each test leaves them well."""
    with ExitStack() as stack:
        models = [
            stack.enter_context(stub_model(name, answer=answer, weight_version=weights, **more))
            for name, answer, weights, more in (
                ("amber-1", "It spins.", "aa11", {"tokens": 900}),
                ("birch-2", "A weight.", "bb22", {"tokens": 7, "pause": 0.05, "reasoning": "Hm."}),
                ("cedar-3", "A disc.", "cc33", {"card": {"max_model_len": 77}}),
            )
        ]
        folder = tmp_path_factory.mktemp("arena")
        words = (
            "--limits.first_token_seconds",
            "5",  # those that are well have said something by then, whatever else the machine does
            "--limits.messages",
            "600",
            "--limits.sign_ins",
            "600",
        )
        yield Room(stack.enter_context(arena(folder, blank, *models, words=words)), *models, folder)


@pytest.fixture(autouse=True)
def all_well(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "room" in request.fixturenames:
        for model in request.getfixturevalue("room").models:
            model.mode = "well"


def test_a_battle_its_vote_and_what_comes_after(room: Room) -> None:
    with room.studio.voter("vera") as vera:
        battle = begin(vera, "Hello there")
        assert battle["state"] == "open" and battle["vote"] is None
        more = vera.post(f"/api/arena/{battle['id']}/say", json={"text": "And then?"})
        assert more.status_code == 200
        battle = settled(vera, battle["id"])
        assert [one["asked"]["text"] for one in battle["exchanges"]] == ["Hello there", "And then?"]
        voted = vera.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"}).json()
        assert voted["state"] == "voted" and voted["vote"]["rated"] and voted["vote"]["winner"] == "left"
        for side in ("left", "right"):
            model = next(one for one in room.models if one.name == voted["vote"][side]["model"])
            assert voted["vote"][side]["weights"] == [model.weight_version]
            assert voted["exchanges"][1][side]["html"] == f"<p>{model.answer}</p>\n"
            heard = [message["content"] for message in model.asked[-1]["messages"]]
            assert heard == ["Hello there", model.answer, "And then?"]
        outcome = vera.get(f"/api/arena/{battle['id']}/outcome").json()
        assert outcome["rated"] and outcome["votes"] == 1
        assert outcome["left"]["before"] is None
        assert outcome["left"]["after"]["rating"] > outcome["right"]["after"]["rating"]
        whole = {quest["name"] for quest in outcome["standing"]["quests"] if quest["whole"]}
        assert {"first", "ground"} <= whole
        assert outcome["standing"]["points"] == sum(gain["points"] for gain in outcome["gains"])
        mine = vera.get("/arena/me").text
        assert "appears after 10" in mine and battle["id"] in mine


def test_tools_are_called_and_shown(room: Room) -> None:
    """What a model calls is run, for both alike; calls and results are part of what is judged and kept."""
    for model in room.models:
        model.mode = "calls"
    with room.studio.voter("tess") as tess:
        battle = begin(tess, "2 + 3?")
        assert battle["state"] == "open", battle["why"]
        for side in ("left", "right"):
            html = battle["exchanges"][0][side]["html"]
            assert '<p class="head">calculator</p>' in html and "&quot;2 + 3&quot;" in html
            assert '<p class="word">answered</p><pre>5</pre>' in html and "<p>It is 5. " in html
        more = tess.post(f"/api/arena/{battle['id']}/say", json={"text": "Sure?"})
        assert more.status_code == 200 and settled(tess, battle["id"])["state"] == "open"
        asked = [one for one in room.models if one.asked]
        heard = next(one for one in asked if len(one.asked[-1]["messages"]) > 4).asked[-1]["messages"]
        assert [one["role"] for one in heard][:5] == ["user", "assistant", "tool", "assistant", "user"]
        voted = tess.post(f"/api/arena/{battle['id']}/vote", json={"winner": "tie"}).json()
        assert voted["vote"]["rated"], voted
    with Store.open(room.folder / "arena" / "arena.sqlite") as store:
        roles = [turn.message.role for turn in store.turns(battle["id"]) if turn.side == "a" and turn.message]
    assert roles == ["assistant", "tool", "assistant"] * 2


def test_real_models_with_an_image(studio: StudioProcess) -> None:
    """Two directories, served by processes of their own, which have learnt what they see."""
    from tests.models.learnt import DARK

    with studio.voter("rita") as rita:
        battle = begin(rita, "Shade?", images=[DARK.to_data_uri()])
        assert battle["state"] == "open", battle["why"]
        # That they were started for this battle is not told before the vote.
        assert not any(one["weight_version"] for one in rita.get("/api/models").json()["models"])
        vote = rita.post(f"/api/arena/{battle['id']}/vote", json={"winner": "tie"}).json()["vote"]
        assert {vote[side]["model"] for side in ("left", "right")} == {"tiny", "other"}
        assert all(vote[side]["weights"] for side in ("left", "right"))
        assert not any(one["weight_version"] for one in rita.get("/api/models").json()["models"])
        with studio.admin() as admin:
            assert all(one["weight_version"] for one in admin.get("/api/models").json()["models"])
        assert "dark" in {battle["exchanges"][0][side]["html"].strip("<p>/\n") for side in ("left", "right")}


# -- blind ---------------------------------------------------------------------------------------------


def everything_told(http: httpx.Client) -> tuple[str, str]:
    """A battle up to before its vote: (all that the browser was sent, who stood left)."""
    told: list[str] = []

    def take(answer: httpx.Response) -> Any:
        headers = {k: v for k, v in answer.headers.items() if k not in ("date", "content-length")}
        told.append(f"{answer.status_code} {sorted(headers.items())}")
        return answer

    started = take(http.post("/api/arena", json={"text": "What is a whorl?"}))
    number = started.json()["id"]
    told.append(started.text)
    told.append(take(http.get(f"/arena/{number}")).text)
    stream = take(http.get(f"/api/arena/{number}/stream")).text
    told.append(by_event(stream))
    settled(http, number)
    for path in (f"/api/arena/{number}", f"/arena/{number}", "/arena", "/arena/me"):
        told.append(take(http.get(path)).text)
    told.append(take(http.post(f"/api/arena/{number}/vote", json={"winner": "amber-1"})).text)
    assert {one["state"] for one in http.get("/api/models").json()["models"]} == {"ready"}
    told.append(take(http.get(f"/api/arena/{number}/outcome")).text)
    whole = "\n".join(told).replace(number, "BATTLE")
    left = http.post(f"/api/arena/{number}/vote", json={"winner": "tie"}).json()["vote"]["left"]["model"]
    return whole, left


def by_event(stream: str) -> str:
    """A stream's last event of each name. How often a text grew is a matter of the text and of the
    moment, and so are the events' numbers."""
    events = [part for part in stream.split("\n\n") if "event: " in part]
    last = {re.search("event: (.*)", part)[1]: part.partition("data: ")[2] for part in events}  # type: ignore[index]
    return json.dumps(sorted(last.items()))


def test_before_the_vote_nothing_tells_the_models_apart(tmp_path: Path, blank: Path) -> None:
    """The same battle with the models swapped: every byte is the same, but for the replies' texts."""
    with ExitStack() as stack:
        quick = stack.enter_context(
            stub_model(
                "amber-1",
                answer="It spins.",
                reasoning="Let me see.",
                weight_version="aa11",
                tokens=900,
                card={"max_model_len": 77},
            )
        )
        slow = stack.enter_context(
            stub_model("birch-2", answer="A weight.", weight_version="bb22", pause=0.2, reasoning="Hm.")
        )
        studio = stack.enter_context(arena(tmp_path, blank, quick, slow, words=("--limits.sign_ins", "600")))
        seen: dict[str, set[str]] = {}
        for number in range(16):
            # A new person each time, as long as the first vote would show on the next pages.
            with studio.voter(f"voter {number:02}") as voter:
                told, left = everything_told(voter)
            for secret in ("amber", "birch", "aa11", "bb22", "900", "77", "token", "second", "probab"):
                known = told.replace("'amber-1' is not one of", "")  # our own wrong vote, said back
                assert secret not in known, (secret, known[max(0, known.find(secret) - 200) :][:400])
            for text in ("It spins.", "A weight.", "Hm.", "Let me see."):
                told = told.replace(text, "TEXT")
            seen.setdefault(left, set()).add(re.sub(r"voter \d\d", "VOTER", told))
            if len(seen) == 2 and number >= 3:
                break
    assert set(seen) == {"amber-1", "birch-2"}
    assert len(seen["amber-1"] | seen["birch-2"]) == 1, "\n=====\n".join(seen["amber-1"] | seen["birch-2"])


# -- models that fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dead", "breaks", "silent"])
def test_a_model_that_fails_ends_the_battle_and_blocks_nobody(room: Room, mode: Any) -> None:
    with room.studio.voter(f"finn {mode}") as finn:
        room.amber.mode = room.birch.mode = mode  # of three: every pair has one of them
        failed = begin(finn, "What is a spindle?", images=[PICTURE])
        assert failed["state"] == "over"
        assert failed["why"] in ("The left model failed.", "The right model failed.", "Both models failed.")
        assert "memory" not in json.dumps(failed) and "-" not in failed["why"]
        refused = finn.post(f"/api/arena/{failed['id']}/vote", json={"winner": "left"})
        assert refused.status_code == 409 and "failed" in refused.json()["error"]["message"]
        assert finn.post(f"/api/arena/{failed['id']}/say", json={"text": "And?"}).status_code == 409
        room.amber.mode = room.birch.mode = "well"
        again = finn.post(f"/api/arena/{failed['id']}/again").json()
        assert again["id"] != failed["id"]
        battle = settled(finn, again["id"])
        assert battle["state"] == "open" and battle["exchanges"][0]["asked"]["text"] == "What is a spindle?"
        assert battle["exchanges"][0]["asked"]["images"] == [PICTURE]
        assert finn.post(f"/api/arena/{battle['id']}/vote", json={"winner": "tie"}).status_code == 200


def test_a_slow_battle_is_left_for_another(room: Room) -> None:
    with room.studio.voter("sam") as sam:
        room.amber.mode = room.birch.mode = room.cedar.mode = "slow"
        slow = sam.post("/api/arena", json={"text": "Slow?"}).json()
        assert slow["state"] == "answering"
        early = sam.post(f"/api/arena/{slow['id']}/vote", json={"winner": "left"})
        assert early.status_code == 409 and "both replies have finished" in early.json()["error"]["message"]
        room.amber.mode = room.birch.mode = room.cedar.mode = "well"
        other = sam.post(f"/api/arena/{slow['id']}/again").json()
        assert settled(sam, other["id"])["state"] == "open"
        assert sam.get(f"/api/arena/{slow['id']}").json()["state"] == "over"


def test_stopped_replies_are_kept_as_far_as_they_came(room: Room) -> None:
    with room.studio.voter("stella") as stella:
        room.amber.mode = room.birch.mode = room.cedar.mode = "slow"
        number = stella.post("/api/arena", json={"text": "Go on"}).json()["id"]
        with stella.stream("GET", f"/api/arena/{number}/stream") as stream:
            seen: set[str] = set()
            for line in stream.iter_lines():
                seen |= {side for side in ("left", "right") if f'"side": "{side}", "html": "<p>word' in line}
                if len(seen) == 2:
                    break
        assert stella.post(f"/api/arena/{number}/stop").status_code == 204
        battle = settled(stella, number)
        assert battle["state"] == "open" and "word" in battle["exchanges"][0]["left"]["html"]
        cut = {battle["exchanges"][0][side]["cut"] for side in ("left", "right")}
        assert cut == {"stopped"}
        room.amber.mode = room.birch.mode = room.cedar.mode = "well"
        stella.post(f"/api/arena/{number}/say", json={"text": "And then?"})
        assert {settled(stella, number)["exchanges"][1][side]["cut"] for side in ("left", "right")} == {""}
        vote = stella.post(f"/api/arena/{number}/vote", json={"winner": "right"}).json()["vote"]
        assert not vote["rated"] and vote["reason"] == "the left reply was stopped early"


# -- what is refused -----------------------------------------------------------------------------------


def test_votes_that_are_none(room: Room) -> None:
    with room.studio.voter("dora") as dora, room.studio.voter("mallory") as mallory:
        battle = begin(dora)
        way = f"/api/arena/{battle['id']}/vote"
        wrong = dora.post(way, json={"winner": "middle"})
        assert wrong.status_code == 400 and "left, right, tie, bad" in wrong.json()["error"]["message"]
        assert dora.post(way, json={}).status_code in (400, 422)
        for path in (way, "/api/arena/nothing/vote"):
            other = mallory.post(path, json={"winner": "left"})
            assert other.status_code == 404 and "you have no battle" in other.json()["error"]["message"]
        for path in ("", "/stream", "/outcome"):
            assert mallory.get(f"/api/arena/{battle['id']}{path}").status_code == 404
        assert mallory.post(f"/api/arena/{battle['id']}/again").status_code == 404
        with httpx.Client(base_url=room.studio.address, trust_env=False) as stranger:
            forged = {"cookie": dora.headers.get("cookie", "whorl_session=1.9999999999.x.y")}
            assert stranger.post(way, json={"winner": "left"}, headers=forged).status_code == 401
        assert dora.get(f"/api/arena/{battle['id']}/outcome").status_code == 409
        with ThreadPoolExecutor(8) as pool:  # eight clicks at once
            codes = sorted(pool.map(lambda _: dora.post(way, json={"winner": "left"}).status_code, range(8)))
        assert codes == [200] + [409] * 7
        twice = dora.post(way, json={"winner": "right"})
        assert "already has a vote" in twice.json()["error"]["message"]
        assert dora.get(f"/api/arena/{battle['id']}").json()["vote"]["winner"] == "left"


def test_messages_that_are_none(room: Room) -> None:
    with room.studio.voter("nora") as nora:
        long = nora.post("/api/arena", json={"text": "x" * (10 << 20)})
        assert long.status_code == 413 and "100,000" in long.json()["error"]["message"]
        assert nora.post("/api/arena", json={"text": "  "}).status_code == 400
        assert (
            nora.post("/api/arena", json={"text": "x", "images": ["data:image/png;base64,AAAA"]}).status_code
            == 400
        )
        assert nora.post("/api/arena", json={"text": "x", "consent": "sell"}).status_code in (400, 422)
        battle = begin(nora)
        image = nora.post(f"/api/arena/{battle['id']}/say", json={"text": "See?", "images": [PICTURE]})
        assert image.status_code == 400 and "began without an image" in image.json()["error"]["message"]


def test_a_reply_that_names_itself_is_kept_and_not_rated(room: Room) -> None:
    was = room.amber.answer
    with room.studio.voter("nick") as nick:
        room.amber.answer = room.birch.answer = room.cedar.answer = "I am Amber 1, Birch 2 and Cedar 3."
        try:
            battle = begin(nick)
        finally:
            room.amber.answer, room.birch.answer, room.cedar.answer = was, "A weight.", "A disc."
        vote = nick.post(f"/api/arena/{battle['id']}/vote", json={"winner": "right"}).json()["vote"]
        assert not vote["rated"] and "the left reply names" in vote["reason"]
        outcome = nick.get(f"/api/arena/{battle['id']}/outcome").json()
        assert outcome["votes"] == 0 and outcome["left"]["before"] == outcome["left"]["after"]


def test_without_consent_a_vote_is_kept_and_does_not_count(room: Room) -> None:
    with room.studio.voter("nemo") as nemo:
        battle = begin(nemo, consent="none")
        vote = nemo.post(f"/api/arena/{battle['id']}/vote", json={"winner": "bad"}).json()["vote"]
        assert not vote["rated"] and "no consent" in vote["reason"]


def test_a_second_look_swaps_the_sides_and_is_not_rated(room: Room) -> None:
    with room.studio.voter("sue") as sue:
        early = sue.post("/api/arena/second-look")
        assert early.status_code == 409 and "vote on 4 battles first" in early.json()["error"]["message"]
        first: dict[str, Any] = {}
        for number in range(4):
            battle = begin(sue, f"Question {number}?")
            voted = sue.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"}).json()
            first = first or voted
        assert sue.get(f"/api/arena/{battle['id']}/outcome").status_code == 200  # the ledger has them all
        again = sue.post("/api/arena/second-look").json()
        assert again["state"] == "open" and again["vote"] is None and again["id"] != first["id"]
        (then,), (now,) = first["exchanges"], again["exchanges"]
        assert now == {"asked": then["asked"], "left": then["right"], "right": then["left"]}
        assert sue.post(f"/api/arena/{again['id']}/say", json={"text": "More?"}).status_code == 409
        vote = sue.post(f"/api/arena/{again['id']}/vote", json={"winner": "right"}).json()["vote"]
        assert not vote["rated"] and vote["reason"] == "repeat votes do not affect the board"
        assert vote["left"] == first["vote"]["right"]
        standing = sue.get(f"/api/arena/{again['id']}/outcome").json()["standing"]
        assert (standing["alike"], standing["met_again"]) == (1, 1)
        assert next(quest["whole"] for quest in standing["quests"] if quest["name"] == "again")
        assert sue.post("/api/arena/second-look").status_code == 200  # the next oldest one
        assert {"aa11", "bb22", "cc33"} > set(vote["left"]["weights"])
        page = sue.get("/arena/me").text
        assert "second-look" in sue.get("/static/arena_me.js").text and "quests-list" in page
    with Store.open(room.folder / "arena" / "arena.sqlite") as store:
        mine = next(str(one.id) for one in store.people() if one.name == "sue")
        votes = [one for one in store.battles(rated=None, consent="none") if one.voter == mine]
        assert second_looks(store, votes) == {again["id"]}


def test_a_ranking_of_ones_own(room: Room) -> None:
    with room.studio.voter("olga") as olga:
        for number in range(ENOUGH):
            battle = begin(olga, f"Mine {number}?", consent="none")  # counts for nobody else
            shown = olga.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"}).json()
        assert olga.get(f"/api/arena/{shown['id']}/outcome").json()["standing"]["rated"] == 0
        mine = olga.get("/arena/me").text
        table = mine.partition('aria-label="My ranking"')[2].partition("</table>")[0]
        assert table.count("<tr>") >= 3 and "amber-1" in table
        assert mine.count("no: no consent to rate") == ENOUGH


# -- killed and started again --------------------------------------------------------------------------


def test_kill_9_and_a_restart(tmp_path: Path, blank: Path) -> None:
    """An acknowledged vote stays; a battle whose answers are there goes on; one in mid-answer is said
    to be over, and begins again."""
    with ExitStack() as stack:
        amber = stack.enter_context(stub_model("amber-1", answer="It spins.", weight_version="aa11"))
        birch = stack.enter_context(stub_model("birch-2", answer="A weight.", weight_version="bb22"))
        with arena(tmp_path, blank, amber, birch) as studio, studio.admin() as admin:
            voted, kept = begin(admin), begin(admin, "Kept?")
            amber.mode = "slow"
            broken = admin.post("/api/arena", json={"text": "Broken?"}).json()
            assert admin.post(f"/api/arena/{voted['id']}/vote", json={"winner": "left"}).status_code == 200
            studio.process.send_signal(signal.SIGKILL)
            studio.process.wait()
        with Store.open(tmp_path / "arena" / "arena.sqlite") as store:
            assert [vote.battle for vote in store.battles()] == [voted["id"]]
            assert store.verify().ok
        amber.mode = "well"
        with arena(tmp_path, blank, amber, birch) as studio, studio.admin() as admin:
            shown = admin.get(f"/api/arena/{voted['id']}").json()
            assert shown["vote"]["winner"] == "left" and shown["vote"]["left"]["weights"]
            assert admin.get(f"/api/arena/{voted['id']}/outcome").json()["votes"] == 1
            twice = admin.post(f"/api/arena/{voted['id']}/vote", json={"winner": "right"})
            assert twice.status_code == 409
            assert admin.get(f"/api/arena/{kept['id']}").json()["exchanges"] == kept["exchanges"]
            assert admin.post(f"/api/arena/{kept['id']}/say", json={"text": "More?"}).status_code == 200
            assert settled(admin, kept["id"])["state"] == "open"
            assert admin.post(f"/api/arena/{kept['id']}/vote", json={"winner": "tie"}).status_code == 200
            over = admin.get(f"/api/arena/{broken['id']}").json()
            assert over["state"] == "over" and "stopped during" in over["why"]
            # A page that was listening comes back with the number of an event that is no more.
            stream = admin.get(f"/api/arena/{broken['id']}/stream", headers={"last-event-id": "40"})
            assert "event: turn" in stream.text and "event: end" in stream.text
            again = admin.post(f"/api/arena/{broken['id']}/again").json()
            assert settled(admin, again["id"])["exchanges"][0]["asked"]["text"] == "Broken?"
