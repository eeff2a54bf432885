"""`pull` against a stand-in of the hub: a real server that redirects, refuses, cuts off and lies."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import unquote, urlsplit

import pytest
import torch

from whorl.base.errors import DataError, FaultError, InputError
from whorl.models import Decoder, load
from whorl.models.hub import RECORD, is_hub_name, pull

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
REPO = "acme/tiny"


@dataclass
class Hub:
    """What the stand-in holds and how it misbehaves, and what it was asked."""

    revisions: dict[str, tuple[str, dict[str, bytes]]]
    token: str | None = None
    cut: dict[str, list[int]] = field(
        default_factory=dict
    )  # file → bytes after which to hang up, per request
    failures: list[int] = field(default_factory=list)  # statuses to answer with first
    lies: dict[str, bytes] = field(default_factory=dict)  # file → other bytes of the same length
    ranges: bool = True
    plain: bool = False  # the listing tells neither sizes nor hashes
    extra: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    address: str = ""
    storage: str = ""

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for sha, files in self.revisions.values() if sha == commit)

    def asked(self, start: str) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if request[1].startswith(start)]


def large(name: str) -> bool:
    return name.endswith((".safetensors", "tokenizer.json"))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def git_hash(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def handler(hub: Hub, role: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((role, path, dict(self.headers)))
            if role == "storage":
                self.serve(path)
                return
            if hub.failures:
                self.answer(hub.failures.pop(0))
            elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.answer(401)
            elif path.startswith(f"/api/models/{REPO}/revision/"):
                self.listing(path.removeprefix(f"/api/models/{REPO}/revision/"))
            elif path.startswith(f"/{REPO}/resolve/"):
                commit, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
                self.resolve(commit, name)
            else:
                self.answer(404)

        def listing(self, revision: str) -> None:
            if revision not in hub.revisions:
                self.answer(404)
                return
            commit, files = hub.revisions[revision]
            siblings: list[dict[str, object]] = [{"rfilename": name} for name in hub.extra]
            for name, data in files.items():
                entry: dict[str, object] = {"rfilename": name}
                if not hub.plain:
                    entry |= {"size": len(data), "blobId": git_hash(data)}
                    if large(name):
                        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                siblings.append(entry)
            self.answer(200, json.dumps({"sha": commit, "siblings": siblings}).encode())

        def resolve(self, commit: str, name: str) -> None:
            data = hub.files(commit).get(name)
            if data is None:
                self.answer(404)
            elif large(name):
                digest = hashlib.sha256(data).hexdigest()
                headers = {"Location": f"{hub.storage}/{commit}/{name}", "X_Linked_Etag": f'"{digest}"'}
                self.answer(302, b"moved", **headers)
            else:
                self.answer(200, hub.lies.get(name, data), ETag=f'"{git_hash(data)}"')

        def serve(self, path: str) -> None:
            commit, _, name = path.lstrip("/").partition("/")
            data = hub.lies.get(name, hub.files(commit)[name])
            start, status = 0, 200
            if hub.ranges and "Range" in self.headers:
                start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
                if start >= len(data):
                    self.answer(416)
                    return
            body = data[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            cuts = hub.cut.get(name, [])
            self.wfile.write(body[: cuts.pop(0)] if cuts else body)
            self.close_connection = True

    return Handler


@pytest.fixture
def hub(directory: Path) -> Iterator[Hub]:
    """A hub with one model, its large files on a second server."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    files |= {
        "README.md": b"#",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"graph",
        "run.py": b"import os",
    }
    files["tokenizer.json"] = b"{}" * 50
    made = Hub({"main": (COMMIT, files), COMMIT: (COMMIT, files)})
    servers = [ThreadingTCPServer(("127.0.0.1", 0), handler(made, role)) for role in ("hub", "storage")]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    made.address = f"http://127.0.0.1:{servers[0].server_address[1]}"
    made.storage = f"http://localhost:{servers[1].server_address[1]}"
    yield made
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if "hub" in request.fixturenames:
        monkeypatch.setenv("HF_ENDPOINT", request.getfixturevalue("hub").address)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def fetch(name: str = REPO, out: str | None = None) -> Path:
    return pull(name, out, pause=0.0)


def test_what_is_pulled_loads_and_nothing_else_comes(hub: Hub, directory: Path) -> None:
    path = fetch()
    assert path == Path("acme/tiny")  # so that the name given is now the model's directory
    assert isinstance(load("acme/tiny"), Decoder)
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        RECORD,
    }
    assert not [request for request in hub.requests if request[1].endswith((".bin", ".py", ".onnx", ".md"))]
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    record = json.loads((path / RECORD).read_text())
    assert (record["name"], record["revision"], record["commit"]) == (REPO, "main", COMMIT)
    assert (
        record["files"]["model.safetensors"]
        == hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    )
    assert [entry.name for entry in Path("acme").iterdir()] == ["tiny"]  # no staging left


def test_every_file_is_asked_at_the_listed_commit(hub: Hub) -> None:
    fetch()
    assert all(COMMIT in request[1] for request in hub.asked(f"/{REPO}/resolve/"))
    assert len(hub.asked(f"/{REPO}/resolve/")) == 3


def test_a_revision_by_name(hub: Hub) -> None:
    hub.revisions["refs/pr/7"] = (OTHER, hub.revisions["main"][1])
    path = fetch(f"{REPO}@refs/pr/7", "there")
    record = json.loads((path / RECORD).read_text())
    assert (record["revision"], record["commit"]) == ("refs/pr/7", OTHER)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "secret"
    with pytest.raises(InputError, match="HF_TOKEN"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch()
    elsewhere = [headers for role, _, headers in hub.requests if role == "storage"]
    assert elsewhere
    assert all("Authorization" not in headers for headers in elsewhere)


def test_no_such_model_or_revision(hub: Hub) -> None:
    with pytest.raises(InputError, match="there is no acme/absent@main"):
        fetch("acme/absent")
    with pytest.raises(InputError, match="there is no acme/tiny@v9"):
        fetch(f"{REPO}@v9")
    assert not list(Path().iterdir())


def test_a_transfer_cut_off_goes_on_where_it_stopped(hub: Hub) -> None:
    size = len(hub.revisions["main"][1]["model.safetensors"])
    hub.cut["model.safetensors"] = [1000, 500]
    fetch()
    asked = [
        headers.get("Range") for _, path, headers in hub.requests if path == f"/{COMMIT}/model.safetensors"
    ]
    assert asked == [None, "bytes=1000-", "bytes=1500-"]
    assert Path("acme/tiny/model.safetensors").stat().st_size == size


def test_a_pull_that_gave_up_goes_on_in_the_next(hub: Hub) -> None:
    hub.cut["model.safetensors"] = [1000, *[0] * 20]
    with pytest.raises(FaultError, match="pull again"):
        fetch()
    assert not Path("acme/tiny").exists()  # whole or not there
    hub.cut.clear()
    hub.requests.clear()
    fetch()
    assert len(hub.asked(f"/{REPO}/resolve/")) == 2  # config.json was there; tokenizer.json was not reached
    weights = [headers for _, path, headers in hub.requests if path.endswith("model.safetensors")]
    assert all(headers["Range"] == "bytes=1000-" for headers in weights)
    load("acme/tiny")


def test_a_storage_without_ranges_starts_over(hub: Hub) -> None:
    hub.ranges = False
    hub.cut["model.safetensors"] = [1000]
    load(fetch())


def test_wrong_bytes_are_not_kept(hub: Hub) -> None:
    for name in (
        "config.json",
        "model.safetensors",
    ):  # the order they come in: what is whole is not asked again
        hub.lies = {name: flipped(hub.revisions["main"][1][name])}
        with pytest.raises(DataError, match=f"{name} does not match the hub's hash"):
            fetch()
        assert not Path("acme/tiny").exists()
    hub.lies = {}
    load(fetch())


def test_hashes_of_the_headers_where_the_listing_has_none(hub: Hub) -> None:
    hub.plain = True
    load(fetch(out="plain"))
    hub.lies = {"model.safetensors": flipped(hub.revisions["main"][1]["model.safetensors"])}
    with pytest.raises(DataError, match="hash"):
        fetch(out="other")


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    hub.failures = [503, 429, 502]
    load(fetch())
    hub.failures = [503] * 20
    with pytest.raises(FaultError, match="503"):
        fetch(out="other")


def test_no_hub_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FaultError, match=r"127\.0\.0\.1:9"):
        fetch()


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.safetensors",
        "/etc/model.safetensors",
        "a/../../config.json",
        "..\\config.json",
        "C:x.json",
    ],
)
def test_names_that_lead_outside_are_refused(hub: Hub, name: str) -> None:
    hub.extra = [name]
    with pytest.raises(DataError, match="outside the model's folder"):
        fetch()
    assert not list(Path().iterdir())


def test_a_model_without_safetensors(hub: Hub) -> None:
    del hub.revisions["main"][1]["model.safetensors"]
    with pytest.raises(InputError, match=r"no safetensors, only pickled weights \(pytorch_model\.bin\)"):
        fetch()


def test_another_revision_takes_the_place_and_brings_only_what_changed(hub: Hub, directory: Path) -> None:
    fetch()
    Path("acme/tiny/notes.txt").write_text("mine")
    files = dict(hub.revisions["main"][1])
    files["config.json"] = files["config.json"].replace(
        b'"torch_dtype": "float32"', b'"torch_dtype": "bfloat16"'
    )
    del files["tokenizer.json"]
    hub.revisions["main"] = (OTHER, files)
    hub.requests.clear()
    fetch()
    assert [path for _, path, _ in hub.asked(f"/{REPO}/resolve/")] == [f"/{REPO}/resolve/{OTHER}/config.json"]
    assert load("acme/tiny").compute_dtype == torch.bfloat16
    assert {file.name for file in Path("acme/tiny").iterdir()} == {
        "config.json",
        "model.safetensors",
        RECORD,
        "notes.txt",
    }
    assert json.loads(Path("acme/tiny", RECORD).read_text())["commit"] == OTHER


def test_a_damaged_file_is_fetched_again(hub: Hub, directory: Path) -> None:
    fetch()
    file = Path("acme/tiny/model.safetensors")
    file.write_bytes(file.read_bytes()[:-5] + b"oops!")
    fetch()
    assert file.read_bytes() == (directory / "model.safetensors").read_bytes()


def test_a_folder_that_was_not_pulled_is_left_alone(hub: Hub) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    with pytest.raises(InputError, match="was not pulled"):
        fetch(out="mine")
    Path("empty").mkdir()
    load(fetch(out="empty"))


def test_the_verb(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from whorl.cli.main import main

    with pytest.raises(SystemExit) as end:
        main(["model", "pull", f"{REPO}@{COMMIT}", "--out", "there", "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["commit"] == COMMIT
    load("there")
    with pytest.raises(SystemExit) as end:
        main(["model", "pull", f"{REPO}@gone"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "there is no acme/tiny@gone" in err


def test_hub_names() -> None:
    assert is_hub_name("acme/tiny")
    assert is_hub_name("Qwen/Qwen2.5-0.5B@main")
    for text in ("tiny", "a/b/c", "./tiny", "/a/b", "../a", "a/", "a b/c"):
        assert not is_hub_name(text)
    with pytest.raises(InputError, match="ORG/NAME"):
        fetch("tiny")
