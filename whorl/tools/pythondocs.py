"""Python's documentation of its standard library, read without importing it.

Sources are parsed with `ast`, so `antigravity`, `this` or anything else with side effects never
runs. Modules written in C have no source: those listed in `C_MODULES` (and only those) are asked
through `inspect`; importing them does nothing but define names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from whorl.tools.entries import Entry, first_sentence

C_MODULES = (
    "builtins", "array", "binascii", "cmath", "gc", "itertools", "marshal", "math", "sys", "time",
    "unicodedata", "zlib",
)  # fmt: skip
ALIASES = {"os.path": "posixpath"}
# Tests, generated code, games and what fetches or installs: not documentation.
SKIPPED = frozenset({
    "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages",
    "__pycache__", "antigravity", "this", "__phello__", "pydoc_data",
})  # fmt: skip
TOPICS = "pydoc_data/topics.py"
UNDERLINED = re.compile(r"^[^\n]+\n([*=\-~\"^])\1+\s*$")
CALLED = re.compile(
    r"(?P<call>(?:[\w.]*\.)?(?P<last>\w+)\([^)\n]*\))"
    r"(?:\s*-+>\s*[^\s.]+(?: [^\s.]+){0,2})?"  # more words than three are a description
    r"(?:[.:,](?=\s)|(?=\s*\n)|(?=\s{2}))\s*"
)
MAX_SIGNATURE = 80  # characters
REEXPORTS = 2  # `from .decoder import JSONDecoder` is followed this many times


def standard_library() -> Path:
    """Where this Python keeps the sources of its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def module_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module's dotted name and file under `root`, in sorted order, without tests and the like."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.intersection(parts) or any(part.startswith("config-") for part in parts):
            continue
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if names:
            yield ".".join(names), path


def topics(root: Path) -> dict[str, str]:
    """pydoc's topics (what `help("LAMBDA")` prints) by name, sorted, read without running their file;
    none where this Python came without them."""
    path = root / TOPICS
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    tables = [ast.literal_eval(value) for value in values if isinstance(value, ast.Dict)]
    return {name: table[name] for table in tables for name in sorted(table)}


def _topic(name: str, text: str) -> Entry:
    """A topic by its first paragraph of prose: not its underlined title, not indented grammar."""
    blocks = re.split(r"\n\s*\n", text)
    prose = [block for block in blocks if block[:1].strip() and not UNDERLINED.search(block)]
    sentence, rest = first_sentence(prose[0] if prose else "")
    return Entry(name=name, sentence=sentence, rest=rest, where=TOPICS)


@dataclass(frozen=True)
class Definition:
    """A documented module, class or function in a source file."""

    name: str
    docstring: str
    signature: str
    where: str

    def entry(self) -> Entry:
        called, docstring = _called(self.name.rpartition(".")[2], self.docstring)
        sentence, rest = first_sentence(docstring)
        signature = self.signature or called
        return Entry(name=self.name, sentence=sentence, signature=signature, rest=rest, where=self.where)


def _called(last: str, docstring: str) -> tuple[str, str]:
    """The signature a docstring begins with, as older ones do ("D.clear() -> None.  Remove…"), and
    what it says after that. Nothing is taken off where nothing would be left."""
    signature, rest = "", docstring
    while (match := CALLED.match(rest)) and match["last"] == last and rest[match.end() :].strip():
        signature = signature or match["call"]
        rest = rest[match.end() :]
    return signature, rest


@dataclass
class PythonDocs:
    """Documentation by qualified name (`textwrap.dedent`, `json.JSONEncoder.default`, `math.sqrt`,
    `len`) and, after those, by pydoc's topics (`lambda`, `slicings`).

    `unread` counts the files that could not be parsed, by reason.
    """

    root: Path = field(default_factory=standard_library)
    unread: Counter[str] = field(default_factory=Counter)

    def find(self, name: str) -> Entry | None:
        """The entry of `name`, parsing only the module it belongs to; None where undocumented."""
        name = name.strip().removesuffix("()").removeprefix("builtins.")
        for alias, target in ALIASES.items():
            if name == alias or name.startswith(alias + "."):
                found = self.find(target + name[len(alias) :])
                return replace(found, name=name) if found else None
        if name in self._builtins:
            return self._builtins[name].entry()
        module = self._module_of(name)
        if module is None:
            return self._topics.get(name)
        definition = self._defined(module, name[len(module) + 1 :], REEXPORTS)
        return replace(definition.entry(), name=name) if definition else None

    def entries(self) -> Iterator[Entry]:
        """Every entry with documentation, in a fixed order: C modules, sources by name, topics."""
        for module in (*C_MODULES, *self._files):
            if any(part.startswith("_") for part in module.split(".")):
                continue
            for definition in self.definitions(module).values():
                yield definition.entry()
        for name, entry in self._topics.items():
            if name not in self._builtins and name not in self._files:
                yield entry

    def definitions(self, module: str) -> dict[str, Definition]:
        """The documented names of one module; empty where it is unknown or cannot be read."""
        if module in C_MODULES:
            if importlib.util.find_spec(module) is None:
                self.unread["not built"] += 1  # a Python without zlib, say
                return {}
            return _asked(module)
        tree = self._tree(module)
        if tree is None:
            return {}
        return parse_definitions(tree, module, self._files[module].relative_to(self.root).as_posix())

    def _tree(self, module: str) -> ast.Module | None:
        path = self._files.get(module)
        if path is None:
            return None
        try:
            source = path.read_text(encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old sources' invalid escapes are not the caller's concern
                return ast.parse(source)
        except (OSError, UnicodeDecodeError, SyntaxError) as error:
            self.unread[type(error).__name__] += 1
            return None

    def _defined(self, module: str, rest: str, reexports: int) -> Definition | None:
        """`rest` (a name below `module`, "" for the module) where it is defined or imported from."""
        found = self.definitions(module).get(f"{module}.{rest}" if rest else module)
        if found or not rest or not reexports:
            return found
        tree = self._tree(module)
        first, dot, below = rest.partition(".")
        for node in tree.body if tree else ():
            if not isinstance(node, ast.ImportFrom):
                continue
            source = self._imported(module, node)
            for alias in node.names:
                if alias.name not in ("*", first) and alias.asname != first:
                    continue
                target = rest if alias.name == "*" else f"{alias.name}{dot}{below}"
                if found := self._defined(source, target, reexports - 1):
                    return found
        return None

    def _imported(self, module: str, node: ast.ImportFrom) -> str:
        """The absolute name of the module that `node`, standing in `module`, imports from."""
        if not node.level:
            return node.module or ""
        is_package = self._files[module].name == "__init__.py"
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    @cached_property
    def _files(self) -> dict[str, Path]:
        return dict(module_files(self.root))

    @cached_property
    def _builtins(self) -> dict[str, Definition]:
        return _asked("builtins")

    @cached_property
    def _topics(self) -> dict[str, Entry]:
        return {name: _topic(name, text) for name, text in topics(self.root).items()}

    def _module_of(self, name: str) -> str | None:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            module = ".".join(parts[:end])
            if module in self._files or module in C_MODULES:
                return module
        return None


def parse_definitions(tree: ast.Module, module: str, file: str) -> dict[str, Definition]:
    """Qualified name → definition for the public, documented names of a parsed module.

    A name defined twice (for two platforms, say) keeps its first documented definition.
    """
    found: dict[str, Definition] = {}
    if docstring := ast.get_docstring(tree):
        found[module] = Definition(module, docstring, "", f"{file}:1")
    _collect(tree.body, module, file, found)
    return found


def _collect(body: list[ast.stmt], prefix: str, file: str, found: dict[str, Definition]) -> None:
    for node in body:
        if isinstance(node, ast.If | ast.Try):  # definitions that depend on the platform
            _collect([*node.body, *node.orelse], prefix, file, found)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            name = f"{prefix}.{node.name}"
            if (docstring := ast.get_docstring(node)) and name not in found:
                found[name] = Definition(name, docstring, signature_of(node), f"{file}:{node.lineno}")
            if isinstance(node, ast.ClassDef):
                _collect(node.body, name, file, found)


def signature_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """How it is called, as written, without `self`; a class by its `__init__`."""
    if isinstance(node, ast.ClassDef):
        inits = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        arguments = next((_arguments(init.args) for init in inits), "")
    else:
        arguments = _arguments(node.args)
    text = f"{node.name}({arguments})"
    return text if len(text) <= MAX_SIGNATURE else f"{node.name}(…)"


def _arguments(arguments: ast.arguments) -> str:
    text = ast.unparse(arguments)
    for bound in ("self", "cls"):
        if text == bound:
            return ""
        text = text.removeprefix(f"{bound}, ")
    return text


def _asked(module: str) -> dict[str, Definition]:
    """The definitions of a C module, from the live objects. `module` must be in `C_MODULES`."""
    owner = importlib.import_module(module)
    prefix = "" if module == "builtins" else module + "."
    found: dict[str, Definition] = {}
    if prefix and (docstring := inspect.getdoc(owner)):
        found[module] = Definition(module, docstring, "", module)
    for name, value in sorted(vars(owner).items()):
        if name.startswith("_") or getattr(value, "__module__", module) not in (module, "builtins", None):
            continue
        if callable(value):
            _ask(prefix + name, value, module, found)
        if isinstance(value, type):
            for method, part in sorted(vars(value).items()):
                if not method.startswith("_") and callable(part):
                    _ask(f"{prefix}{name}.{method}", part, module, found)
    return found


def _ask(name: str, value: Any, module: str, found: dict[str, Definition]) -> None:
    docstring = inspect.getdoc(value)
    if not docstring:
        return
    last = name.rpartition(".")[2]
    try:
        arguments = str(inspect.signature(value)).replace("($self, ", "(").replace("(self, /)", "()")
        signature = last + arguments.replace("(self, /, ", "(").replace("(self, ", "(")
    except (ValueError, TypeError):  # it has no text signature; its docstring may begin with one
        signature = ""
    signature = signature if len(signature) <= MAX_SIGNATURE else f"{last}(…)"
    found[name] = Definition(name, docstring, signature, module)
