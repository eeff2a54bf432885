"""Which two models are judged must not show anywhere, to nobody who may judge: not in the chat, not on the
models' page, not in a second session, not after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.studio.conftest import StudioProcess
from tests.studio.stub_server import StubModel, stub_model
from tests.studio.test_battles import arena, begin, blank  # noqa: F401  a fixture

NAMES = ("amber-1", "birch-2", "cedar-3", "dogwood-4")


@contextmanager
def woods() -> Iterator[list[StubModel]]:
    """Four models: after a battle two have been asked, and two have not."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                stub_model(name, answer="It spins.", card={"max_model_len": 77, "images": False})
            )
            for name in NAMES
        ]


def cards(http: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get("/api/models").json()["models"]
    return found


def alike(found: list[dict[str, Any]]) -> bool:
    """Whether only their names and addresses tell the models apart."""
    return len({json.dumps({**one, "name": "", "address": ""}) for one in found}) == 1


def first_events(http: httpx.Client, model: str) -> str:
    """What a chat with the model tells before the reply, without what is random."""
    told = http.post("/api/chat", json={"text": "Hello", "model": model}).json()
    stream = http.get(f"/api/chat/{told['id']}/stream?exchange={told['exchange']}").text
    event = next(part for part in stream.split("\n\n") if "event: begin" in part)
    value = json.loads(event.partition("data: ")[2])
    return json.dumps({**value, "parent": 0, "model": value["model"].replace(model, "NAME")})


def test_no_page_says_which_models_were_started(tmp_path: Path, blank: Path) -> None:  # noqa: F811
    with ExitStack() as stack:
        models = stack.enter_context(woods())
        studio = stack.enter_context(arena(tmp_path, blank, *models))
        vera, eve = stack.enter_context(studio.voter("vera")), stack.enter_context(studio.voter("eve"))
        admin = stack.enter_context(studio.admin())
        battle = begin(vera)
        assert sorted(bool(one.asked) for one in models) == [False, False, True, True]
        assert not alike(cards(admin)), "an admin who judges nothing sees what runs"
        for person in (vera, eve):
            found = cards(person)
            assert alike(found) and {one["state"] for one in found} == {"ready"}
            assert {one["address"] for one in found} == {""}, "where the servers are is the admins' to know"
            for name in NAMES:
                assert person.post("/api/models/start", params={"name": name}).status_code == 403
            for path in ("/chat", "/models"):
                assert not {"idle", "starting", "127.0.0.1"} & set(person.get(path).text.split('"'))
        assert len({first_events(eve, name) for name in NAMES}) == 1
        vera.post(f"/api/arena/{battle['id']}/vote", json={"winner": "left"})
        assert alike(cards(vera))


def test_an_admin_who_judges_is_as_blind_also_after_a_restart(tmp_path: Path, blank: Path) -> None:  # noqa: F811
    with ExitStack() as stack:
        models = stack.enter_context(woods())
        with arena(tmp_path, blank, *models) as studio, studio.admin() as admin:
            number = begin(admin)["id"]
            assert blinded(studio, admin, number)
        with arena(tmp_path, blank, *models) as studio, studio.admin() as admin:
            assert blinded(studio, admin, number)
            admin.post(f"/api/arena/{number}/vote", json={"winner": "left"})
            assert admin.post("/api/models/start", params={"name": NAMES[0]}).json()["context"] == 77
            assert sorted(one["state"] for one in cards(admin)) == ["idle"] * 3 + ["ready"]
            assert number not in admin.get("/models").text


def blinded(studio: StudioProcess, admin: httpx.Client, battle: str) -> bool:
    """Whether this admin, in this and in another session, sees nothing; the page says for how long."""
    assert f"/arena/{battle}" in admin.get("/models").text
    with studio.admin() as other:
        return alike(cards(admin)) and alike(cards(other)) and bool(cards(admin)[0]["address"])


def test_a_model_that_is_down_is_said_to_be_down(tmp_path: Path, blank: Path) -> None:  # noqa: F811
    with ExitStack() as stack:
        models = stack.enter_context(woods())
        gone = StubModel(name="elder-5", address="http://127.0.0.1:9")
        studio = stack.enter_context(arena(tmp_path, blank, *models, gone))
        admin, vera = stack.enter_context(studio.admin()), stack.enter_context(studio.voter("vera"))
        assert admin.post("/api/models/start", params={"name": gone.name}).status_code == 503
        (mine,) = [one for one in cards(vera) if one["state"] == "down"]
        assert mine["name"] == gone.name and mine["why"] and "127.0.0.1" not in mine["why"]
        (whole,) = [one for one in cards(admin) if one["state"] == "down"]
        assert "127.0.0.1:9" in whole["why"] + whole["address"]
        told = vera.post("/api/chat", json={"text": "Hello", "model": gone.name}).json()
        stream = vera.get(f"/api/chat/{told['id']}/stream?exchange={told['exchange']}").text
        assert '"ending": "failed"' in stream and "127.0.0.1" not in stream
