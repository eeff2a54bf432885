"""The look-up in Python's documentation against `inspect` on the living objects."""

import importlib
import inspect
import pydoc_data.topics
import subprocess
import sys

import pytest

from whorl.tools import PythonDocs, first_sentence, lookup_tool

DOCS = PythonDocs()


@pytest.mark.parametrize(
    "name",
    [
        "textwrap.dedent", "json.loads", "json.JSONEncoder", "json.JSONEncoder.default", "os.path.join",
        "math.sqrt", "cmath.phase", "collections.Counter.most_common", "asyncio.run", "textwrap",
        "logging.Logger.info", "collections.abc.Mapping.get", "concurrent.futures.Future.result",
    ],
)  # fmt: skip
def test_first_sentence_is_the_living_objects(name: str) -> None:
    entry = DOCS.find(name)
    assert entry is not None and entry.name == name
    module, value = name, None
    while module:  # the longest importable prefix, then attributes
        try:
            value = importlib.import_module(module)
            break
        except ImportError:
            module = module.rpartition(".")[0]
    for part in name[len(module) :].strip(".").split(".") if name != module else []:
        value = getattr(value, part)
    assert entry.sentence == first_sentence(inspect.getdoc(value) or "")[0] != ""


def test_builtins_and_their_methods() -> None:
    for name, value in (("len", len), ("str.split", str.split), ("builtins.sorted", sorted), ("len()", len)):
        entry = DOCS.find(name)
        assert entry is not None and entry.sentence == first_sentence(inspect.getdoc(value) or "")[0]


def test_topics_are_found_after_names() -> None:
    entry = DOCS.find("lambda")
    assert entry is not None and entry.sentence.startswith("Lambda expressions")
    assert entry.sentence.split()[0] in pydoc_data.topics.topics["lambda"]
    numbers = DOCS.find("numbers")  # a module and a topic
    assert numbers is not None and numbers.where == "numbers.py:1"
    listed = [entry.name for entry in DOCS.entries()]
    assert "lambda" in listed and len(listed) == len(set(listed))


def test_a_signature_in_a_docstring_is_not_its_sentence() -> None:
    entry = DOCS.find("itertools.chain")  # a C class that begins its docstring with how it is called
    assert entry is not None and entry.sentence.startswith("Return a chain object")
    assert entry.signature == "chain(*iterables)"


@pytest.mark.parametrize(
    "name", ["", ".", "nope", "os.nope", "textwrap.dedent.x", "..", "test.support", "/etc/passwd"]
)
def test_unknown_names(name: str) -> None:
    assert DOCS.find(name) is None
    assert lookup_tool(DOCS.find).call({"name": name}).startswith("error: nothing is documented")


def test_nothing_with_side_effects_is_imported() -> None:
    code = (
        "import sys; from whorl.tools import PythonDocs; docs = PythonDocs()\n"
        "[docs.find(name) for name in ('antigravity', 'antigravity.fly', 'this', 'turtle.forward')]\n"
        "count = sum(1 for _ in docs.entries())\n"
        "print(count > 4000, sorted(set(sys.modules) & {'antigravity', 'this', 'turtle', 'tkinter'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_a_broken_source_is_counted_and_the_rest_goes_on(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b'"""caf\xe9"""\n')
    (tmp_path / "good.py").write_text(
        '"""Good. Indeed."""\nclass A:\n    "An a."\n    def __init__(self, x: int): ...\n'
    )
    docs = PythonDocs(root=tmp_path)
    entries = {entry.name: entry for entry in docs.entries() if entry.where.endswith((".py:1", ".py:2"))}
    assert sorted(entries) == ["good", "good.A"]
    assert entries["good"].sentence == "Good." and entries["good"].rest == "Indeed."
    assert entries["good.A"].signature == "A(x: int)"
    assert docs.unread == {"SyntaxError": 1, "UnicodeDecodeError": 1}


@pytest.mark.parametrize(
    ("text", "sentence", "rest"),
    [
        ("One. Two.", "One.", "Two."),
        ("\n\n  Wrapped\n  line.\n\nNext.", "Wrapped line.", ""),
        ("Use e.g. Foo. Then", "Use e.g. Foo.", "Then"),
        ("Version 3.11 of it. X", "Version 3.11 of it.", "X"),
        ("no end", "no end", ""),
        ("速い。次の文。", "速い。", "次の文。"),
        ("Really?! Yes.", "Really?!", "Yes."),
        ("   ", "", ""),
    ],
)
def test_first_sentence(text: str, sentence: str, rest: str) -> None:
    assert first_sentence(text) == (sentence, rest)
