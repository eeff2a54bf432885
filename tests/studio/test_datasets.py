"""The data's pages over a dataset that `whorl.data` made of real files, with a run that was trained on it."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.studio.conftest import PHONE, StudioProcess, serious_faults
from whorl.base.config import Config
from whorl.base.errors import DataError
from whorl.base.files import read_json, sha256_file
from whorl.base.lineage import trace_back
from whorl.base.logbook import Logbook
from whorl.data.config import SplitConfig
from whorl.data.dataset import read_dataset, read_rejects
from whorl.data.document import Document
from whorl.data.pipeline import Report, run
from whorl.data.steps import Annotate, ExactDedup, Keep, Split
from whorl.data.tokens import write_tokens
from whorl.serve.api.errors import ApiError
from whorl.studio.datasets.figures import SAMPLED, funnel, histogram, histograms, spread
from whorl.studio.datasets.finding import Datasets
from whorl.studio.datasets.samples import PAGE, kept, rejects
from whorl.text.bpe import train_bpe

WORDS = ("the", "of", "and", "to", "in", "that", "is", "was", "he", "for", "it", "with", "as", "his")
WEIGHTS = "5eed" * 16
LINES = "rps_lines_num_words"
SIGNALS_KEPT = (
    "rps_doc_word_count",
    "rps_doc_mean_word_length",
    "rps_doc_lorem_ipsum",
    "rps_lines_num_words",
)


def long_enough(document: Document) -> str | None:
    return None if len(document.text) > 60 else "too short"


class Settings(Config):
    rate: float = 1.0


def records(count: int) -> list[dict[str, str]]:
    dice = random.Random(5)
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(4, 120))) + f" {number}." for number in range(count)]
    texts += texts[:9]
    texts += ["<script>document.title = 'taken'</script> " + " ".join(WORDS)]
    return [{"text": text} for text in ["short <b>one</b>", *texts]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data in a workspace")
    raw = folder / "raw"
    raw.mkdir()
    lines = [json.dumps(record) for record in records(70)]
    (raw / "texts.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    (raw / "picture.bin").write_bytes(bytes(range(256)))
    steps = [
        *(Annotate(name, name) for name in SIGNALS_KEPT),
        Keep("long_enough", long_enough),
        ExactDedup(), Split(SplitConfig(validation=0.1)),
    ]  # fmt: skip
    data = folder / "data" / "small set"
    run(raw, steps, data)
    tokenizer = train_bpe((document.text for document in read_dataset(data)), 300)
    tokenizer.save(data / "tokenizer")
    parents = {"dataset": sha256_file(data / "manifest.json")}
    tokens = write_tokens(read_dataset(data), tokenizer, data, parents=parents)
    with Logbook(folder / "runs" / "base") as book:
        book.config(Settings(), {str(data): tokens.fingerprint})
        book.event("exported", path=str(folder / "runs" / "base" / "model"), weights=WEIGHTS, step=3)
        book.event("finish", step=3)
    (folder / "data" / "going" / "work").mkdir(parents=True)
    (folder / "data" / "going" / "work" / "plan.json").write_text("{}")
    broken = folder / "data" / "broken"
    (broken / "documents").mkdir(parents=True)
    (broken / "manifest.json").write_text("{oops")
    lacking = folder / "data" / "lacking"
    (lacking / "documents").mkdir(parents=True)
    (lacking / "manifest.json").write_text('{"format": 1, "read": 3}')
    (folder / "export").mkdir()
    (folder / "export" / "manifest.json").write_text('{"format": 1}')  # of votes: no dataset
    return folder


@pytest.fixture(scope="module")
def dataset(workspace: Path) -> Path:
    return workspace / "data" / "small set"


def test_the_funnel_is_the_reports(dataset: Path) -> None:
    manifest = read_json(dataset / "manifest.json")
    report = Report.of(dataset)
    stages = funnel(manifest)
    assert [stage.name for stage in stages] == ["read", "long_enough", "exact"]
    assert stages[0].left == report.read and stages[-1].left == report.documents
    assert {stage.name: dict(stage.reasons) for stage in stages} == report.reasons
    assert stages[1].left == report.read - stages[1].lost


def test_tokens_beside_the_dataset_are_its_own_if_made_from_it(tmp_path: Path, dataset: Path) -> None:
    """As the quickstart lays them: data/dataset, and data/tokens/tokens."""
    shutil.copytree(dataset, tmp_path / "data" / "dataset")
    (tmp_path / "data" / "tokens").mkdir()
    (tmp_path / "data" / "dataset" / "tokens").rename(tmp_path / "data" / "tokens" / "tokens")
    found = Datasets(tmp_path).find("data/dataset")
    assert found.tokens is not None and found.splits["train"]["tokens"] > 0
    manifest = tmp_path / "data" / "dataset" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert Datasets(tmp_path).find("data/dataset").tokens is None


def test_histograms_count_every_document(dataset: Path) -> None:
    manifest = read_json(dataset / "manifest.json")
    found = histograms(dataset, manifest)
    assert found["read"] == found["all"] == manifest["documents"]
    plots = {plot["title"]: plot for plot in found["plots"]}
    values = {name: [d.signals[name] for d in read_dataset(dataset)] for name in SIGNALS_KEPT}
    for name in ("rps_doc_word_count", "rps_doc_mean_word_length"):
        plot = plots[name]
        assert sum(plot["counts"]) + plot["beyond"] == manifest["documents"]
        assert plot["middle"] == pytest.approx(np.median(values[name]))
        least, most = (
            sum(value < plot["edges"][3] + slack for value in values[name]) for slack in (-1e-3, 1e-3)
        )
        assert least <= sum(plot["counts"][:3]) <= most
    assert ("rps_doc_lorem_ipsum", "0") in found["same"]
    means = [np.mean([span.score for span in spans]) for spans in values[LINES]]
    assert plots[LINES]["middle"] == pytest.approx(np.median(means))


def test_a_long_tail_does_not_hide_the_rest() -> None:
    values = np.concatenate([np.linspace(0, 10, 1000), [1e6, 2e6]])
    plot = histogram("x", values)
    assert plot["beyond"] == 2 and plot["edges"][-1] < 100 and sum(plot["counts"]) == 1000


def test_of_very_many_documents_some_are_read(tmp_path: Path) -> None:
    """Row groups over the whole file, about as many documents as are wanted."""
    rows, groups = 400_000, 80
    (tmp_path / "signals").mkdir()
    table = pa.table({"id": [""] * rows, "count": np.arange(rows, dtype=np.float64)})
    pq.write_table(table, tmp_path / "signals" / "part.parquet", row_group_size=rows // groups)
    found = histograms(tmp_path, {"files": {"signals/part.parquet": {"rows": rows}}})
    assert found["all"] == rows and 0.5 * SAMPLED <= found["read"] <= 1.5 * SAMPLED
    assert found["plots"][0]["middle"] == pytest.approx(rows / 2, rel=0.05)
    with pq.ParquetFile(tmp_path / "signals" / "part.parquet") as file:
        assert spread(file, 10**9) == list(range(groups)) and spread(file, 1) == [0]


def test_pages_of_what_was_kept_are_the_dataset_in_order(dataset: Path) -> None:
    manifest = read_json(dataset / "manifest.json")
    pages = -(-manifest["documents"] // PAGE)
    found = [one for page in range(1, pages + 1) for one in kept(dataset, manifest, page)]
    documents = list(read_dataset(dataset))
    assert [one["id"] for one in found] == [document.id for document in documents]
    assert [one["start"] + one["rest"] for one in found] == [document.text for document in documents]
    told = dict(found[0]["signals"])
    assert told["rps_doc_word_count"] == f"{documents[0].signals['rps_doc_word_count']:.4g}"
    assert kept(dataset, manifest, pages + 1) == []


@pytest.mark.parametrize(
    ("step", "reason"), [("", ""), ("exact", ""), ("long_enough", "too short"), ("x", "y")]
)
def test_pages_of_what_was_set_aside(dataset: Path, step: str, reason: str) -> None:
    manifest = read_json(dataset / "manifest.json")
    wanted = [
        (one["step"], one["reason"], one["line"]) for one in read_rejects(dataset)
        if step in ("", one["step"]) and reason in ("", one["reason"])
    ]  # fmt: skip
    found, after = [], "0.0"
    while after:
        page = rejects(dataset, manifest, step, reason, after)
        assert len(page.records) <= PAGE and not page.searched
        found += [(one["step"], one["reason"], one["line"]) for one in page.records]
        after = page.after
    assert found == wanted and (step == "x" or wanted)


def test_a_search_for_a_rare_reason_ends(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.studio.datasets.samples.SEARCHED", 2000)
    manifest = read_json(dataset / "manifest.json")
    page = rejects(dataset, manifest, "nothing", "", "")
    assert page.searched and page.after and not page.records
    for _ in range(50):
        if not page.after:
            break
        page = rejects(dataset, manifest, "nothing", "", page.after)
    assert page.after == ""


def test_the_list_and_the_pages(studio: StudioProcess) -> None:
    with studio.admin() as admin:
        listed = admin.get("/data").text
        assert "/data/data/small%20set" in listed and "unfinished" in listed and "damaged" in listed
        assert "export" not in re.findall(r'href="/data/([^"]*)"', listed)
        page = admin.get("/data/data/small%20set?step=long_enough&reason=too+short").text
        assert "too short" in page and "short &lt;b&gt;one&lt;/b&gt;" in page and "<b>one" not in page
        assert "By split: train" in page
        assert "not valid JSON" in admin.get("/data/data/broken").text
        assert "unfinished" in admin.get("/data/data/going").text
        assert "has no documents; rebuild the dataset" in admin.get("/data/data/lacking").text


def test_signals_come_after_the_page(studio: StudioProcess, dataset: Path) -> None:
    expected = histograms(dataset, read_json(dataset / "manifest.json"))
    with studio.admin() as admin:
        told = admin.get("/api/data/signals", params={"data": "data/small set"}).json()
        assert told["plots"] == expected["plots"] and told["same"] == [list(one) for one in expected["same"]]
        assert f"Over all {expected['all']} documents" in told["html"]
        for way, status in (("data/going", 400), ("../outside", 404), ("data/none", 404)):
            assert admin.get("/api/data/signals", params={"data": way}).status_code == status, way


def test_no_document_has_signals() -> None:
    from whorl.studio.web.pages import Pages

    drawn = {"plots": [], "same": [], "read": 0, "all": 0, "first_plots": 6}
    assert "No document has signals." in (html := Pages().part("dataset_signals.html", **drawn))
    assert "Over all" not in html


def test_a_dataset_whose_files_are_gone_says_so(tmp_path: Path, dataset: Path) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    for part in (tmp_path / "copy" / "signals").iterdir():
        part.write_bytes(part.read_bytes()[:100])
    manifest = read_json(dataset / "manifest.json")
    with pytest.raises(DataError, match="its signals cannot be read"):
        histograms(tmp_path / "copy", manifest)
    shutil.rmtree(tmp_path / "copy" / "documents")
    with pytest.raises(DataError, match="cannot be read"):
        kept(tmp_path / "copy", manifest, 1)
    [file] = (tmp_path / "copy" / "rejects").glob("part-*")
    file.write_text("{oops\n")
    with pytest.raises(DataError, match="not a reject's record"):
        rejects(tmp_path / "copy", manifest, "long_enough", "", "")


def test_texts_are_shown_as_texts(studio: StudioProcess, dataset: Path) -> None:
    place = [d.text.startswith("<script>") for d in read_dataset(dataset)].index(True)
    with studio.admin() as admin:
        page = admin.get(f"/data/data/small%20set?page={place // PAGE + 1}").text
    assert "&lt;script&gt;document.title" in page and "<script>document.title" not in page


def test_only_datasets_of_the_workspace_can_be_seen(studio: StudioProcess, workspace: Path) -> None:
    outside = workspace.parent / "outside"
    shutil.copytree(workspace / "data" / "small set", outside, dirs_exist_ok=True)
    (workspace / "linked").symlink_to(outside)
    with studio.admin() as admin:
        ways = ("../outside", "%2e%2e/outside", "linked", "none", "export", "raw", "/etc", "x%00")
        for way in ways:
            assert admin.get(f"/data/{way}").status_code == 404, way
        assert "linked" not in admin.get("/data").text
    with httpx.Client(base_url=studio.address, trust_env=False) as stranger:
        for path in (
            "/data",
            "/data/data/broken",
            f"/data/trace/{WEIGHTS}",
            f"/api/data/trace/{WEIGHTS}",
            "/api/data/signals?data=data/broken",
        ):
            assert stranger.get(path).status_code == 401, path
    with pytest.raises(ApiError):
        Datasets(workspace).find("../outside")


def test_weights_lead_back_to_their_documents(studio: StudioProcess, workspace: Path) -> None:
    expected = trace_back(WEIGHTS, workspace).to_json()
    kinds, one = [], expected
    while one:
        kinds.append(one["kind"])
        one = next(iter(one["origins"]), None)
    assert kinds == ["weights", "run", "tokens", "dataset", "file"]
    with studio.admin() as admin:
        assert admin.get(f"/api/data/trace/{WEIGHTS}").json()["origin"] == expected
        page = admin.get(f"/data/trace/{WEIGHTS[:12]}").text
        links = re.findall(r'class="origin">.*?href="([^"]+)"', page)
        assert links == ["/runs/base", "/data/data/small%20set", "/data/data/small%20set"]
        for link in links:
            assert admin.get(link).status_code == 200
        unknown = admin.get("/data/trace/" + "0" * 12)
        assert unknown.status_code == 404 and "has exported weights" in unknown.text
        run_page = admin.get("/runs/base").text
        assert f"/data/trace/{WEIGHTS}" in run_page and 'href="/data/data/small%20set"' in run_page


# -- in a browser ------------------------------------------------------------------------------------


def test_a_dataset_is_looked_through(open_page: Any, dataset: Path) -> None:
    page = open_page("/data")
    page.get_by_role("link", name="data/small set").click()
    signal = page.locator("bar-plot").first
    stage = signal.get_by_role("slider")
    stage.scroll_into_view_if_needed()
    stage.focus()
    page.keyboard.press("Home")
    assert "documents" in stage.get_attribute("aria-valuetext")
    stage.hover()
    assert "%" in signal.locator(".plot-tip").inner_text()
    assert serious_faults(page) == []
    page.get_by_label("Pages of kept documents").get_by_role("link", name="Next").click()
    page.get_by_text("page 2 of").wait_for()
    page.get_by_label("Reason").select_option("too short")
    page.get_by_role("button", name="Show").press("Enter")
    page.get_by_text("short <b>one</b>").wait_for()
    assert page.title() != "taken" and serious_faults(page) == []


def test_a_trace_is_asked_for(open_page: Any) -> None:
    page = open_page("/data")
    page.get_by_label("Where do these weights come from?").fill(WEIGHTS)
    page.get_by_label("Where do these weights come from?").press("Enter")
    page.get_by_text("texts.jsonl").first.wait_for()
    assert serious_faults(page) == []
    page.locator("#trace").get_by_role("link", name="base").click()
    page.wait_for_url("**/runs/base")


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"color_scheme": "dark"}], ids=["phone", "dark"])
def test_pages_at_other_sizes_and_colours(open_page: Any, options: dict[str, Any]) -> None:
    for way in ("/data", "/data/data/small%20set", "/data/data/broken", f"/data/trace/{WEIGHTS}"):
        page = open_page(way, **options)
        assert serious_faults(page) == [], way
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), way
        for card in page.get_by_role("region", name="What each step kept").all():
            assert card.evaluate("one => one.scrollWidth <= one.clientWidth")
