"""The Triton kernels without a GPU: right in the interpreter, compiled for real cards, and done without."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no triton")


def run(*command: str, patience: float = 290, **changes: str) -> str:
    """What a process of its own says: triton reads its variables when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, *command], env=environment | {"OMP_NUM_THREADS": "1"} | changes,
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=patience,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_triton
def test_all_that_a_gpu_is_asked_in_the_interpreter() -> None:
    said = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / "test_cuda_paged.py"),
        TRITON_INTERPRET="1",
    )  # fmt: skip
    assert " passed" in said and "skipped" not in said, said


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from whorl.kernels import triton_paged_kernels as programs
from whorl.kernels.triton_paged import OPTIONS, SPLIT, STORE_BLOCK, key_block, tile_sizes
import torch

DATA, NUMBERS = {"q", "k_pages", "v_pages", "out", "k", "v"}, {"scale", "cap"}
POINTERS = {"sums": "*fp32", "best": "*fp32", "total": "*fp32", "slots": "*i64"} | dict.fromkeys(
    ("tables", "offsets", "lengths", "tiles", "splits", "few"), "*i32"
)

def compiled(program, dtype, name, dim, card):
    few, tile = tile_sizes(2, dtype)
    known = dict(SLOTS=16, GROUP=2, ROWS=few if program is programs.decode_splits else tile, SPLIT=SPLIT,
                 BLOCK=STORE_BLOCK if program is programs.store_rows else key_block(dim, dtype), D=dim,
                 WIDTH=dim, CAPPED=True, WIDE=False, HEADS=8)
    constants = {n: known[n] for n in program.arg_names if n in known}
    types = {n: "constexpr" if n in constants else "*" + name if n in DATA else POINTERS.get(n)
             or ("fp32" if n in NUMBERS else "i32") for n in program.arg_names}
    places = {(program.arg_names.index(n),): value for n, value in constants.items()}
    source = triton.compiler.ASTSource(program, signature=types, constexprs=places, attrs={})
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=OPTIONS)

for card in (80, 90):
    for dtype, name, dim in ((torch.bfloat16, "bf16", 128), (torch.float32, "fp32", 64)):
        for program in (programs.prompt_tiles, programs.decode_splits, programs.combine_splits,
                        programs.store_rows):
            made = compiled(program, dtype, name, dim, card)
            assert made.asm["cubin"] and made.metadata.shared <= 99 << 10, (card, name, made.metadata)
            print("compiled", program.__name__, card, name, made.metadata.shared)
"""


@needs_triton
@pytest.mark.soak
def test_they_compile_for_nvidias_cards(tmp_path: Path) -> None:
    """To machine code that fits the shared memory of the smaller cards of 8.x."""
    assert run("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path)).count("compiled ") == 16


STEPS = """
import sys
if sys.argv[1] == "blocked":
    sys.modules["triton"] = None
import torch
from whorl.kernels.catalogue import KERNELS, compare
kernel = KERNELS["paged_attention"]
for name in ("decode", "chunks", "soft cap"):
    for _, difference in compare(kernel, kernel.examples[name](torch.float32, torch.device("cpu"))):
        assert difference <= 1e-5
print("imported" if sys.modules.get("whorl.kernels.triton_paged_kernels") else "not imported")
"""


def test_without_triton_torchs_ops_run_and_it_is_said_once() -> None:
    said = run("-c", STEPS, "blocked", TRITON_INTERPRET="1")
    assert said.count("Triton's paged attention is off, torch's own ops run instead") == 1, said
    assert "pip install triton" in said and "not imported" in said


def test_on_the_cpu_nobody_imports_triton() -> None:
    assert run("-c", STEPS, "here") == "not imported\n"


@needs_triton
def test_where_the_interpreter_is_asked_for_it_is_used() -> None:
    assert run("-c", STEPS, "here", TRITON_INTERPRET="1") == "imported\n"


@needs_triton
@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_a_model_served_with_them_gives_the_trainers_numbers() -> None:
    """The serving contract of two families, every key and value stored and read by these kernels."""
    said = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/serve/test_contract.py",
        "-k", "every_family and qwen3", TRITON_INTERPRET="1", patience=990,
    )  # fmt: skip
    assert "2 passed" in said, said
