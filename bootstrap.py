"""Everything the Makefile does, with nothing but Python 3.11+ and a package registry.

    python3 bootstrap.py demo [-- --minutes 5]      train the demonstration assistant
    python3 bootstrap.py test [--room data]         the gate
    python3 bootstrap.py soak | lint | bench | wheel | install

Makes `.venv` beside this file on the first call and leaves it alone on the next ones, until
pyproject.toml or constraints.txt changes. Needs no root. Parses on older Pythons, to tell them so.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST = (3, 11)
# What is installed for what: "dev" holds all that "run" does.
EXTRAS = {"run": ["all"], "dev": ["test", "lint"], "bench": ["test", "lint", "bench"]}
HOLDS = {"run": ("run", "dev", "bench"), "dev": ("dev", "bench"), "bench": ("bench",)}


def main():
    use_new_enough_python()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--room", help="test: only this room, e.g. data")
    # Three for two cores: one of them mostly waits for a process or a page.
    parser.add_argument("--jobs", type=int, default=3, help="test and soak: worker processes (default 3)")
    parser.epilog = "What follows `--` is handed on to what the target runs."
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.rest = words[end + 1 :]
    if options.room and options.target not in ("test", "soak"):
        parser.error("--room belongs to test and soak")
    os.chdir(ROOT)
    return TARGETS[options.target](options)


def use_new_enough_python():
    """Go on in a newer Python where this one is too old, and say so; leave where there is none."""
    if sys.version_info >= OLDEST:
        return
    for minor in range(14, OLDEST[1] - 1, -1):
        newer = shutil.which("python3.%d" % minor)  # noqa: UP031 - an old Python reads this file
        if newer and subprocess.call([newer, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]) == 0:
            say("this Python is " + sys.version.split()[0] + "; going on with " + newer)
            sys.exit(subprocess.call([newer, *sys.argv]))
    leave(
        "Whorl needs Python 3.11 or newer and this is "
        + sys.version.split()[0]
        + "; install one from https://www.python.org/downloads/ and run: make PYTHON=/path/to/python3"
    )


def say(text):
    print("whorl: " + text, file=sys.stderr, flush=True)


def leave(text):
    say(text)
    sys.exit(2)


def call(*command):
    """Run a command, hand its output through, and leave with its exit code where it fails."""
    try:
        code = subprocess.call([str(part) for part in command])
    except KeyboardInterrupt:
        code = 130
    if code:
        sys.exit(code)


# -- the environment ------------------------------------------------------------------------------


def install(kind="run"):
    """Make `.venv` and install what `kind` needs, unless the stamp says that it is there."""
    if any(stamp(held).is_file() and stamp(held).read_text() == wanted() for held in HOLDS[kind]):
        return
    if not works(PYTHON):
        make_venv()
    say("installing into .venv (the first time downloads PyTorch and takes minutes) …")
    hint_cpu_torch()
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    # The build backend comes first and pinned, so that the build needs no second environment.
    call(*pip, "--constraint", "constraints.txt", "setuptools")
    extras = ",".join(EXTRAS[kind])
    command = ["--no-build-isolation", "--constraint", "constraints.txt", "--editable", ".[%s]" % extras]  # noqa: UP031
    call(*pip, *command)
    for held in HOLDS[kind]:
        stamp(held).unlink(missing_ok=True)
    stamp(kind).write_text(wanted())
    say("installed")


def stamp(kind):
    return VENV / (".whorl-" + kind)


def wanted():
    """What an installation is made from: the two files, this Python, and where the repository lies."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return "%s %d.%d %s" % (digest.hexdigest(), *sys.version_info[:2], ROOT)  # noqa: UP031


def works(python):
    """An environment is taken as it is when its Python runs, is new enough, and has pip."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(python), "-c", check], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def make_venv():
    if VENV.exists():
        if not (VENV / "pyvenv.cfg").is_file():
            leave(".venv exists and is not a virtual environment; move it away and run this again")
        say(".venv does not work with this Python (moved or half made); making it again")
        shutil.rmtree(str(VENV))
    say("making .venv with Python " + sys.version.split()[0] + " …")
    command = [sys.executable, "-m", "venv", str(VENV)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).returncode == 0:
        return
    # Debian's python3 comes without ensurepip; a pip beside it can serve the new environment.
    shutil.rmtree(str(VENV), ignore_errors=True)
    host_pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    without = subprocess.run([*command, "--without-pip"], stderr=subprocess.PIPE, text=True)
    if (
        without.returncode == 0
        and subprocess.call([*host_pip, "--python", str(PYTHON), "install", "-q", "pip"]) == 0
    ):
        return
    shutil.rmtree(str(VENV), ignore_errors=True)
    last = (without.stderr or "no pip").strip().splitlines()[-1:]
    leave(
        "could not make .venv (" + "".join(last) + "); on Debian and Ubuntu: apt install python3-venv, "
        "or use another Python: make PYTHON=/path/to/python3"
    )


def hint_cpu_torch():
    """PyPI's Linux PyTorch brings gigabytes of CUDA; who has no such card may want the small build."""
    chosen = any(name in os.environ for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS"))
    if sys.platform == "linux" and not shutil.which("nvidia-smi") and not chosen:
        say(
            "no NVIDIA GPU seen: PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL "
            "leaves gigabytes of CUDA packages out of the download"
        )


# -- the targets ----------------------------------------------------------------------------------


def run_install(_options):
    install("dev")
    say("run it with: " + str(PYTHON.relative_to(ROOT)) + " -m whorl --help")


def run_demo(options):
    install("run")
    os.environ.setdefault("WHORL_WORKSPACE", str(ROOT / "workspace"))
    call(PYTHON, "-m", "whorl", "quickstart", *options.rest)


def run_test(options, *extra):
    install("dev")
    where = ROOT / "tests" / (options.room or "")
    if not where.is_dir():
        rooms = sorted(
            path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] != "_"
        )
        leave("no room %r under tests; rooms: %s" % (options.room, ", ".join(rooms)))  # noqa: UP031
    # The tests start hundreds of processes; each would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    spread = ["-n", options.jobs, "--dist", "loadfile", "--no-loadscope-reorder"] if options.jobs > 1 else []
    call(PYTHON, "-m", "pytest", where.relative_to(ROOT), *spread, *extra, *options.rest)


def run_soak(options):
    run_test(options, "-m", "soak", "--timeout", "3600")


def run_lint(options):
    install("dev")
    call(PYTHON, "-m", "ruff", "check", ".")
    call(PYTHON, "-m", "ruff", "format", "--check", ".")
    call(PYTHON, "-m", "mypy", *options.rest)
    call(
        PYTHON, "-c", "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )


def run_bench(options):
    install("bench")
    for script in sorted((ROOT / "bench").glob("*.py")):
        if not script.name.startswith("_"):
            say("bench/" + script.name)
            call(PYTHON, script, *options.rest)


def run_wheel(options):
    install("dev")
    call(
        PYTHON,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        "dist",
        *options.rest,
    )
    say("made " + ", ".join(str(path.relative_to(ROOT)) for path in sorted((ROOT / "dist").glob("*.whl"))))


TARGETS = {
    "install": run_install,
    "demo": run_demo,
    "test": run_test,
    "soak": run_soak,
    "lint": run_lint,
    "bench": run_bench,
    "wheel": run_wheel,
}

if __name__ == "__main__":
    sys.exit(main())
