"""What a room imports, its extra installs: `pip install 'whorl[data]'` is enough for `whorl.data`."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = sorted(path.parent.name for path in (ROOT / "whorl").glob("*/__init__.py"))
# The command speaks about every library (doctor) and imports each only when it is there.
CORE = ("base", "cli")
# torch's CUDA builds bring the triton that fits them; elsewhere nobody imports it, or does without it.
BROUGHT = {"kernels": {"triton"}}
# A package's other half: pydantic pins the exact core it comes with, and its guide imports from both.
HALVES = {"pydantic_core": "pydantic"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_by(requirements: list[str]) -> Iterator[str]:
    """Distributions that a list of requirements names, through `whorl[extra]` too."""
    for requirement in requirements:
        own = re.fullmatch(r"whorl\[([\w,]+)\]", requirement)
        if own:
            for extra in own[1].split(","):
                yield from installed_by(PROJECT["optional-dependencies"][extra])
        else:
            yield plain(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]


def imported_by(room: str) -> dict[str, str]:
    """Third-party top-level modules → a file that imports them, inside functions too."""
    found: dict[str, str] = {}
    for path in (ROOT / "whorl" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "whorl":
                    found[top] = str(path.relative_to(ROOT))
    return found


def test_every_room_has_an_extra_and_every_extra_a_purpose() -> None:
    extras = set(PROJECT["optional-dependencies"])
    assert extras - {"all", "test", "lint", "bench"} == set(ROOMS) - set(CORE)
    everything = set(installed_by(["whorl[all]"]))
    for room in set(ROOMS) - set(CORE):
        assert set(installed_by([f"whorl[{room}]"])) <= everything


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "cli"])
def test_a_rooms_extra_installs_what_it_imports(room: str) -> None:
    extra = [] if room in CORE else [f"whorl[{room}]"]
    allowed = set(installed_by([*PROJECT["dependencies"], *extra]))
    distributions = packages_distributions()
    for module, path in imported_by(room).items():
        if module in BROUGHT.get(room, ()):
            continue
        whole = HALVES.get(module, module)
        owners = {plain(name) for name in distributions.get(whole, [whole])}
        assert owners & allowed, f"{path} imports {module}, which the extra {room!r} does not install"
