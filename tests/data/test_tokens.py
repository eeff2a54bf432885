"""Token shards: what is read back, the same bytes for any workers, kill -9, damage."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.nouns import ImagePart
from whorl.data.dataset import read_dataset
from whorl.data.document import Document
from whorl.data.tokens import TokenSet, open_tokens, write_tokens
from whorl.text import Tokenizer, train_bpe

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "the",
    "spindle",
    "turns",
    "fibre",
    "becomes",
    "thread",
    "Grüße",
    "λ",
    "42",
    "<|im_end|>",
    "weigh",
    "it\n",
]


def make_documents(count: int = 300) -> list[Document]:
    choose = random.Random(7)
    return [
        Document(
            id=f"doc-{n:04d}é",
            text="" if n % 50 == 49 else " ".join(choose.choices(WORDS, k=choose.randint(1, 120))),
            split="validation" if n % 9 == 4 else "train" if n % 2 else "",
            images=(ImagePart(data=bytes([n % 7]) * 40),) if n % 10 == 3 else (),
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([document.text for document in make_documents(60)], 300)


@pytest.fixture(scope="module")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return write_tokens(make_documents(), tokenizer, tmp_path_factory.mktemp("whole"), shard_tokens=2000)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_every_document_comes_back_with_its_end_token(tokenizer: Tokenizer, written: TokenSet) -> None:
    assert written.splits == ("train", "validation")
    seen = 0
    for name in written.splits:
        split = written.split(name)
        documents = [d for d in make_documents() if (d.split or "train") == name and d.text]
        assert len(split) == len(documents)
        assert split.bytes == sum(len(d.text.encode()) for d in documents)
        assert split.tokens == split.lengths.sum()
        for number, document in enumerate(documents):
            ids = split.document(number)
            assert ids.dtype == np.uint16 and len(ids) == split.lengths[number]
            assert int(ids[-1]) == tokenizer.id_of("<|endoftext|>") == written.end_token
            assert ids[:-1].tolist() == tokenizer.encode(document.text)
            assert tokenizer.decode(ids[:-1].tolist()) == document.text
            assert split.id(number) == document.id
            assert split.text_bytes(number) == len(document.text.encode())
            assert split.images(number) == tuple(image.digest for image in document.images)
            assert [written.images[d] for d in split.images(number)] == [i.data for i in document.images]
            seen += 1
    assert seen + written.manifest["empty_documents"] == 300 and written.manifest["empty_documents"] == 6
    assert len(written.shards) > 5 and len(written.images) == 7
    assert Tokenizer.load(written.tokenizer_directory).hash == written.tokenizer_hash == tokenizer.hash
    with pytest.raises(IndexError):
        written.split("train").document(10_000)


def test_two_workers_write_the_same_bytes(tokenizer: Tokenizer, written: TokenSet, tmp_path: Path) -> None:
    write_tokens(iter(make_documents()), tokenizer, tmp_path, shard_tokens=2000, workers=2)
    assert contents(tmp_path) == contents(written.directory)


def test_a_large_vocabulary_takes_wide_ids_and_a_start_token(tmp_path: Path) -> None:
    class Wide:
        vocab_size, hash, end_ids = 70_000, "wide", (69_999,)

        def has(self, token: str) -> bool:
            return False

        def id_of(self, token: str) -> int:
            raise KeyError(token)

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[ord(character) + 60_000 for character in text] for text in texts]

        def save(self, directory: str | Path) -> None:
            Path(directory).mkdir()

    tokens = write_tokens([Document(id="a", text="AB")], Wide(), tmp_path, start_token=7)
    assert tokens.split("train").document(0).tolist() == [7, 60_065, 60_066, 69_999]
    assert tokens.split("train").document(0).dtype == np.uint32
    assert len(tokens.split("validation")) == 0
    with pytest.raises(InputError, match="end_token 70000 is not one"):
        write_tokens([Document(id="a", text="AB")], Wide(), tmp_path / "b", end_token=70_000)


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import whorl.data.tokens
from test_tokens import Tokenizer, make_documents, write_tokens
whorl.data.tokens.CHUNK_DOCUMENTS = 20
if __name__ == "__main__":
    def slowly():
        for n, document in enumerate(make_documents()):
            time.sleep(0.01)
            yield document
    write_tokens(slowly(), Tokenizer.load(sys.argv[1]), sys.argv[2], shard_tokens=2000, workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_started_again_it_writes_the_same_bytes(
    tokenizer: Tokenizer, written: TokenSet, tmp_path: Path, workers: int
) -> None:
    script, out = tmp_path / "slow.py", tmp_path / "out"
    script.write_text(SLOW.format(tests=str(Path(__file__).parent), workers=workers), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(written.tokenizer_directory), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    journal = out / "tokens" / "progress.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and len(journal.read_bytes().splitlines()) >= 4):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError, match="to resume"):
        open_tokens(out)

    finished = {path: path.stat().st_mtime_ns for path in out.glob("tokens/*.documents.npy")}
    write_tokens(make_documents(), tokenizer, out, shard_tokens=2000)
    kept = [path for path, when in finished.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= 3  # what was finished was not done again
    assert contents(out) == contents(written.directory)


def test_running_again_over_finished_tokens_changes_nothing(
    tokenizer: Tokenizer, written: TokenSet, tmp_path: Path
) -> None:
    before = write_tokens(make_documents(), tokenizer, tmp_path, shard_tokens=2000)
    again = write_tokens(make_documents(), tokenizer, tmp_path, shard_tokens=2000)
    assert again.fingerprint == before.fingerprint == written.fingerprint


@pytest.mark.parametrize("change", ["more", "fewer", "other"])
def test_other_documents_are_not_mixed_with_the_old(
    tokenizer: Tokenizer, tmp_path: Path, change: str
) -> None:
    documents = make_documents(60)
    write_tokens(documents, tokenizer, tmp_path, shard_tokens=500)
    if change == "more":
        documents.append(Document(id="new", text="one more"))
    elif change == "fewer":
        documents.pop(0)
    else:
        documents[0] = Document(id=documents[0].id, text="other words")
    with pytest.raises(DataError, match=r"not those .* was started with; remove"):
        write_tokens(documents, tokenizer, tmp_path, shard_tokens=500)


def test_another_key_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokens(make_documents(5), tokenizer, tmp_path)
    with pytest.raises(InputError, match="made with a different parents"):
        write_tokens(make_documents(5), tokenizer, tmp_path, parents={"dataset": "abc"})
    with pytest.raises(DataError, match="no document has text, 1 were empty"):
        write_tokens([Document(id="a", text="")], tokenizer, tmp_path / "empty")


@pytest.mark.parametrize("suffix", [".npy", ".documents.npy", ".ids.npy", ".images.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_named(tokenizer: Tokenizer, tmp_path: Path, suffix: str, damage: str) -> None:
    write_tokens(make_documents(40), tokenizer, tmp_path)
    path = tmp_path / "tokens" / f"train-00000{suffix}"
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 16]) + whole[-2:])
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.unlink()
    with pytest.raises(DataError) as caught:
        open_tokens(tmp_path)
    assert str(path) in str(caught.value) and "tokenize" in str(caught.value)
    assert "\n" not in str(caught.value)
    if damage != "flip":
        with pytest.raises(DataError, match=r"train-00000"):
            open_tokens(tmp_path, verify=False)
    write_tokens(make_documents(40), tokenizer, tmp_path)  # the writer makes the damaged shard anew
    assert path.read_bytes() == whole
    open_tokens(tmp_path)


def test_manifests_of_the_future_and_of_nothing_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no finished tokens"):
        open_tokens(tmp_path)
    write_tokens(make_documents(5), tokenizer, tmp_path)
    path = tmp_path / "tokens" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(DataError, match="format 2 but this version reads up to 1"):
        open_tokens(tmp_path)
    del manifest["vocab_size"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="vocab_size"):
        open_tokens(tmp_path)


class Deadly:
    """A tokenizer whose worker process is killed at a certain text, as by the system for memory."""

    vocab_size, hash, end_ids = 300, "deadly", (0,)

    def has(self, token: str) -> bool:
        return False

    def id_of(self, token: str) -> int:
        raise KeyError(token)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if "die" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return [[1] for _ in texts]

    def save(self, directory: str | Path) -> None:
        Path(directory).mkdir(exist_ok=True)


def test_a_killed_worker_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(FaultError, match="fewer workers"):
        write_tokens([Document(id="a", text="die")], Deadly(), tmp_path, workers=2)


def test_half_a_surrogate_is_named_with_its_document(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [Document(id="a", text="fine"), Document(id="b", text="bad \ud800", source="x.txt", line=3)]
    with pytest.raises(
        DataError, match=r"document b \(x.txt:3\) contains half a surrogate pair at character 4"
    ):
        write_tokens(documents, tokenizer, tmp_path)


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_tokens import Tokenizer, make_documents, write_tokens
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    write_tokens(make_documents(), Tokenizer.load(sys.argv[1]), sys.argv[2], shard_tokens=2000)
"""


def test_a_full_disk_is_said_and_gone_on_from(
    tokenizer: Tokenizer, written: TokenSet, tmp_path: Path
) -> None:
    script, out = tmp_path / "full.py", tmp_path / "out"
    script.write_text(FULL.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    largest = max(path.stat().st_size for path in (written.directory / "tokens").glob("*.npy"))
    room = max(largest - 1, (written.tokenizer_directory / "tokenizer.json").stat().st_size)
    words = [sys.executable, str(script), str(written.tokenizer_directory), str(out), str(room)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode and "FaultError" in done.stderr and "has no space" in done.stderr
    write_tokens(make_documents(), tokenizer, out, shard_tokens=2000)
    assert contents(out) == contents(written.directory)


def test_the_verb_tokenises_a_dataset(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n, document in enumerate(make_documents(40)):
        (tmp_path / "in" / f"{n}.txt").write_text(document.text + f" number {n}", encoding="utf-8")
    code = "from whorl.cli.main import main; main()"

    def whorl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )

    dataset = tmp_path / "set"
    assert whorl("data", "run", str(tmp_path / "in"), "--out", str(dataset)).returncode == 0
    missing = whorl("data", "tokenize", str(dataset))
    assert missing.returncode == 2 and "give --tokenizer DIR" in missing.stderr
    tokenizer.save(tmp_path / "tok")
    done = whorl("data", "tokenize", str(dataset), "--tokenizer", str(tmp_path / "tok"), "--json")
    assert done.returncode == 0, done.stderr
    tokens = open_tokens(dataset)
    splits = tokens.manifest["splits"]
    assert json.loads(done.stdout)["splits"] == splits and splits["train"]["documents"] == len(
        tokens.split("train")
    )
    assert set(tokens.manifest["parents"]) == {"dataset"}
    ids = {document.id: document.text for document in read_dataset(dataset)}
    for name in tokens.splits:
        split = tokens.split(name)
        for number in range(len(split)):
            assert tokenizer.decode(split.document(number)[:-1].tolist()) == ids.pop(split.id(number))
    assert not ids
