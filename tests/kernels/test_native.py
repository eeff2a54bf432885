"""The C++ kernels: built where there is a compiler, done without where there is none, no side effects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.kernels import native, native_trial
from whorl.kernels.device import compiler_available

TRAIN = """
import torch
from whorl.kernels import native
from whorl.kernels.attention import attention
from whorl.kernels.spec import AttentionSpec
torch.manual_seed(0)
q, k, v = (torch.randn(90, 2, 32).bfloat16().requires_grad_() for _ in range(3))
offsets = torch.tensor([0, 70, 90], dtype=torch.int32)
attention(q, k, v, offsets, AttentionSpec(scale=0.2)).float().square().sum().backward()
print(native.status())
print(float(q.grad.float().norm()), float(torch.tensor(1e-40) * 0.5))
"""


def start(**changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN], env=os.environ | changes, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    """The lines of its output, and what it said beside them."""
    told, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return told.splitlines(), said


def run(**changes: str) -> list[str]:
    return ended(start(**changes))[0]


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_with_and_without_a_compiler_the_gradients_agree(tmp_path: Path) -> None:
    """Two processes that need them at once compile them once, as a node's ranks do."""
    (built, said), (beside, said_beside) = map(ended, [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)])
    assert built == beside and (said + said_beside).count("compiling the C++ kernels") == 1
    portable = run(XDG_CACHE_HOME=str(tmp_path / "other"), PATH="/nowhere", CXX="")
    assert built[0] == "native" and "no C++ compiler" in portable[0]
    assert len(list((tmp_path / "whorl" / "kernels").glob("*.so"))) == 1
    norms = [float(lines[1].split()[0]) for lines in (built, portable)]
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_loading_them_leaves_subnormal_numbers_alone(tmp_path: Path) -> None:
    assert float(run()[1].split()[1]) == pytest.approx(5e-41, rel=1e-3)


def test_the_status_says_what_runs() -> None:
    assert native.status() == "native" or native.status().startswith("C++ kernels are disabled: ")


BROKEN = """
#include <cstdint>
#include <cstdlib>
extern "C" void whorl_attention_backward() { std::abort(); }
extern "C" void whorl_softmax_gradient() {}
"""


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_a_kernel_that_ends_its_process_is_refused_and_the_next_one_is_tried(tmp_path: Path) -> None:
    """As oneDNN's brgemm did on a CPU without AVX512: an exception inside a thread of OpenMP."""
    source, library = tmp_path / "broken.cpp", tmp_path / "broken.so"
    source.write_text(BROKEN)
    compiler = str(compiler_available())
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    names = ("attention_backward", "softmax_gradient")
    refused = native_trial.refused(library, names)
    assert refused["attention_backward"] == "its test ended the process (SIGABRT)"
    assert "self-test differs" in refused["softmax_gradient"]
    library.unlink()
    assert native_trial.refused(library, names) == refused, "what came of it is kept"


def test_what_cannot_be_tried_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not be tried"):
        native_trial.refused(tmp_path / "none.so", ("linear",))
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_a_cpu_that_is_told_to_do_less_computes_the_same(tmp_path: Path) -> None:
    """Where the CPU has AVX512, kernels that need it are built, and torch refuses them in their trial."""
    less = run(XDG_CACHE_HOME=str(tmp_path), ONEDNN_MAX_CPU_ISA="AVX2")
    assert less[0] == "native" or "ended the process" in less[0]
    assert float(less[1].split()[0]) == pytest.approx(float(run()[1].split()[0]), rel=0.01)
