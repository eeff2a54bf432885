"""Who comes in, and what a stranger or another site's page cannot do."""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.studio.conftest import PHONE, StudioProcess, serious_faults, studio_process
from whorl.serve.api.errors import ApiError
from whorl.studio.web.limiter import Limiter
from whorl.studio.web.markdown import render_markdown


def test_a_stranger_is_sent_to_sign_in_and_told_so_in_json(studio: StudioProcess) -> None:
    with httpx.Client(base_url=studio.address, trust_env=False) as http:
        page = http.get("/models", headers={"accept": "text/html"})
        assert page.status_code == 303 and page.headers["location"] == "/sign-in?next=/models"
        asked = http.get("/api/models")
        assert asked.status_code == 401 and "sign in" in asked.json()["error"]["message"]
        assert http.get("/health").json() == {"status": "ok"}


def test_forged_sessions_are_refused(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        cookie = admin.cookies["whorl_session"]
    number, ends, stamp, signature = cookie.split(".")
    forged = [
        f"{int(number) + 1}.{ends}.{stamp}.{signature}", f"{number}.{int(ends) + 1}.{stamp}.{signature}",
        f"{number}.{ends}.{stamp}.{signature[:-1]}x", "1.2.3", "x", "....", "1.1.", "é.é.é.é",
    ]  # fmt: skip
    with httpx.Client(base_url=studio.address, trust_env=False) as http:
        for one in forged:
            headers = {b"cookie": b"whorl_session=" + one.encode("utf-8")}
            assert http.get("/api/models", headers=headers).status_code == 401, one
        good = http.get("/api/models", headers={"cookie": f"whorl_session={cookie}"})
        assert good.status_code == 200


def test_an_old_session_is_refused_though_its_signature_is_good(
    studio: StudioProcess, workspace: Path
) -> None:
    with studio.admin() as admin:
        number, ends, mark, signature = admin.cookies["whorl_session"].split(".")
    secret = (workspace / "studio" / "secret").read_bytes()

    def signed(ends: int) -> str:
        held = f"{number}.{ends}.{mark}"
        return f"{held}.{hmac.new(secret, held.encode(), hashlib.sha256).hexdigest()}"

    assert signed(int(ends)).endswith(f".{signature}")
    with httpx.Client(base_url=studio.address, trust_env=False) as http:
        for end, status in ((int(time.time()) - 1, 401), (0, 401), (int(time.time()) + 3600, 200)):
            asked = http.get("/api/models", headers={"cookie": f"whorl_session={signed(end)}"})
            assert asked.status_code == status, end


def test_a_new_token_ends_the_sessions_of_the_old_one(studio: StudioProcess) -> None:
    with studio.voter("nell") as nell, studio.admin() as admin:
        assert nell.get("/api/models").status_code == 200
        number = people(admin)["nell"]["id"]
        token = admin.post(f"/api/people/{number}/token").json()["token"]
        assert nell.get("/api/models").status_code == 401
        again = nell.post("/sign-in", data={"name": "nell", "token": token})
        assert again.status_code == 200 and nell.get("/api/models").status_code == 200


def test_signing_out_ends_the_session_wherever_its_cookie_is(tmp_path: Path) -> None:
    with studio_process(tmp_path) as studio, studio.admin() as admin, studio.admin() as elsewhere:
        copied = {"cookie": f"whorl_session={admin.cookies['whorl_session']}"}
        with httpx.Client(base_url=studio.address, headers=copied, trust_env=False) as thief:
            assert thief.get("/api/models").status_code == 200
            assert admin.post("/api/sign-out").status_code == 204
            assert thief.get("/api/models").status_code == 401
        assert elsewhere.get("/api/models").status_code == 200, "another browser's session goes on"
    with studio_process(tmp_path) as studio:
        again = httpx.get(f"{studio.address}/api/models", headers=copied, trust_env=False)
        assert again.status_code == 401, "also after a restart"


def people(http: httpx.Client) -> dict[str, dict[str, Any]]:
    held = http.get("/people").text.partition('data-people="')[2].partition('"')[0]
    return {one["name"]: one for one in json.loads(html.unescape(held))}


def test_roles_change_and_people_are_removed_but_for_the_last_admin(tmp_path: Path) -> None:
    with studio_process(tmp_path) as studio, studio.admin() as admin, studio.voter("nora") as nora:
        (mine,) = [one for one in people(admin).values() if one["role"] == "admin"]
        number = people(admin)["nora"]["id"]
        for refused in (
            admin.post(f"/api/people/{mine['id']}/role", json={"role": "voter"}),
            admin.delete(f"/api/people/{mine['id']}"),
        ):
            assert refused.status_code == 409 and "only admin" in refused.json()["error"]["message"]
        assert nora.post(f"/api/people/{number}/role", json={"role": "admin"}).status_code == 403
        assert admin.post(f"/api/people/{number}/role", json={"role": "king"}).status_code == 400
        assert admin.post(f"/api/people/{number}/role", json={"role": "admin"}).status_code == 200
        assert nora.get("/people").status_code == 200, "at once"
        assert nora.post(f"/api/people/{mine['id']}/role", json={"role": "voter"}).status_code == 200
        assert admin.get("/people").status_code == 403
        assert nora.delete(f"/api/people/{mine['id']}").status_code == 204
        assert admin.get("/api/models").status_code == 401
        assert list(people(nora)) == ["nora"]
        assert nora.delete(f"/api/people/{mine['id']}").status_code == 404


def test_names_are_names(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        for name, why in (("x" * 100_000, "at most 80"), ("a\0b", "invisible"), (" ", "needs a name")):
            refused = admin.post("/api/people", json={"name": name})
            assert refused.status_code == 400 and why in refused.json()["error"]["message"]
        wrong = admin.post("/sign-in", data={"name": "a\0b", "token": "x"})
        assert wrong.status_code == 401 and "wrong name or token" in wrong.text


def test_whatever_changes_something_is_counted(tmp_path: Path) -> None:
    """One bucket before every route: searches, sign-outs, whatever may be added later."""
    with studio_process(tmp_path, "--limits.messages", "2") as studio, studio.voter("vim") as vim:
        codes = [vim.post("/api/chat/nothing/stop").status_code for _ in range(9)]
        assert codes == [404] * 8 + [429]
        search = vim.get("/api/chat/search?words=x")
        assert search.status_code == 429 and "too many changes" in search.json()["error"]["message"]
        assert vim.get("/api/chat").status_code == 200


def test_signing_in_leads_back_to_the_whole_address(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        token = admin.post("/api/people", json={"name": "quinn"}).json()["token"]
    with httpx.Client(base_url=studio.address, trust_env=False) as http:
        page = http.get("/board?category=code&interval=bootstrap", headers={"accept": "text/html"})
        way = page.headers["location"]
        signed = http.post(way, data={"name": "quinn", "token": token})
        assert signed.headers["location"] == "/board?category=code&interval=bootstrap"


def test_wrong_tokens_are_refused_and_then_slowed(workspace: Path) -> None:
    words = ("--limits.sign_ins", "3")
    with (
        studio_process(workspace, *words) as studio,
        httpx.Client(base_url=studio.address, trust_env=False) as http,
    ):
        wrong = [http.post("/sign-in", data={"name": "admin", "token": "guess"}) for _ in range(4)]
        assert [one.status_code for one in wrong] == [401, 401, 401, 429]
        assert "wrong name or token" in wrong[0].text and "wait" in wrong[3].text
        assert "set-cookie" not in wrong[0].headers


def test_another_sites_page_changes_nothing(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            refused = admin.post("/api/people", json={"name": "mallory"}, headers=headers)
            assert refused.status_code == 403, headers
        assert "mallory" not in admin.get("/people").text
        own = admin.post("/api/people", json={"name": "grace"}, headers={"origin": studio.address})
        assert own.status_code == 200


def test_signing_in_leads_only_into_the_studio(studio: StudioProcess) -> None:
    with httpx.Client(base_url=studio.address, trust_env=False) as http:
        for way in ("//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nb"):
            went = http.get(
                studio.entrance, params={"next": way, "key": studio.entrance.partition("key=")[2]}
            )
            assert went.status_code == 303 and went.headers["location"] == "/", way


def test_a_voter_is_no_admin(studio: StudioProcess, tmp_path: Path) -> None:
    with studio.voter("vera") as vera:
        assert vera.get("/people", headers={"accept": "text/html"}).status_code == 403
        for path, body in (("/api/people", {"name": "x"}), ("/api/models", {"address": str(tmp_path)})):
            assert vera.post(path, json=body).status_code == 403
        assert "People" not in vera.get("/models").text


def test_every_answer_carries_the_policy(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        for path in ("/models", "/static/studio.js", "/api/models", "/nothing"):
            headers = admin.get(path).headers
            assert "script-src 'self'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff"


def test_models_join_by_directory_and_by_address(studio: StudioProcess, learnt: Path, tmp_path: Path) -> None:
    with studio.admin() as admin:
        nothing = admin.post("/api/models", json={"address": str(tmp_path)})
        assert nothing.status_code == 400 and "contains no model" in nothing.json()["error"]["message"]
        dead = admin.post("/api/models", json={"address": "http://127.0.0.1:9"})
        assert dead.status_code == 503 and "is the server running" in dead.json()["error"]["message"]
        joined = admin.post("/api/models", json={"address": str(learnt), "name": "third"}).json()
        assert joined["state"] == "idle" and joined["images"] is True
        taken = admin.post("/api/models", json={"address": str(tmp_path), "name": "third"})
        assert taken.status_code == 400 and "already" in taken.json()["error"]["message"]
        started = admin.post("/api/models/start", params={"name": "third"}).json()
        assert started["state"] == "ready" and started["context"] == 512 and started["weight_version"]
        assert admin.delete("/api/models", params={"name": "third"}).status_code == 204
        assert "third" not in [one["name"] for one in admin.get("/api/models").json()["models"]]


def test_names_stay_with_their_models(learnt: Path, tmp_path: Path) -> None:
    """A name that votes stand under is no other model's; one that left stays away; aliases are kept."""
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store

    folder = tmp_path / "ws"
    shutil.copytree(learnt, folder / "models" / "here")
    shutil.copytree(learnt, folder / "models" / "gone")
    with Store.open(default_store(folder)) as store:
        store.add_model("here", address="/elsewhere", aliases=("nickname",))
        store.add_model("judged", address=str((folder / "models" / "gone").resolve()), aliases=("old",))
    with studio_process(folder) as studio, studio.admin() as admin:
        models = {one["name"]: one["address"] for one in admin.get("/api/models").json()["models"]}
        assert sorted(models) == ["here-2", "judged"]
        taken = admin.post("/api/models", json={"address": str(learnt), "name": "here"})
        assert taken.status_code == 400 and "already has votes for" in taken.json()["error"]["message"]
        assert admin.delete("/api/models", params={"name": "judged"}).status_code == 204
    with studio_process(folder) as studio, studio.admin() as admin:
        assert [one["name"] for one in admin.get("/api/models").json()["models"]] == ["here-2"]
    with Store.open(default_store(folder)) as store:
        known = {model.name: model for model in store.models()}
    assert known["judged"].aliases == ("old",) and not known["judged"].active
    assert known["here"].aliases == ("nickname",) and known["here"].address == "/elsewhere"


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_workspace_that_was_moved_keeps_its_names(learnt: Path, tmp_path: Path, how: str) -> None:
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store

    shutil.copytree(learnt, tmp_path / "old" / "runs" / "mine" / "model")
    with Store.open(default_store(tmp_path / "old")) as store:
        store.add_model("judged", address=str(tmp_path / "old" / "runs" / "mine" / "model"))
    if how == "moved":
        (tmp_path / "old").rename(tmp_path / "new")
    else:
        shutil.copytree(tmp_path / "old", tmp_path / "new")
    with studio_process(tmp_path / "new") as studio, studio.admin() as admin:
        (model,) = admin.get("/api/models").json()["models"]
    assert model["name"] == "judged"
    assert model["address"] == str((tmp_path / "new" / "runs" / "mine" / "model").resolve())


def test_a_dead_server_is_seen_and_is_tried_again(workspace: Path, learnt: Path) -> None:
    from tests.serve.api.conftest import serving

    with serving(model=learnt) as server:
        words = ("--model", server.address)
        with studio_process(workspace, *words) as studio, studio.admin() as admin:
            name = server.address.partition("://")[2]

            def state() -> str:
                models = admin.get("/api/models").json()["models"]
                return next(one["state"] for one in models if one["name"] == name)

            assert admin.post("/api/models/start", params={"name": name}).json()["state"] == "ready"
            server.process.kill()
            deadline = time.monotonic() + 60
            while state() != "down" and time.monotonic() < deadline:
                time.sleep(0.2)
            assert state() == "down"
            again = admin.post("/api/models/start", params={"name": name})
            assert again.status_code == 503 and "is the server running" in again.json()["error"]["message"]


def test_a_killed_studio_leaves_no_server_behind(workspace: Path) -> None:
    with studio_process(workspace) as studio, studio.admin() as admin:
        assert admin.post("/api/models/start", params={"name": "tiny"}).json()["state"] == "ready"
        started = psutil.Process(studio.process.pid).children(recursive=True)
        assert any("serve" in child.cmdline() for child in started)
        studio.process.kill()
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not alive, alive


def test_mistakes_of_the_command_line_are_one_line(tmp_path: Path, workspace: Path) -> None:
    for words, expected in (
        (["--workspace", str(tmp_path / "missing")], "is not a directory"),
        (["--workspace", str(workspace), "--root-path", "x"], "must begin with /"),
        (["--workspace", str(workspace), "--model", str(tmp_path)], "contains no model"),
        (["--workspace", str(workspace), "--prot", "1"], "port"),
    ):
        command = [sys.executable, "-m", "whorl", "studio", "--port", "0", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and expected in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("<script>alert(1)</script>", "<script"), ("[x](javascript:alert(1))", "href=\"javascript"),
        ("<img src=x onerror=alert(1)>", "<img"), ("![x](http://evil.example/seen.png)", "<img"),
        ("<a href='x' onclick='alert(1)'>x</a>", "<a"), ("[x](data:text/html,<script>)", "href=\"data"),
        ("```html\" onload=\"x\n<b>\n```", "onload=\"x"), ("<style>*{}</style>", "<style"),
    ],
)  # fmt: skip
def test_what_a_message_must_not_do(text: str, gone: str) -> None:
    assert gone not in render_markdown(text)


def test_markdown_is_shown_as_meant() -> None:
    assert render_markdown("**a** `b`") == "<p><strong>a</strong> <code>b</code></p>\n"
    table = render_markdown("|a|b|\n|:-|-:|\n|1|2|")
    assert '<th class="right">b</th>' in table and '<td class="left">1</td>' in table
    assert 'class="language-python"' in render_markdown("```python\nx = 1\n```")
    assert "&lt;b&gt;" in render_markdown("<b>")
    link = render_markdown("[x](https://example.org)")
    assert 'rel="noopener noreferrer nofollow"' in link and 'href="https://example.org"' in link


def test_a_bucket_refills() -> None:
    now = [0.0]
    limiter = Limiter(2, "messages", clock=lambda: now[0])
    limiter.take("a"), limiter.take("a"), limiter.take("b")
    with pytest.raises(ApiError, match="too many messages: wait 30 s"):
        limiter.take("a")
    now[0] = 30.0
    limiter.take("a")


# -- in a browser ------------------------------------------------------------------------------------


def test_the_models_page(open_page: Any, tmp_path: Path) -> None:
    page = open_page("/models")
    card = page.locator(".model", has_text="tiny")
    card.get_by_role("button", name="Start").click()
    card.get_by_text("ready", exact=True).wait_for()
    assert serious_faults(page) == []
    page.get_by_role("button", name="Add a model").click()
    page.get_by_label("Directory or address").fill(str(tmp_path))
    page.get_by_label("Directory or address").press("Enter")
    page.get_by_text("contains no model").wait_for()


def test_the_people_page(open_page: Any) -> None:
    page = open_page("/people")
    page.get_by_label("Name").fill("pia")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("Token of pia").wait_for()
    role = page.get_by_label("Role of pia")
    role.select_option("admin")
    page.get_by_text("pia is admin now.").wait_for()
    page.reload()
    assert role.input_value() == "admin"
    page.get_by_text("Nobody's votes stand out").wait_for()
    assert serious_faults(page) == []
    page.get_by_role("button", name="Remove for pia").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_text("pia is removed.").wait_for()
    assert page.locator("#people tr", has_text="pia").count() == 0


def test_signing_in_and_out_by_keyboard(open_page: Any, studio: StudioProcess) -> None:
    with studio.admin() as admin:
        token = admin.post("/api/people", json={"name": "ida"}).json()["token"]
    page = open_page("/models", viewport=PHONE, color_scheme="dark")
    assert serious_faults(page) == []
    page.get_by_role("button", name="Sign out").press("Enter")
    page.wait_for_url("**/sign-in")
    page.keyboard.type("ida")
    page.keyboard.press("Tab")
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    page.get_by_text("ida").wait_for()
    assert serious_faults(page) == []


def test_the_theme_is_kept(open_page: Any) -> None:
    page = open_page("/models", color_scheme="light")
    page.get_by_role("button", name="Light or dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
