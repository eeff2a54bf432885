"""Conversations over HTTP: what is kept, whatever happens to model, studio or person."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.studio.conftest import StudioProcess, studio_process
from tests.studio.obeying import Obeying, obeying
from whorl.arena.store import Store
from whorl.base.nouns import Message
from whorl.post.pairs import read_pairs
from whorl.studio.chat.rooms import AT_ONCE
from whorl.text.forms import read_conversations

OTHERS = "you have no such conversation"


@pytest.fixture(scope="module")
def model() -> Iterator[Obeying]:
    with obeying() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chats")


@pytest.fixture(scope="module")
def studio(folder: Path, model: Obeying) -> Iterator[StudioProcess]:
    with studio_process(folder, "--model", model.address, "--limits.messages", "1000") as process:
        yield process


@pytest.fixture(scope="module")
def admin(studio: StudioProcess) -> Iterator[httpx.Client]:
    with studio.admin() as client:
        yield client


class Talk:
    """A conversation by its pages' own routes."""

    def __init__(self, client: httpx.Client, model: Obeying) -> None:
        self.client, self.model, self.id, self.exchange = client, model, "", ""

    def say(self, text: str, *, parent: int | None = None, **more: Any) -> list[dict[str, Any]]:
        """Say it and wait for the end; the events of the exchange."""
        self.send(text, parent=parent, **more)
        return self.events()

    def send(self, text: str, *, parent: int | None = None, **more: Any) -> dict[str, Any]:
        body = {"text": text, "model": self.name, **more}
        if self.id:
            body["parent"] = self.turns()[-1]["id"] if parent is None else parent
        answer = self.client.post(f"/api/chat/{self.id}" if self.id else "/api/chat", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        self.id, self.exchange = told.get("id", self.id), told["exchange"]
        return told

    def retry(self, parent: int) -> list[dict[str, Any]]:
        told = self.post("retry", parent=parent, model=self.name).json()
        self.exchange = told["exchange"]
        return self.events()

    def post(self, what: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/api/chat/{self.id}/{what}", json=body)

    def events(self, until: str = "end", **headers: str) -> list[dict[str, Any]]:
        """The exchange's events as [{"event", "id", …data}], up to the first called `until`."""
        found: list[dict[str, Any]] = []
        way = f"/api/chat/{self.id}/stream?exchange={self.exchange}"
        with self.client.stream("GET", way, headers=headers) as lines:
            name, number = "", ""
            for line in lines.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "id":
                    number = value
                elif key == "data":
                    found.append({"event": name, "number": number, **json.loads(value)})
                    if name == until or name == "end":
                        return found
        return found

    def turns(self) -> list[dict[str, Any]]:
        whole: list[dict[str, Any]] = self.whole()["turns"]
        return whole

    def whole(self) -> dict[str, Any]:
        answer = self.client.get(f"/api/chat/{self.id}/whole")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    @property
    def name(self) -> str:
        return self.model.address.partition("://")[2]


@pytest.fixture
def talk(admin: httpx.Client, model: Obeying) -> Talk:
    return Talk(admin, model)


def test_a_reply_is_streamed_and_kept(talk: Talk) -> None:
    events = talk.say("echo **Hello** there")
    assert events[0]["event"] == "begin" and events[-2]["event"] == "done"
    text = next(one for one in events if one["event"] == "text" and one["html"])
    turn = next(one for one in events if one["event"] == "turn")
    assert text["html"].startswith("<p>") and turn["html"] == "<p><strong>Hello</strong> there</p>\n"
    asked, reply = talk.turns()
    assert asked["text"] == "echo **Hello** there" and reply["parent"] == asked["id"]
    assert reply["text"] == "**Hello** there" and reply["model"] == talk.name
    assert reply["weights"] == talk.model.weights and reply["ending"] == "stop"


def test_what_is_set_reaches_the_model(talk: Talk) -> None:
    sampling = {"temperature": 0, "top_p": 0.5, "top_k": 7, "max_tokens": 33, "seed": 5, "min_p": 0.1}
    talk.say("echo a", system="Be brief.", sampling=sampling)
    asked = talk.model.asked[-1]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: asked[name] for name in sampling} == sampling and "tools" not in asked
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"temprature": 1}, {"seed": -1}, {"max_tokens": 0}):
        body = {"text": "x", "model": talk.name, "sampling": wrong}
        refused = talk.client.post("/api/chat", json=body)
        assert refused.status_code == 400 and next(iter(wrong)) in refused.json()["error"]["message"]


def test_edits_and_retries_are_branches(talk: Talk) -> None:
    talk.say("echo one", system="First.")
    system, asked, reply = talk.turns()
    talk.retry(asked["id"])
    assert talk.turns()[-1]["parent"] == asked["id"]
    talk.say("echo two", parent=reply["id"])
    assert [one["content"] for one in talk.model.asked[-1]["messages"]] == [
        "First.", "echo one", "one", "echo two",
    ]  # fmt: skip
    talk.say("echo anew", parent=0, system="First.")
    assert talk.turns()[-2]["parent"] == system["id"]
    talk.say("echo otherwise", parent=0, system="Second.")
    assert [one["content"] for one in talk.model.asked[-1]["messages"]] == ["Second.", "echo otherwise"]
    refused = talk.client.post(
        f"/api/chat/{talk.id}", json={"text": "x", "model": talk.name, "parent": 999_999}
    )
    assert refused.status_code == 400 and "not in this conversation" in refused.text


# -- tools -----------------------------------------------------------------------------------------


def ask(talk: Talk, text: str, tools: tuple[str, ...] = ("calculator",)) -> dict[str, Any]:
    """Say it, and wait until the model asks for a call."""
    talk.send(text, **({} if talk.id else {"tools": tools}))
    return talk.events("calls")[-1]


def test_a_call_waits_for_its_person(talk: Talk) -> None:
    calls = ask(talk, 'call calculator {"expression": "6*7"}')
    assert calls["states"] == {"0": "asking"} and talk.whole()["exchange"] == talk.exchange
    assert talk.post("calls", turn=calls["turn"], index=0, decision="once").status_code == 204
    talk.events()
    _, call, result, answer = talk.turns()
    assert call["calls"] == [{"name": "calculator", "arguments": {"expression": "6*7"}}]
    assert result["role"] == "tool" and result["text"] == "42" and answer["text"] == "It said 42"
    assert talk.post("calls", turn=calls["turn"], index=0, decision="once").status_code == 409


def test_a_call_may_be_refused_and_all_may_be_allowed(talk: Talk) -> None:
    calls = ask(talk, "call calculator")
    talk.post("calls", turn=calls["turn"], index=0, decision="refuse")
    talk.events()
    assert "refused" in talk.turns()[2]["text"] and talk.turns()[3]["text"].startswith("It said error")
    calls = ask(talk, "call calculator")
    talk.post("calls", turn=calls["turn"], index=0, decision="all")
    talk.events()
    events = talk.say("call calculator")
    assert "asking" not in str(events) and talk.turns()[-1]["text"] == "It said 2"


def test_calls_are_bounded_and_only_tools_that_are_there_act(talk: Talk) -> None:
    calls = ask(talk, "calls")
    talk.post("calls", turn=calls["turn"], index=0, decision="all")
    fault = next(one for one in talk.events() if one["event"] == "fault")
    assert "more than 8 tool calls" in fault["error"]
    results = [one["text"] for one in talk.turns() if one["role"] == "tool"]
    assert results[:8] == ["2"] * 8 and "spent" in results[8]
    fresh = Talk(talk.client, talk.model)
    fresh.say("call shell", tools=["calculator"])
    assert "there is no tool 'shell'" in fresh.turns()[2]["text"]
    calls = ask(Talk(talk.client, talk.model), "call calculator", tools=())
    assert calls["states"] == {"0": "asking"}, "one that the model was not told of is asked about alike"
    unknown = fresh.client.post("/api/chat", json={"text": "x", "model": fresh.name, "tools": ["shell"]})
    assert unknown.status_code == 400 and "no tool 'shell'" in unknown.text


def test_stopping_while_a_call_waits(talk: Talk) -> None:
    ask(talk, "call calculator")
    assert talk.post("stop").status_code == 204
    assert "stopped before this call" in talk.turns()[-1]["text"] and talk.whole()["exchange"] is None
    assert talk.say("echo on")[-2]["event"] == "done" and talk.turns()[-1]["text"] == "on"


# -- what goes wrong -------------------------------------------------------------------------------


def test_what_came_before_a_stop_is_kept_and_marked(talk: Talk) -> None:
    talk.model.left.clear()
    talk.send("slow 1500")
    while "word9" not in talk.events("text")[-1].get("html", ""):
        pass
    busy = talk.client.post(f"/api/chat/{talk.id}", json={"text": "x", "model": talk.name, "parent": 0})
    assert busy.status_code == 409 and "stop it first" in busy.text
    assert talk.post("stop").status_code == 204
    reply = talk.turns()[-1]
    assert reply["ending"] == "stopped" and reply["text"].startswith("word0") and len(reply["text"]) < 9000
    assert reply["rate"] > 0 and reply["counted"], "its server had no chance to say how many tokens"
    assert talk.model.left.wait(20), "the model's server is told, too"
    assert talk.say("echo next") and talk.turns()[-1]["text"] == "next"


def test_a_model_that_dies_in_mid_answer(talk: Talk) -> None:
    talk.say("die now")
    asked, reply = talk.turns()
    assert reply["text"] == "one two three" and reply["ending"] == "failed" and reply["error"]
    events = talk.retry(asked["id"])
    assert talk.turns()[-1]["parent"] == asked["id"] and events[-2]["event"] == "done"


def test_a_refusal_is_said_and_the_message_stays(talk: Talk) -> None:
    fault = next(one for one in talk.say("refuse") if one["event"] == "fault")
    assert fault["ending"] == "failed" and "not today" in fault["error"]
    assert [one["text"] for one in talk.turns()] == ["refuse"]
    assert any(one["event"] == "fault" for one in talk.retry(talk.turns()[0]["id"]))


def test_a_page_that_comes_back_is_told_all(talk: Talk) -> None:
    talk.model.go.clear()
    talk.send("wait")
    first = talk.events("text")
    late = threading.Thread(target=lambda: (time.sleep(0.2), talk.model.go.set()))
    late.start()
    events = talk.events(**{"last-event-id": first[-1]["number"]})
    late.join()
    assert [one["event"] for one in events][-3:] == ["turn", "done", "end"]
    assert "begin" not in [one["event"] for one in events], "what it had is not told again"
    over = talk.client.get(f"/api/chat/{talk.id}/stream?exchange=of-old")
    assert over.status_code == 204, "an exchange that is not known any more: read the conversation"


def test_ten_megabytes_are_refused_and_the_studio_answers_on(talk: Talk) -> None:
    body = {"text": "x" * 10_000_000, "model": talk.name}
    refused = talk.client.post("/api/chat", json=body)
    assert refused.status_code == 413 and "100,000" in refused.json()["error"]["message"]
    assert (
        talk.client.post("/api/chat", json=body | {"text": "x", "system": "y" * 10_000_000}).status_code
        == 413
    )
    assert talk.say("echo still here") and talk.turns()[-1]["text"] == "still here"


def test_anothers_conversation_is_not_there(studio: StudioProcess, talk: Talk) -> None:
    talk.say("echo secret")
    turn = talk.turns()[-1]["id"]
    said = {"text": "x", "model": talk.name, "parent": 0}
    with studio.voter("eve") as eve:
        at = f"/api/chat/{talk.id}"
        for answer in (
            eve.get(f"/chat/{talk.id}"), eve.get(f"{at}/whole"),
            eve.get(f"{at}/stream?exchange={talk.exchange}"),
            eve.get(f"{at}/images/{turn}/0"), eve.post(at, json=said), eve.post(f"{at}/retry", json=said),
            eve.post(f"{at}/stop"), eve.post(f"{at}/title", json={"title": "mine"}), eve.delete(at),
            eve.post(f"{at}/consent", json={"consent": "train"}),
            eve.post(f"{at}/calls", json={"turn": turn, "index": 0, "decision": "once"}),
            eve.post(f"{at}/turns/{turn}/thumb", json={"value": 1}),
            eve.post(f"{at}/turns/{turn}/better", json={"text": "hers"}),
            eve.get(f"/api/chat?before={talk.id}"),
        ):  # fmt: skip
            assert answer.status_code == 404 and OTHERS in answer.text, answer.url
        own = Talk(eve, talk.model)
        own.say("echo mine")
        crossed = own.post(f"turns/{turn}/thumb", value=1)
        assert crossed.status_code == 400 and "another person's" in crossed.text
        assert eve.get("/api/chat/search?words=secret").json() == {"found": []}
        assert [one["id"] for one in eve.get("/api/chat").json()["conversations"]] == [own.id]
    assert talk.whole()["title"] == "echo secret"


def test_numbers_that_no_database_holds_are_not_there(talk: Talk) -> None:
    talk.say("echo on")
    for number in (2**63, 2**70, -1):
        for answer in (
            talk.post(f"turns/{number}/thumb", value=1), talk.post(f"turns/{number}/better", text="x"),
            talk.client.get(f"/api/chat/{talk.id}/images/{number}/0"),
            talk.client.post(f"/api/people/{number}/token"),
            talk.client.delete(f"/api/people/{number}"),
        ):  # fmt: skip
            assert answer.status_code == 404 and "arena" not in answer.text, (number, answer.text)


def test_consent_is_logged_where_it_changes(talk: Talk, folder: Path) -> None:
    talk.say("echo on")
    for consent in ("none", "train", "train", "train", "rate", "rate"):
        assert talk.post("consent", consent=consent).status_code == 204
    with Store.open(folder / "arena" / "arena.sqlite") as store, store.database.read() as connection:
        rows = connection.exec_driver_sql(
            f"select body from arena_log where kind = 'consent' and subject = '{talk.id}' order by seq"
        ).all()
    assert [json.loads(body)["consent"] for (body,) in rows] == ["train", "rate"]


def test_nobody_has_more_than_a_few_replies_made_at_once(studio: StudioProcess, model: Obeying) -> None:
    model.go.clear()
    with studio.voter("hasty") as hasty:
        talks = [Talk(hasty, model) for _ in range(AT_ONCE)]
        for one in talks:
            one.send("wait")
        more = hasty.post("/api/chat", json={"text": "wait", "model": talks[0].name})
        assert more.status_code == 429 and "being generated" in more.json()["error"]["message"]
        assert len(hasty.get("/api/chat").json()["conversations"]) == AT_ONCE, "nothing was begun in vain"
        assert talks[0].post("stop").status_code == 204
        assert hasty.post("/api/chat", json={"text": "echo", "model": talks[0].name}).status_code == 200
        model.go.set()


def test_a_battle_is_no_chat(studio: StudioProcess, admin: httpx.Client, folder: Path) -> None:
    with Store.open(folder / "arena" / "arena.sqlite") as store:
        for name in ("left", "right"):
            store.add_model(name)
        battle = store.start_battle(
            1, [Message(role="user", content=("unseen words",))], model_a="left", model_b="right",
            probability=0.5, consent="rate",
        )  # fmt: skip
    assert admin.get(f"/api/chat/{battle.id}/whole").status_code == 404
    assert admin.get("/api/chat/search?words=unseen").json()["found"] == []


# -- what is kept ----------------------------------------------------------------------------------


def test_titles_search_and_pages_of_the_list(studio: StudioProcess, model: Obeying, folder: Path) -> None:
    with studio.voter("lena") as lena:
        talk = Talk(lena, model)
        talk.say("echo number 1 of many")
        with Store.open(folder / "arena" / "arena.sqlite") as store:  # as if they came from elsewhere
            person = next(one.id for one in store.people() if one.name == "lena")
            for number in range(2, 43):
                opening = [Message(role="user", content=(f"number {number} of many",))]
                last = store.start_chat(person, opening, consent="none")
        first = lena.get("/api/chat").json()
        assert first["more"] and len(first["conversations"]) == 40
        assert first["conversations"][0] | {"started": 0} == {
            "id": last, "title": "number 42 of many", "started": 0,
        }  # fmt: skip
        rest = lena.get("/api/chat", params={"before": first["conversations"][-1]["id"]}).json()
        assert [one["title"] for one in rest["conversations"]] == [
            "number 2 of many",
            "echo number 1 of many",
        ]
        assert not rest["more"] and rest["conversations"][1]["id"] == talk.id
        found = lena.get("/api/chat/search", params={"words": "NUMBER 1 of"}).json()["found"]
        assert [one["id"] for one in found] == [talk.id] and "number 1 of many" in found[0]["said"]
        assert talk.post("title", title="  Of \n numbers ").json() == {"title": "Of numbers"}
        assert talk.whole()["title"] == "Of numbers"
        assert lena.get("/api/chat/search", params={"words": " "}).status_code == 400


def test_what_is_erased_is_gone(talk: Talk, folder: Path) -> None:
    talk.say("echo a word for the fire: zyzzyva")
    assert talk.client.delete(f"/api/chat/{talk.id}").status_code == 204
    assert talk.client.get(f"/api/chat/{talk.id}/whole").status_code == 404
    assert talk.client.get("/api/chat/search?words=zyzzyva").json()["found"] == []
    assert b"zyzzyva" not in b"".join(one.read_bytes() for one in (folder / "arena").glob("arena.sqlite*"))
    other = Talk(talk.client, talk.model)
    other.send("slow 1500")
    assert talk.client.delete(f"/api/chat/{other.id}").status_code == 204, "also in mid-answer"


def test_thumbs_and_better_replies_leave_as_pairs(
    studio: StudioProcess, model: Obeying, tmp_path: Path
) -> None:
    with studio.voter("june") as june:
        talk = Talk(june, model)
        talk.say("echo plain")
        asked, first = talk.turns()
        talk.retry(asked["id"])
        second = talk.turns()[-1]
        assert talk.post(f"turns/{first['id']}/thumb", value=-1, reason=" too short ").status_code == 200
        assert talk.post(f"turns/{second['id']}/better", text="A **full** one.").status_code == 200
        shown = {one["id"]: one for one in talk.turns()}
        assert shown[first["id"]]["thumb"] == -1 and shown[first["id"]]["reason"] == "too short"
        assert "<strong>full</strong>" in shown[second["id"]]["better_html"]
        for what, body in (("better", {"text": " "}), ("thumb", {"value": 2})):
            assert talk.post(f"turns/{first['id']}/{what}", **body).status_code == 400
        assert talk.post(f"turns/{asked['id']}/thumb", value=1).status_code == 400, "one's own words"
        exported = june.get("/api/chat/export")
    assert exported.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(exported.content)).extractall(tmp_path)
    pairs = list(read_pairs(tmp_path / "whorl-chats" / "preferences.jsonl"))
    assert len(pairs) == 1 and "A **full** one." in repr(pairs[0])
    chats = list(read_conversations(tmp_path / "whorl-chats" / "conversations.jsonl"))
    assert [one.messages[-1].text for one in chats] == ["A **full** one."]


def test_consent_is_none_until_it_is_given(talk: Talk) -> None:
    talk.say("echo mine")
    assert talk.whole()["consent"] == "none"
    assert talk.post("consent", consent="train").status_code == 204 and talk.whole()["consent"] == "train"
    assert talk.post("consent", consent="sell").status_code == 400


def test_images_are_kept_and_shown_to_their_person_alone(talk: Talk) -> None:
    from tests.models.learnt import DARK

    talk.say("echo seen", images=[DARK.to_data_uri()])
    turn = talk.turns()[0]
    image = talk.client.get(f"/api/chat/{talk.id}/images/{turn['id']}/0")
    assert turn["images"] == 1 and image.content == DARK.data and image.headers["content-type"] == "image/png"
    assert talk.client.get(f"/api/chat/{talk.id}/images/{turn['id']}/1").status_code == 404
    assert talk.model.asked[-1]["messages"][0]["content"][0]["image_url"]["url"] == DARK.to_data_uri()


# -- the studio itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_end_in_mid_answer_loses_no_finished_turn(model: Obeying, tmp_path: Path, how: int) -> None:
    words = ("--model", model.address)
    with studio_process(tmp_path, *words) as studio, studio.admin() as admin:
        talk, waiting = Talk(admin, model), Talk(admin, model)
        talk.say("echo finished")
        call = ask(waiting, 'call lookup {"name": "math.isqrt"}', ("lookup",))["turn"]
        talk.send("slow 1500")
        while not talk.events("text")[-1].get("html"):
            pass
        studio.process.send_signal(how)
        studio.process.wait(30)
    with studio_process(tmp_path, *words) as studio, studio.admin() as admin:
        talk.client = waiting.client = admin
        kept = talk.whole()
        texts = [one["text"] for one in kept["turns"]]
        assert texts[:3] == ["echo finished", "finished", "slow 1500"] and kept["exchange"] is None
        if how == signal.SIGTERM:
            assert texts[3].startswith("word0") and kept["turns"][3]["ending"] == "stopped"
        talk.say("echo on", parent=kept["turns"][1]["id"])
        assert talk.turns()[-1]["text"] == "on"
        if how == signal.SIGKILL:  # a call that waited for its person waits again
            told = waiting.post("retry", parent=call, model=waiting.name).json()
            waiting.exchange = told["exchange"]
            assert waiting.events("calls")[-1]["states"] == {"0": "asking"}
            waiting.post("calls", turn=call, index=0, decision="once")
            waiting.events()
            assert "integer part of the square root" in waiting.turns()[-1]["text"]
        else:
            assert "stopped before this call" in waiting.turns()[-1]["text"]
