"""What an import brings with it, counted in modules: seconds depend on the machine, these do not.

`import whorl` stays under 100 ms and `whorl --help` under 300 ms because of what they leave out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import whorl
from whorl.cli.main import VERBS

PACKAGE = Path(whorl.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
HEAVY = {
    "torch",
    "numpy",
    "pyarrow",
    "sklearn",
    "transformers",
    "tokenizers",
    "PIL",
    "scipy",
    "pandas",
    "httpx",
}


def modules_after(code: str) -> set[str]:
    """Names of the modules that `code` brings into a fresh interpreter."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_importing_whorl_imports_nothing() -> None:
    assert {name for name in modules_after("import whorl") if not name.startswith("whorl")} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_neither_torch_nor_its_siblings(room: str) -> None:
    found = modules_after(f"import whorl.{room}")
    assert not tops(found) & HEAVY
    siblings = {name.split(".")[1] for name in found if name.startswith("whorl.")}
    assert siblings <= {room, "base"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("config.py")), ids=lambda path: path.parent.name)
def test_a_config_imports_nothing_heavy(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    assert not tops(modules_after(f"import {name}")) & HEAVY


def test_help_is_light() -> None:
    code = (
        "import contextlib, io\nfrom whorl.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])"
    )
    found = modules_after(code)
    assert not tops(found) & (HEAVY | {"pydantic", "pydantic_settings", "rich", "jinja2", "psutil"})
    # 53 with Python 3.11 and click 8.5, nearly all of them click's and the standard library's.
    assert len(found) < 100


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verbs_help_imports_no_torch(verb: str) -> None:
    code = (
        "import contextlib, io\nfrom whorl.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): "
        f"main(['{verb}', '--help'])"
    )
    assert "torch" not in tops(modules_after(code))


COMPILER = {"torch._dynamo", "torch._inductor", "sympy", "triton"}
READING = """
import tempfile, torch
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import load, save
config = ModelConfig(
    vocab_size=9, d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=16, context=8
)
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    save(Decoder(config), folder)
    load(folder)(torch.arange(8), Packed([8]))
"""


@pytest.mark.parametrize("code", ["import whorl.serve.worker", READING], ids=["the worker", "a model"])
def test_serving_imports_no_compiler(code: str) -> None:
    """It is a second and a half and 150 MB in every process, for those alone who compile."""
    found = modules_after(code)
    assert "torch" in found and not COMPILER & found
