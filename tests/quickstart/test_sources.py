"""Python's own files as documents, against the files themselves."""

import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from whorl.data.document import Document, Reject
from whorl.quickstart.sources import help_documents, python_documents


def parted(items) -> tuple[list[Document], list[Reject]]:
    items = list(items)
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def test_the_library_is_read_as_it_is() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    documents, rejects = parted(python_documents())
    sizes = Counter()
    for document in documents:
        sizes[document.meta["kind"]] += len(document.text.encode())
        assert document.text.endswith("\n") and "\0" not in document.text and "\r" not in document.text
        parts = Path(document.source).parts
        assert not {"test", "tests", "site-packages", "__pycache__"} & set(parts)
    assert sizes["source"] > 7_000_000 and sizes["topic"] > 300_000 and sizes["help"] > 50_000
    assert len({document.id for document in documents}) == len(documents)
    by_source = {document.source: document for document in documents}
    for name in ("textwrap.py", "json/__init__.py"):
        assert by_source[name].text == (root / name).read_text(encoding="utf-8")
        assert by_source[name].kind == "code"
    import pydoc_data.topics

    assert by_source["topics/lambda.txt"].text == pydoc_data.topics.topics["lambda"]
    assert "math.sqrt(x, /)\n    Return the square root of x.\n" in by_source["help/math.txt"].text
    assert {reject.reason for reject in rejects} <= {"generated", "empty", "encoding"}
    accounted = {document.source for document in documents} | {reject.source for reject in rejects}
    assert {path.name for path in root.glob("*.py")} <= accounted


def test_every_run_gives_the_same_documents() -> None:
    code = (
        "from whorl.quickstart.sources import python_documents as d; import hashlib; h = hashlib.sha256()\n"
        "[h.update(repr((type(x).__name__, x.source, getattr(x, 'text', ''))).encode()) for x in d()]\n"
        "print(h.hexdigest())"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout


def test_what_cannot_be_read_is_kept_aside_with_its_reason(tmp_path) -> None:
    (tmp_path / "good.py").write_text('"""Good."""\r\ndef f(x):\r\n    "Do f."\r\n')
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "nul.py").write_text("x = '\0'\n")
    (tmp_path / "table.py").write_text("# Generated from mapping.txt\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_good.py").write_text("1\n")
    documents, rejects = parted(python_documents(tmp_path))
    sources = [document.source for document in documents if document.meta["kind"] == "source"]
    assert sources == ["broken.py", "good.py"]
    reasons = {reject.source: reject.reason for reject in rejects}
    assert reasons == {
        "latin.py": "encoding",
        "empty.py": "empty",
        "nul.py": "binary",
        "table.py": "generated",
        "pydoc_data/topics.py": "missing",
    }
    (helped,), rejects = parted(help_documents(tmp_path))
    assert helped.text == "good\n    Good.\n\ngood.f(x)\n    Do f.\n"
    assert {reject.source: reject.reason for reject in rejects}["broken.py"] == "syntax"
