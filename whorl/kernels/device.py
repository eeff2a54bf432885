"""Which device to compute on, after a self-test, and whether this machine can compile.

A device that imports well may still fail on its first kernel (a driver too old, a card too new for
this torch build), so each is made to do a small matmul forward and backward before it is chosen.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from whorl.base.errors import FaultError, InputError
from whorl.base.progress import say

KINDS = ("cuda", "mps", "cpu")  # in the order they are tried


def choose_device(prefer: str | None = None) -> torch.device:
    """The device to use: `prefer` ("cuda", "cuda:1", "mps", "cpu"), or the first that works.

    A preferred device that does not work is an `InputError` with the reason; a present one that is
    passed over by itself is said. `FaultError` where not even the CPU can compute.
    """
    if prefer:
        if prefer.partition(":")[0] not in KINDS:
            raise InputError(f"device {prefer!r} is not one of {', '.join(KINDS)}")
        if (problem := self_test(prefer)) is not None:
            raise InputError(f"device {prefer} does not work here: {problem}; omit it or run whorl doctor")
        return torch.device(prefer)
    for kind in KINDS:
        if not present(kind):
            continue
        if (problem := self_test(kind)) is None:
            return torch.device(kind)
        say(f"{kind} is present but failed its self-test ({problem}); trying the next device")
    raise FaultError(
        "not even the CPU passed a matmul self-test; this torch build does not work on this machine;"
        " reinstall torch"
    )


def present(kind: str) -> bool:
    """Whether torch sees such a device at all."""
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


@cache
def self_test(device: str) -> str | None:
    """None where a matmul and its gradient come out right on `device`, else why not."""
    kind = device.partition(":")[0]
    if not present(kind):
        return f"torch {torch.__version__} finds no {kind} device"
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(8, 16, generator=generator)
    right = torch.randn(16, 4, generator=generator)
    try:
        there = left.to(device).requires_grad_()
        product = there @ right.to(device)
        product.square().sum().backward()
        assert there.grad is not None
        wrong = (there.grad.cpu() - 2 * (left @ right) @ right.T).abs().max().item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for a missing kernel or driver
        return " ".join(str(error).split())[:200]
    # TF32 has 10 bits of mantissa; anything worse than that is a wrong answer, not rounding.
    return None if wrong < 0.2 else f"a matmul gradient was wrong by {wrong:.3g}"


@cache
def compiler_available() -> str | None:
    """The C++ compiler that torch.compile's CPU code would use, after it built and ran a small
    program, or None. `CXX` names another one."""
    for name in candidates():
        path = shutil.which(name)
        if path and compile_problem(path) is None:
            return path
    return None


def candidates() -> list[str]:
    """Compilers in the order tried."""
    chosen = os.environ.get("CXX", "")
    usual = ["cl"] if sys.platform == "win32" else ["g++", "clang++", "c++"]
    return [chosen] if chosen else usual


def compile_problem(compiler: str) -> str | None:
    """None where `compiler` builds a C++17 program with a standard header and the program runs;
    else the first line of what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "hello.cpp", Path(folder) / "hello.exe"
        source.write_text("#include <vector>\nint main() { return (int)std::vector<int>(7).size() - 7; }\n")
        output = (
            [f"/Fe{program}"] if Path(compiler).stem.lower() == "cl" else ["-std=c++17", "-o", str(program)]
        )
        try:
            subprocess.run(
                [compiler, str(source), *output],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
                cwd=folder,
            )
            subprocess.run([str(program)], check=True, timeout=10)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or str(error)).strip().splitlines()
            return said[0][:200] if said else str(error)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None


def make_linkable() -> None:
    """Let torch.compile link where torch lies in a path with a space.

    torch gives its library folder to the linker unquoted (2.11 to 2.13); a link without a space in
    the temporary folder stands in for it. Nothing happens where the path has none.
    """
    from torch.utils import cpp_extension

    libraries = cpp_extension.TORCH_LIB_PATH
    if " " not in libraries:
        return
    name = f"whorl-torch-{hashlib.sha256(libraries.encode()).hexdigest()[:16]}"
    place = Path(tempfile.gettempdir()) / name  # always the same: the path is part of what is cached
    if not place.is_symlink() or os.readlink(place) != libraries:  # absent, or somebody else's
        place = Path(tempfile.mkdtemp(prefix=f"{name}-")) / "lib" if os.path.lexists(place) else place
        place.symlink_to(libraries, target_is_directory=True)
    cpp_extension.TORCH_LIB_PATH = str(place)
