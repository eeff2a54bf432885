"""What `whorl doctor` looks at: one small function for each part of the machine.

A `Check` says what is there, whether it works, and what to do where it does not. "missing" is
something Whorl runs without, slower or with less; "failed" is something it cannot run without.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

import whorl
from whorl.base.memory import cgroup_limit
from whorl.base.provenance import cores, cpu_model
from whorl.cli.libraries import LIBRARIES

GIB = 2**30
# Instruction sets that change how fast this computes, as /proc/cpuinfo spells them.
ISA_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX512-bf16",
    "avx512_vnni": "AVX512-VNNI",
    "amx_bf16": "AMX-bf16",
    "amx_int8": "AMX-int8",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "bf16",
}
NEEDED_MEMORY, NEEDED_DISK = 4 * GIB, 5 * GIB


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    state: Literal["ok", "missing", "failed"]
    found: str
    remedy: str = ""


def python() -> Check:
    """Older Pythons never come here: `requires-python` and bootstrap.py tell them before."""
    found = f"{sys.version.split()[0]} at {sys.executable}; whorl {whorl.__version__}"
    return Check(name="python", state="ok", found=found)


def cpu() -> Check:
    flags = cpu_flags()
    shown = ", ".join(label for flag, label in ISA_FLAGS.items() if flag in flags) or "no vector flags seen"
    found = f"{cpu_model()}, {cores()} cores usable, {shown}"
    if flags & {"avx512_bf16", "amx_bf16", "bf16"} or platform.machine() == "arm64":
        return Check(name="cpu", state="ok", found=found)
    remedy = "no bf16 instructions: training measures both and will probably choose fp32, which is slower"
    return Check(name="cpu", state="missing", found=found, remedy=remedy)


def cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    for line in info.read_text(errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def memory() -> Check:
    state = psutil.virtual_memory()
    found = f"{state.total / GIB:.1f} GiB, {state.available / GIB:.1f} GiB free"
    if limit := cgroup_limit():
        found += f", this container may use {limit / GIB:.1f} GiB"
    if min(state.available, limit or state.available) >= NEEDED_MEMORY:
        return Check(name="memory", state="ok", found=found)
    remedy = (
        f"the quickstart needs {NEEDED_MEMORY / GIB:.0f} GiB free: close programs or use a larger machine"
    )
    return Check(name="memory", state="missing", found=found, remedy=remedy)


def disk() -> Check:
    place = Path(os.environ.get("WHORL_WORKSPACE") or ".").resolve()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    found = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} GiB at {place}"
    if not os.access(place, os.W_OK):
        remedy = "this folder is not writable; set WHORL_WORKSPACE to one that is"
        return Check(name="disk", state="failed", found=found, remedy=remedy)
    if usage.free >= NEEDED_DISK:
        return Check(name="disk", state="ok", found=found)
    remedy = (
        f"checkpoints and data need {NEEDED_DISK / GIB:.0f} GiB: free some, or set WHORL_WORKSPACE elsewhere"
    )
    return Check(name="disk", state="missing", found=found, remedy=remedy)


def torch_build() -> Check:
    if importlib.util.find_spec("torch") is None:
        remedy = "pip install 'whorl[train]'"
        return Check(name="torch", state="failed", found="not installed", remedy=remedy)
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of the build is missing or does not fit
        remedy = "pip install --force-reinstall torch, the build for this system (pytorch.org/get-started)"
        return Check(name="torch", state="failed", found=f"does not import: {error}", remedy=remedy)
    build = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU"
    )
    found = f"{torch.__version__} ({build} build), {torch.get_num_threads()} threads"
    from whorl.kernels.device import self_test

    if problem := self_test("cpu"):
        return Check(
            name="torch",
            state="failed",
            found=f"{found}; {problem}",
            remedy="pip install --force-reinstall torch",
        )
    return Check(name="torch", state="ok", found=found)


def gpu() -> Check:
    driver = nvidia_driver()
    if importlib.util.find_spec("torch") is None:
        return Check(name="gpu", state="missing", found=driver or "none seen", remedy="install torch first")
    import torch

    from whorl.kernels.device import present, self_test

    for kind in ("cuda", "mps"):
        if present(kind):
            cards = (
                [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
                if kind == "cuda"
                else ["Apple GPU"]
            )
            found = f"{', '.join(cards)}{f', {driver}' if driver else ''}"
            if problem := self_test(kind):
                remedy = (
                    "update the driver, or install the torch build that fits it (pytorch.org/get-started)"
                )
                return Check(
                    name="gpu", state="failed", found=f"{found}; self-test: {problem}", remedy=remedy
                )
            return Check(name="gpu", state="ok", found=found)
    if driver:
        remedy = "this torch build does not use it: install the CUDA build of torch (pytorch.org/get-started)"
        return Check(name="gpu", state="missing", found=driver, remedy=remedy)
    return Check(name="gpu", state="missing", found="none", remedy="not needed; everything runs on the CPU")


def nvidia_driver() -> str:
    """ "NVIDIA driver 570.1: H200", empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer: {error}"
    lines = [line.partition(", ") for line in answer.stdout.strip().splitlines()]
    if answer.returncode or not lines:
        return f"nvidia-smi: {(answer.stdout + answer.stderr).strip().splitlines()[:1]}"
    return f"NVIDIA driver {lines[0][0]}: {', '.join(name for _, _, name in lines)}"


def compiler() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(
            name="compiler", state="missing", found="not tested without torch", remedy="install torch first"
        )
    from whorl.kernels.device import candidates, compile_problem, compiler_available

    path = compiler_available()
    if path:
        version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.splitlines()
        found = f"{path}, {version[0] if version else 'version unknown'}; built and ran a test program"
        return Check(name="compiler", state="ok", found=found)
    there = [found for found in map(shutil.which, candidates()) if found]
    broken = [f"{found}: {compile_problem(found)}" for found in there]
    remedy = "everything works eagerly without it, only slower; " + compiler_remedy()
    return Check(name="compiler", state="missing", found="; ".join(broken) or "none", remedy=remedy)


def cpu_kernels() -> Check:
    """The C++ kernels of this CPU, built and tried as the first run would; and who multiplies bf16."""
    if importlib.util.find_spec("torch") is None:
        return Check(
            name="kernels", state="missing", found="not tested without torch", remedy="install torch first"
        )
    from whorl.kernels import native
    from whorl.kernels.wide import multiplies_bfloat16

    half = "" if multiplies_bfloat16() else "; bf16 is computed in fp32, as this CPU has no bf16 matmul"
    if native.status() == "native":
        return Check(name="kernels", state="ok", found=f"C++, built and tested on this CPU{half}")
    remedy = "everything also works without them, only slower; see the line above about the compiler"
    return Check(name="kernels", state="missing", found=f"{native.status()}{half}", remedy=remedy)


def compiler_remedy() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    if sys.platform == "win32":
        return "install the Visual Studio Build Tools with C++"
    return "apt install g++ (or dnf install gcc-c++)"


def libraries() -> Iterator[Check]:
    for name, library in LIBRARIES.items():
        if name == "torch":
            continue
        distribution = library.distribution or name
        if importlib.util.find_spec(name) is None:
            remedy = f"pip install 'whorl[{library.extra}]'"
            yield Check(
                name=distribution, state="missing", found=f"not installed ({library.purpose})", remedy=remedy
            )
        else:
            yield Check(
                name=distribution, state="ok", found=f"{metadata.version(distribution)} ({library.purpose})"
            )


PARTS: tuple[Callable[[], Check], ...] = (python, cpu, memory, disk, torch_build, gpu, compiler, cpu_kernels)


def run_checks() -> Iterator[Check]:
    """Every check in the order of the report; each takes at most a few seconds, but for the kernels, which
    are built once, in half a minute."""
    for part in PARTS:
        yield part()
    yield from libraries()
