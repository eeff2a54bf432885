"""The steps of a run: signals to annotate, filters that set documents aside, duplicates, the split.

A step holds a function, or its name (`module:name`, `file.py:name`, or a name in `SIGNALS` or
`FILTERS`), so that worker processes, which share no memory, can find it.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from whorl.base.config import nearest, resolve
from whorl.base.errors import DataError, InputError, WhorlError
from whorl.base.files import sha256_file
from whorl.data.config import DataConfig, MinHashConfig, SplitConfig
from whorl.data.dedup.minhash import Sketch
from whorl.data.document import Document, SignalValue

Signal = Callable[[Document], SignalValue]
Filter = Callable[[Document], str | None]


@dataclass(frozen=True)
class Annotate:
    """Keep what `signal` says of a document under `name`."""

    name: str
    signal: Signal | str = ""


@dataclass(frozen=True)
class Keep:
    """Set aside the documents for which `filter` gives a reason."""

    name: str
    filter: Filter | str = ""


@dataclass(frozen=True)
class ExactDedup:
    """Of documents with the same content, keep the first."""

    name: str = "exact"


@dataclass(frozen=True)
class NearDedup:
    """Of documents in one MinHash cluster, keep the first."""

    config: MinHashConfig = field(default_factory=MinHashConfig)
    name: str = "near"

    @property
    def sketch(self) -> Sketch:
        config = self.config
        return Sketch(ngram=config.ngram, hashes=max(112, config.bands * config.rows), seed=config.seed)


@dataclass(frozen=True)
class Split:
    """Hold out whole clusters of similar documents."""

    config: SplitConfig = field(default_factory=SplitConfig)
    name: str = "split"

    @property
    def sketch(self) -> Sketch:
        return Sketch(ngram=self.config.ngram)


Step = Annotate | Keep | ExactDedup | NearDedup | Split
_ORDER = (Annotate, Keep, ExactDedup, NearDedup, Split)


def steps_of(config: DataConfig) -> list[Step]:
    """The steps a recipe asks for, in the order they run."""
    steps: list[Step] = [Annotate(name, name) for name in _signal_names(config.signals)]
    steps += [Keep(name, name) for name in config.filters]
    if config.exact:
        steps.append(ExactDedup())
    if config.near:
        steps.append(NearDedup(config.minhash))
    if config.split.validation:
        steps.append(Split(config.split))
    return steps


def _signal_names(names: Sequence[str]) -> list[str]:
    if "all" not in names:
        return list(names)
    from whorl.data.signals import SIGNALS

    return [*SIGNALS, *(name for name in names if name != "all" and name not in SIGNALS)]


def check_steps(steps: Iterable[Step]) -> None:
    """Raises `InputError` for steps out of order or named twice, and for functions that cannot be
    found or sent to another process."""
    seen: dict[str, int] = {}
    last = 0
    for step in steps:
        if not isinstance(step, _ORDER):
            raise InputError(f"{step!r} is not a step; use Annotate, Keep, ExactDedup, NearDedup or Split")
        place = max(1, _ORDER.index(type(step)))  # signals and filters may alternate
        if place < last:
            raise InputError(f"step {step.name!r} is out of order; the order is filters, exact, near, split")
        if place > 1 and place == last:
            raise InputError(f"step {step.name!r}: only one step of its kind is allowed")
        if seen.setdefault(f"{type(step).__name__} {step.name}", id(step)) != id(step):
            raise InputError(f"there are two steps named {step.name!r}")
        last = place
        if isinstance(step, Annotate | Keep):
            _check_function(step)


def _check_function(step: Annotate | Keep) -> None:
    function = function_of(step)
    if not callable(function):
        raise InputError(f"step {step.name!r} is a {type(function).__name__}, not a function of a document")
    try:
        pickle.dumps(step)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        remedy = "define it at the top of a module, or give it as module:name"
        raise InputError(f"step {step.name!r} cannot be sent to worker processes; {remedy}") from error


def function_of(step: Annotate | Keep) -> Callable[[Document], Any]:
    """The function a step stands for."""
    given = step.signal if isinstance(step, Annotate) else step.filter
    if not isinstance(given, str):
        return given
    name = given or step.name
    found: Callable[[Document], Any] = (
        resolve(name) if ":" in name else _known(isinstance(step, Annotate), name)
    )
    return found


def _known(signal: bool, name: str) -> Any:
    table: Mapping[str, Any]
    if signal:
        from whorl.data.signals import SIGNALS

        what, table = "signal", SIGNALS
    else:
        from whorl.data.filters import FILTERS

        what, table = "filter", FILTERS
    if name not in table:
        raise InputError(f"no {what} {name!r}{nearest(name, table)} (or give module:name, file.py:name)")
    return table[name]


def describe(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What the steps do, as plain JSON: names, settings, and the hash of the file each function is in,
    so that an unfinished run is not gone on with under changed code."""
    return [_describe(step) for step in steps]


def _describe(step: Step) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": type(step).__name__, "name": step.name}
    if isinstance(step, Annotate | Keep):
        function = function_of(step)
        said["function"] = _name_of(function, step.name)
        said["code"] = _code_hash(function)
    elif isinstance(step, NearDedup | Split):
        said["config"] = step.config.model_dump(mode="json")
    return said


def _name_of(function: Any, step: str) -> str:
    if isinstance(function, partial):
        given = [*map(repr, function.args), *(f"{key}={value!r}" for key, value in function.keywords.items())]
        return f"{_name_of(function.func, step)}({', '.join(given)})"
    if inspect.isroutine(function):
        return f"{function.__module__}:{function.__qualname__}"
    name = repr(function)
    if " at 0x" in name:  # an object's address is another one in the next run
        raise InputError(
            f"step {step!r}: {type(function).__name__} needs a repr of its settings; use a dataclass"
        )
    return f"{type(function).__module__}:{name}"


def _code_hash(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    try:
        path = inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:  # built into Python
        path = None
    return sha256_file(path) if path else ""


class Steps:
    """The signals and filters, ready to be applied to one document after another."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._functions = [(step, function_of(step)) for step in steps if isinstance(step, Annotate | Keep)]

    def apply(self, document: Document) -> tuple[str, str] | None:
        """Annotate `document`; None to keep it, or (step, reason) of the filter that set it aside."""
        for step, function in self._functions:
            try:
                said = function(document)
            except WhorlError:
                raise
            except Exception as error:
                place = f"{document.source}:{document.line}"
                problem = f"{type(error).__name__}: {error}"
                raise DataError(
                    f"step {step.name!r} failed on document {document.id} ({place}): {problem}"
                ) from error
            if isinstance(step, Annotate):
                document.signals[step.name] = said
            elif said is not None:
                return step.name, said
        return None
