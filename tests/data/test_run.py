"""The run over real processes: the same dataset on any number of workers, after kill -9 at any
stage, after a lost worker, a full disk; nothing dropped in silence; memory bounded."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import read_json, sha256_file
from whorl.base.nouns import ImagePart
from whorl.data import (
    Annotate,
    DataConfig,
    Document,
    ExactDedup,
    Inputs,
    Keep,
    MinHashConfig,
    NearDedup,
    ReadConfig,
    Reject,
    Report,
    Span,
    Split,
    SplitConfig,
    open_manifest,
    read,
    read_dataset,
    read_rejects,
    run,
    run_config,
    verify_dataset,
)
from whorl.data.pool import Pool

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("WHORL_TEST_DATA") or ROOT / "../shared/data")
WHOLE = [ExactDedup(), NearDedup(), Split(SplitConfig(validation=0.1))]

FUNCTIONS = """
import os, signal, time
from whorl.data import Span

def count(document):
    return float(len(document.words))

def capitals(document):
    return [Span(i, i + 1, 1.0) for i, c in enumerate(document.text[:50]) if c.isupper()]

def few(document):
    return "few_words" if len(document.words) < 5 else None

def slow(document):
    time.sleep(0.004)

def broken(document):
    return 1 / (len(document.words) - 7)

def dies_once(document):
    flag = os.environ["DIES_FLAG"]
    if "poison" in document.text and not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

def dies(document):
    if "poison" in document.text:
        os.kill(os.getpid(), signal.SIGKILL)

def mixed(document):
    return 1.0 if "a" in document.text else [Span(0, 1, 1.0)]
"""


def tree(directory: Path) -> dict[str, str]:
    """Every file under a directory with its hash."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_file(path) for path in paths}


def corpus(folder: Path, count: int = 240, seed: int = 0) -> Path:
    """A folder of real shapes: jsonl over several units, text, code, duplicates, damage, an image row."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)

    def text() -> str:
        return " ".join(f"word{rng.randrange(4000)}" for _ in range(rng.randint(3, 60)))

    rows = [text() for _ in range(count)]
    rows += [rows[n] for n in range(0, count, 10)]  # exact duplicates
    rows += [rows[n] + " more" for n in range(1, count, 15)]  # near ones
    rng.shuffle(rows)
    lines = [json.dumps({"text": row, "number": n}) for n, row in enumerate(rows)]
    lines.insert(7, "{broken")
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "note.txt").write_text(text() + "\n", encoding="utf-8")
    (folder / "same.txt").write_text(rows[3], encoding="utf-8")
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (folder / "code.py").write_text("def f():\n    return 'a b c d e f'\n", encoding="utf-8")
    (folder / "picture.bin").write_bytes(b"\0\1")
    return folder


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(textwrap.dedent(FUNCTIONS), encoding="utf-8")
    return path


def steps(functions: Path, *extra: Any) -> list[Any]:
    return [
        Annotate("count", f"{functions}:count"),
        Annotate("capitals", f"{functions}:capitals"),
        Keep("few", f"{functions}:few"),
        *extra,
        *WHOLE,
    ]


def test_everything_read_is_kept_or_set_aside_with_a_reason(tmp_path: Path, functions: Path) -> None:
    folder = corpus(tmp_path / "in")
    report = run(Inputs((str(folder),), piece_bytes=8000), steps(functions), tmp_path / "out")
    found = list(read(folder))
    documents = {item.id: item for item in found if isinstance(item, Document)}
    kept = list(read_dataset(tmp_path / "out", verify=True))
    rejects = list(read_rejects(tmp_path / "out"))

    assert report.read == len(documents)
    assert report.documents == len(kept)
    aside = [record["document"]["id"] for record in rejects if "document" in record]
    assert sorted([d.id for d in kept] + aside) == sorted(documents)
    unread = Counter((r.source, r.line, r.reason) for r in found if isinstance(r, Reject))
    assert Counter((r["source"], r["line"], r["reason"]) for r in rejects if r["step"] == "read") == unread
    counted = {step: dict(sorted(counts.items())) for step, counts in report.reasons.items()}
    recount: dict[str, Counter[str]] = {}
    for record in rejects:
        recount.setdefault(record["step"], Counter())[record["reason"]] += 1
    assert counted == {step: dict(sorted(counts.items())) for step, counts in recount.items()}
    assert set(counted) == {"read", "few", "exact", "near"}

    order = list(documents)
    assert [order.index(d.id) for d in kept] == sorted(order.index(d.id) for d in kept)
    for document in kept:
        original = documents[document.id]
        for name in ("text", "source", "line", "meta", "title", "kind"):
            assert getattr(document, name) == getattr(original, name)
        assert document.signals["count"] == len(original.words)
        assert document.signals["capitals"] == [
            Span(i, i + 1, 1.0) for i, c in enumerate(original.text[:50]) if c.isupper()
        ]
    by_id = {d.id: d for d in kept}
    for record in rejects:
        if record["step"] in ("exact", "near"):
            other = by_id[record["detail"].removeprefix("of document ")]
            assert order.index(other.id) < order.index(record["document"]["id"])
            assert set(record["document"]["text"].split()) & set(other.text.split())
        if record["step"] == "few":
            assert record["document"]["signals"]["count"] < 5
    broken = next(record for record in rejects if record["reason"] == "broken-json")
    assert broken["text"].rstrip("\n") == "{broken"
    assert next(record for record in rejects if record["reason"] == "encoding")["base64"] == "//76"
    assert report.splits["validation"] == len(list(read_dataset(tmp_path / "out", split="validation"))) > 0
    assert f"{report.documents:,} documents kept" in report.lines()[-1]
    assert not (tmp_path / "out/work").exists()


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, functions: Path) -> None:
    source = Inputs((str(corpus(tmp_path / "in")),), piece_bytes=3000)
    for workers in (1, 3):
        run(source, steps(functions), tmp_path / f"out{workers}", workers=workers)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out3")
    assert sum(name.startswith("documents/") for name in tree(tmp_path / "out1")) > 3


def test_the_same_again_does_nothing_and_another_is_refused(tmp_path: Path, functions: Path) -> None:
    folder = corpus(tmp_path / "in")
    first = run(folder, steps(functions), tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run(folder, steps(functions), tmp_path / "out") == first == Report.of(tmp_path / "out")
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    for other in (WHOLE, steps(functions)[:2]):
        with pytest.raises(InputError, match="made from other inputs"):
            run(folder, other, tmp_path / "out")
    (folder / "note.txt").write_text("changed")
    with pytest.raises(InputError, match="made from other inputs"):
        run(folder, steps(functions), tmp_path / "out")


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "whorl", "data", "run", str(recipe)]


def recipe_of(tmp_path: Path, functions: Path, folder: Path, out: Path, workers: int) -> Path:
    path = tmp_path / f"{out.name}.toml"
    path.write_text(
        f"""
        paths = ["{folder}"]
        out = "{out}"
        workers = {workers}
        piece_bytes = 2000
        signals = ["{functions}:count"]
        filters = ["{functions}:few", "{functions}:slow"]
        [split]
        validation = 0.1
        """,
        encoding="utf-8",
    )
    return path


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> bool:
    """True once the condition holds; False where the process ends first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_killed_at_any_stage_it_goes_on_to_the_same_bytes(
    tmp_path: Path, functions: Path, workers: int
) -> None:
    folder = corpus(tmp_path / "in", count=120)
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(
        command(recipe_of(tmp_path, functions, folder, whole, 1)), check=True, capture_output=True, cwd=ROOT
    )
    recipe = recipe_of(tmp_path, functions, folder, out, workers)
    units = len(list((whole / "documents").iterdir()))
    assert units > 8

    def count(pattern: str) -> int:
        return len(list(out.glob(pattern)))

    moments = [
        lambda: (out / "work/plan.json").exists(),
        lambda: count("work/units/*/done.json") >= 2,
        lambda: count("work/units/*/done.json") >= units - 3,
        lambda: (out / "work/decisions.bin").exists(),
        lambda: count("work/final/*.json") >= 3,
    ]
    killed = 0
    for moment in moments:
        process = subprocess.Popen(
            command(recipe), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        if wait_for(moment, process):
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 3
    done = subprocess.run(command(recipe), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(whole)


def test_a_lost_worker_costs_its_piece_and_is_done_again(
    tmp_path: Path, functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = corpus(tmp_path / "in")
    (folder / "poison.txt").write_text("this is the poison that kills one worker", encoding="utf-8")
    monkeypatch.setenv("DIES_FLAG", str(tmp_path / "flag"))
    source = Inputs((str(folder),), piece_bytes=3000)
    run(source, steps(functions, Keep("dies", f"{functions}:dies_once")), tmp_path / "out", workers=2)
    assert (tmp_path / "flag").exists()
    run(source, steps(functions, Keep("dies", f"{functions}:dies_once")), tmp_path / "calm", workers=2)
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


def test_a_piece_that_kills_every_worker_is_named_and_the_rest_is_done(
    tmp_path: Path, functions: Path
) -> None:
    folder = corpus(tmp_path / "in")
    (folder / "zz-poison.txt").write_text("poison " * 400, encoding="utf-8")
    source = Inputs((str(folder),), piece_bytes=2500)
    with pytest.raises(FaultError, match=r"zz-poison\.txt") as caught:
        run(source, steps(functions, Keep("dies", f"{functions}:dies")), tmp_path / "out", workers=2)
    assert "\n" not in str(caught.value)
    planned = read_json(tmp_path / "out/work/plan.json")
    assert planned
    done = list((tmp_path / "out/work/units").glob("*/done.json"))
    assert len(done) > 5 and not list((tmp_path / "out/work/units").glob("*.part/done.json"))
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_full_disk_is_one_line_and_the_same_call_goes_on(tmp_path: Path, functions: Path) -> None:
    folder = corpus(tmp_path / "in")
    out, calm = tmp_path / "out", tmp_path / "calm"
    code = (
        "import resource, sys; from whorl.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); main(sys.argv[1:])"
    )
    words = ["data", "run", str(folder), "--out", str(out), "--piece-bytes", "4000"]
    full = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    last = full.stderr.strip().splitlines()[-1]
    assert last.startswith("whorl: ") and "too large" in last and "again" in last
    assert "Traceback" not in full.stderr
    words[4] = str(out)
    subprocess.run([sys.executable, "-m", "whorl", *words], cwd=ROOT, check=True, capture_output=True)
    words[4] = str(calm)
    subprocess.run([sys.executable, "-m", "whorl", *words], cwd=ROOT, check=True, capture_output=True)
    assert tree(out) == tree(calm)


def test_the_sink_may_lie_among_the_inputs(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "in")
    report = run(folder, WHOLE, folder / "dataset")
    assert run(folder, WHOLE, folder / "dataset") == report


def test_places_that_cannot_be_a_dataset(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "in")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        run(folder, WHOLE, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        run(folder, WHOLE, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder is empty"):
        run(tmp_path / "empty", WHOLE, tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path / "nowhere", WHOLE, tmp_path / "out")


def test_inputs_of_which_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(b"\xff")
    report = run(tmp_path / "in", WHOLE, tmp_path / "out")
    assert (report.read, report.documents) == (0, 0)
    assert list(read_dataset(tmp_path / "out")) == []
    assert [record["reason"] for record in read_rejects(tmp_path / "out")] == ["encoding"]


def test_steps_that_do_not_fit(tmp_path: Path, functions: Path) -> None:
    folder = corpus(tmp_path / "in", count=10)
    cases: list[tuple[list[Any], str]] = [
        ([ExactDedup(), Keep("few", f"{functions}:few")], "is out of order"),
        ([Split(), Split()], "only one step of its kind"),
        ([Keep("few", f"{functions}:few"), Keep("few", f"{functions}:count")], "two steps named"),
        ([Keep("few", lambda document: None)], "cannot be sent"),
        ([Keep("few", f"{functions}:feww")], "did you mean few"),
        ([Keep("gopher_qualty")], "did you mean gopher_quality"),
        ([Annotate("rps_doc_word_cuont")], "did you mean rps_doc_word_count"),
        ([Keep("x", "nowhere.py:f")], "nowhere.py"),
        (["exact"], "is not a step"),
    ]
    for unfit, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            run(folder, unfit, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_that_fails_is_named_with_its_document(
    tmp_path: Path, functions: Path, workers: int
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in (("a", "one two"), ("b", "one two three four five six seven"), ("c", "one")):
        (folder / f"{name}.txt").write_text(text + " " * 2000)
    with pytest.raises(
        DataError, match=r"step 'broken' failed on document \w+ \(.*b\.txt:1\): ZeroDivisionError"
    ):
        run(Inputs((str(folder),), piece_bytes=2000), [Annotate("broken", f"{functions}:broken")],
            tmp_path / "out", workers=workers)  # fmt: skip


def test_a_signal_is_a_number_or_spans_and_not_both(tmp_path: Path, functions: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("a", "a b"), ("b", "c d")):
        (tmp_path / f"in/{name}.txt").write_text(text + " " * 2000)
    for piece_bytes in (1 << 20, 2000):  # in one unit, and each in its own
        with pytest.raises(DataError, match="signal 'mixed' gave"):
            source = Inputs((str(tmp_path / "in"),), piece_bytes=piece_bytes)
            run(source, [Annotate("mixed", f"{functions}:mixed")], tmp_path / f"out{piece_bytes}")


def test_images_come_back(tmp_path: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (1, 2, 3)).save(buffer, "PNG")
    image = ImagePart(data=buffer.getvalue())
    rows = [{"text": f"a picture number {n}", "image": image.to_data_uri()} for n in range(4)] * 2
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(path, WHOLE, tmp_path / "out")
    documents = list(read_dataset(tmp_path / "out"))
    assert report.reasons == {"exact": {"duplicate": 4}}
    assert [d.images for d in documents] == [(image,)] * 4
    assert len({d.split for d in documents}) == 1  # they share an image
    (first, *_) = read_rejects(tmp_path / "out")
    assert ImagePart.from_data_uri(first["document"]["images"][0]) == image


def test_a_changed_or_missing_file_is_found(tmp_path: Path) -> None:
    run(corpus(tmp_path / "in"), WHOLE, tmp_path / "out")
    verify_dataset(tmp_path / "out")
    part = next((tmp_path / "out/documents").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DataError, match=r"part-000000\.parquet has changed"):
        list(read_dataset(tmp_path / "out", verify=True))
    part.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"part-000000\.parquet"):
        list(read_dataset(tmp_path / "out"))
    part.unlink()
    with pytest.raises(DataError, match="is missing"):
        verify_dataset(tmp_path / "out")
    manifest = open_manifest(tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        open_manifest(tmp_path / "out")
    with pytest.raises(InputError, match="not a finished dataset"):
        list(read_dataset(tmp_path))


def test_real_files_through_the_known_signals_and_filters(tmp_path: Path) -> None:
    if not (SHARED / "conversations.json").exists():
        pytest.skip(f"no {SHARED}")
    config = DataConfig(
        paths=(str(SHARED),), out=str(tmp_path / "out"),
        signals=("rps_doc_word_count", "rps_lines_num_words"),
        filters=("gopher_quality",), read=ReadConfig(text_fields=("question", "answer")),
        minhash=MinHashConfig(verify=0.7), workers=2, piece_bytes=1 << 20,
    )  # fmt: skip
    report = run_config(config)
    assert report.read == 7473 + 1319 + 500 + 4  # gsm8k, conversations, three texts and the README
    assert report.reasons["read"]["missing-text"] == 164 + 80 + 30 + 1
    assert (
        report.documents + sum(sum(c.values()) for s, c in report.reasons.items() if s != "read")
        == report.read
    )
    for document in read_dataset(tmp_path / "out", split="validation"):
        assert document.signals["rps_doc_word_count"] == len(document.words)


def test_the_pool_gives_every_result_once_and_goes_on_after_an_error() -> None:
    with Pool(2) as pool:
        assert dict(pool.run(abs, [-3, -2, -1])) == {0: 3, 1: 2, 2: 1}
        assert list(pool.run(abs, [])) == []
        with pytest.raises(RuntimeError, match="TypeError: bad operand"):
            list(pool.run(abs, [1, "x", 2, 3]))
        assert dict(pool.run(abs, range(-5, 5))) == {n: abs(n - 5) for n in range(10)}
        with pytest.raises(FaultError, match="died twice on 0"):
            dict(pool.run(os._exit, [0, 0]))
        assert dict(pool.run(abs, [-1, -2])) == {0: 1, 1: 2}


@pytest.mark.soak
def test_killed_again_and_again_at_random(tmp_path: Path, functions: Path) -> None:
    folder = corpus(tmp_path / "in", count=1500)
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(recipe_of(tmp_path, functions, folder, whole, 1)), check=True, cwd=ROOT)
    recipe = recipe_of(tmp_path, functions, folder, out, 3)
    rng = random.Random(0)
    kills = 0
    while kills < 40:
        process = subprocess.Popen(command(recipe), cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.5))
            break  # it got through between two kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    subprocess.run(command(recipe), check=True, cwd=ROOT)
    assert kills > 3
    assert tree(out) == tree(whole)


@pytest.mark.soak
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = [f"word{n}" for n in range(20_000)]
    peaks = []
    for megabytes in (10, 120):
        path = tmp_path / f"{megabytes}.jsonl"
        with open(path, "w") as file:
            while file.tell() < megabytes << 20:
                file.write(json.dumps({"text": " ".join(rng.choices(words, k=300))}) + "\n")
        code = (
            "import resource, sys; from whorl.data import Annotate, ExactDedup, NearDedup, Split, run;"
            "steps = [Annotate('rps_doc_word_count'), ExactDedup(), NearDedup(), Split()];"
            "run(sys.argv[1], steps, sys.argv[2]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)"
        )
        out = tmp_path / f"out{megabytes}"
        done = subprocess.run([sys.executable, "-c", code, str(path), str(out)], cwd=ROOT, check=True,
                              capture_output=True, text=True)  # fmt: skip
        peaks.append(int(done.stdout))
        shutil.rmtree(out)
    # 40,000 more documents: 40 MB of sketches in mapped files, which count while they are looked at
    assert peaks[1] < peaks[0] + 100, peaks
