"""`whorl model pull`: a model's files from a hub that speaks Hugging Face's protocol.

Files arrive in a hidden folder beside the target, are checked against the hub's hashes, and come
into place when all are whole. An interrupted pull goes on where it stopped, in the middle of a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import read_json, sha256_file, write_json
from whorl.base.progress import Progress, progress, say
from whorl.models.place import is_hub_name

RECORD = "pulled.json"
FORMAT = 1
ENDPOINT = "https://huggingface.co"
ATTEMPTS = 5  # at one file while no byte arrives in between
CHUNK = 1 << 20
# Safetensors, tokenizer, config, template and processor; nothing that would have to be unpickled or run.
WANTED = re.compile(
    r"model\.safetensors|model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json"
    r"|adapter_model\.safetensors|adapter_config\.json|config\.json|generation_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json"
    r"|merges\.txt|vocab\.txt|tokenizer\.model|chat_template\.(json|jinja)|chat_template_args\.json"
    r"|additional_chat_templates/[\w-]+\.jinja|preprocessor_config\.json|processor_config\.json"
)
GIT_BLOB, SHA256 = 40, 64  # hex digits: a git blob's SHA-1, a large file's SHA-256


@dataclass(frozen=True)
class RemoteFile:
    """A file of one revision: its size in bytes, and its hash where the listing tells them."""

    name: str
    size: int | None
    digest: str | None


def pull(
    name: str,
    out: str | Path | None = None,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    pause: float = 1.0,
) -> Path:
    """Fetch ORG/NAME[@REVISION] into `out` (default: ORG/NAME under the current directory).

    `endpoint` and `token` default to `$HF_ENDPOINT` and `$HF_TOKEN`. The revision fetched, and every file's
    SHA-256, are in `pulled.json`. `pause` seconds, doubled each time, lie between attempts. `InputError`: no
    such model or no right to it. `DataError`: a file does not match the hub's hash. `FaultError`: the network
    or the disk; what has arrived is kept, and another pull goes on.
    """
    repo, _, revision = name.partition("@")
    if not is_hub_name(repo):
        raise InputError(f"{name!r} is not a hub name; expected ORG/NAME or ORG/NAME@REVISION")
    target = Path(out) if out is not None else Path(*repo.split("/"))
    _check_target(target)
    address = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    token = token if token is not None else os.environ.get("HF_TOKEN")
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # httpx drops the Authorization header where a redirect leads to another host.
    with httpx.Client(
        headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0, read=60.0)
    ) as client:
        hub = _Hub(client, address, repo, revision or "main", pause)
        commit, files = hub.listing()
        staging = target.parent / f".{target.name}.{commit[:12]}.pull"
        staging.mkdir(parents=True, exist_ok=True)
        total = sum(file.size or 0 for file in files)
        _check_space(staging, total)
        hashes = {}
        with progress(total or None, f"pulling {repo}", "B") as bar:
            for file in files:
                hashes[file.name] = hub.fetch(commit, file, staging, target, bar)
    record = {
        "format": FORMAT, "hub": address, "name": repo, "revision": revision or "main", "commit": commit,
        "files": hashes,
    }  # fmt: skip
    _into_place(staging, target, record)
    say(f"{repo} at {commit[:12]} is in {target}")
    return target


class _Hub:
    def __init__(self, client: httpx.Client, address: str, repo: str, revision: str, pause: float) -> None:
        self.client, self.address, self.repo, self.revision = client, address, repo, revision
        self.pause = pause

    def listing(self) -> tuple[str, list[RemoteFile]]:
        """The revision's commit, and those of its files that are wanted."""
        url = f"{self.address}/api/models/{self.repo}/revision/{quote(self.revision, safe='')}"
        value = self._json(url, params={"blobs": "true"})
        commit, siblings = value.get("sha"), value.get("siblings")
        if (
            not isinstance(commit, str)
            or not re.fullmatch(r"[0-9a-f]{7,64}", commit)
            or not isinstance(siblings, list)
        ):
            raise DataError(f"{url} is not a model listing: sha or siblings is missing")
        files = [_remote(entry, url) for entry in siblings]
        wanted = [file for file in files if WANTED.fullmatch(file.name)]
        if not any(file.name.endswith(".safetensors") for file in wanted):
            pickled = next((file.name for file in files if file.name.endswith((".bin", ".pt", ".pth"))), None)
            hint = f", only pickled weights ({pickled}), which can run code when opened" if pickled else ""
            raise InputError(
                f"{self.repo} has no safetensors{hint}; look for a revision or copy that has them"
            )
        return commit, sorted(wanted, key=lambda file: file.name)

    def _json(self, url: str, **options: Any) -> dict[str, Any]:
        failures = 0
        while True:
            try:
                response = self.client.get(url, **options)
                self._raise_for(response)
                break
            except (_Again, httpx.TransportError) as error:
                failures += 1
                self._wait(failures, url, error)
        try:
            value = response.json()
        except ValueError as error:
            raise DataError(f"{url} does not answer with JSON; is $HF_ENDPOINT a hub?") from error
        return value if isinstance(value, dict) else {}

    def fetch(self, commit: str, file: RemoteFile, staging: Path, target: Path, bar: Progress) -> str:
        """Have `file` whole in `staging`; returns its SHA-256."""
        path = staging / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        for have in (path, target / file.name):  # from an earlier pull, of this revision or another
            if file.digest and have.is_file() and _digest(have, file.digest) == file.digest:
                if have != path:
                    shutil.copyfile(have, path)
                bar.advance(file.size or 0)
                return sha256_file(path)
        part = path.with_name(path.name + ".part")
        url = f"{self.address}/{self.repo}/resolve/{commit}/{quote(file.name)}"
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                expected = self._download(url, part, file, bar)
                break
            except (_Again, httpx.TransportError) as error:
                arrived = part.exists() and part.stat().st_size > before
                failures = 1 if arrived else failures + 1
                self._wait(failures, url, error)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise FaultError(
                        f"no space left for {part}; free some and pull again to resume"
                    ) from error
                raise
        if expected and _digest(part, expected) != expected:
            part.unlink()
            raise DataError(
                f"{url} does not match the hub's hash ({expected[:12]}…); it was removed, so pull again"
            )
        os.replace(part, path)
        return sha256_file(path)

    def _download(self, url: str, part: Path, file: RemoteFile, bar: Progress) -> str | None:
        """Bring `part` to its full size, from where it stands; returns the expected hash, if any is known."""
        have = part.stat().st_size if part.exists() else 0
        if file.size is not None and have > file.size:
            part.unlink()
            have = 0
        if have and have == file.size:
            return file.digest
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self.client.stream("GET", url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
                raise _Again("the hub has no such range")
            self._raise_for(response)
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise _Again("the hub answered with another range")
            with open(part, "ab" if resumed else "wb") as stream:
                for block in response.iter_raw():
                    stream.write(block)
                    bar.advance(len(block))
                stream.flush()
                os.fsync(stream.fileno())
            expected = file.digest or _etag(response)
        size = part.stat().st_size
        if file.size is not None and size != file.size:
            raise _Again(f"{size} of {file.size} bytes arrived")
        return expected

    def _raise_for(self, response: httpx.Response) -> None:
        status = response.status_code
        if status < 400:
            return
        what = f"{self.repo}@{self.revision}"
        if status in (401, 403):
            raise InputError(
                f"{what} at {self.address} is private or gated, or does not exist ({status});"
                " check the name, or set HF_TOKEN to a token with read access"
            )
        if status == 404:
            raise InputError(f"there is no {what} at {self.address}; check the name and the revision")
        if status == 429 or status >= 500:
            raise _Again(f"the hub answers {status}")
        raise FaultError(f"{response.url} answers {status} {response.reason_phrase}")

    def _wait(self, failures: int, url: str, error: Exception) -> None:
        if failures >= ATTEMPTS:
            raise FaultError(
                f"{url}: {str(error) or type(error).__name__} ({failures} times);"
                " what arrived is kept; pull again to resume"
            ) from error
        time.sleep(self.pause * 2 ** (failures - 1))


class _Again(Exception):  # noqa: N818  (never leaves this file)
    """An answer that another attempt may better."""


def _remote(entry: Any, url: str) -> RemoteFile:
    name = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        raise DataError(f"{url} lists a file without a name")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
        raise DataError(f"{url} lists {name!r}, which is outside the model's folder; nothing was fetched")
    large = entry.get("lfs")
    large = large if isinstance(large, dict) else {}
    size = large.get("size", entry.get("size"))
    digest = large.get("sha256") or entry.get("blobId")
    return RemoteFile(name, size if isinstance(size, int) else None, _hash_or_none(digest))


def _hash_or_none(value: Any) -> str | None:
    if isinstance(value, str) and len(value) in (GIT_BLOB, SHA256) and re.fullmatch(r"[0-9a-f]+", value):
        return value
    return None


def _etag(response: httpx.Response) -> str | None:
    """The hash in the headers: of the hub's own answer, before it redirects to where the bytes lie."""
    for answer in (*response.history, response):
        for header in ("X-Linked-Etag", "ETag"):
            found = _hash_or_none(answer.headers.get(header, "").removeprefix("W/").strip('"'))
            if found:
                return found
    return None


def _digest(path: Path, like: str) -> str:
    """The file's hash of the same kind as `like`: SHA-256, or git's blob hash."""
    if len(like) == SHA256:
        return sha256_file(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _check_target(target: Path) -> None:
    """Only an empty place or an earlier pull is written to."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give another --out")
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise InputError(f"{target} exists and was not pulled from the hub; give another --out")


def _check_space(place: Path, total: int) -> None:
    arrived = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    free = shutil.disk_usage(place).free
    if total - arrived > free:
        raise FaultError(
            f"{place.parent} has {free / 1e9:.1f} GB free; the model needs {(total - arrived) / 1e9:.1f}"
        )


def _into_place(staging: Path, target: Path, record: dict[str, Any]) -> None:
    """A new target appears whole, by one rename. In an older pull files are exchanged one by one, the
    record last, and what only the older revision had is removed; files that were never pulled stay."""
    for path in staging.rglob("*.part"):
        path.unlink()
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        write_json(staging / RECORD, record)
        os.replace(staging, target)
        return
    before = read_json(target / RECORD, what="record of a pull")
    for name in record["files"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target / name)
    if isinstance(before, dict):
        for name in set(before.get("files", {})) - set(record["files"]):
            if WANTED.fullmatch(name):
                (target / name).unlink(missing_ok=True)
    write_json(target / RECORD, record)
    shutil.rmtree(staging)
