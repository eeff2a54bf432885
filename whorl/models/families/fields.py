"""Reading a Hugging Face `config.json` field by field, with errors that name file and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whorl.base.errors import InputError

ACTIVATION_NAMES = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
}  # fmt: skip
ACTIVATION_WRITTEN = {"silu": "silu", "gelu": "gelu", "relu": "relu", "gelu_tanh": "gelu_pytorch_tanh"}


class Fields:
    """The fields of one config (or of a part of it), over the defaults of its family's class.

    `where` is the file, and the part within it, that errors name. A field that is null where the
    family's class gives null no meaning counts as absent.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.values, self.where, self.defaults = dict(values), where, dict(defaults or {})

    def over(self, defaults: Mapping[str, Any]) -> Fields:
        """The same fields over other defaults."""
        return Fields(self.values, self.where, defaults)

    def raw(self, name: str) -> Any:
        """What the file says, else the family's default, else None."""
        return self.values[name] if name in self.values else self.defaults.get(name)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1; `default` stands in for an absent or null one."""
        value = self.optional_size(name)
        if value is not None:
            return value
        fallback = default if default is not None else self.defaults.get(name)
        if fallback is None:
            raise InputError(f"{self.where}: {name} is missing; the model's sizes must be given")
        return int(fallback)

    def optional_size(self, name: str) -> int | None:
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, "a whole number of at least 1")
        return value

    def number(self, name: str) -> float:
        value = self.optional_number(name)
        if value is None:
            raise InputError(f"{self.where}: {name} is missing")
        return value

    def optional_number(self, name: str) -> float | None:
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(name, "a number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def activation(self, *names: str) -> str:
        """The activation under the first of `names` that is given, in our spelling."""
        name = next((name for name in names if self.values.get(name) is not None), names[-1])
        value = self.raw(name)
        if value not in ACTIVATION_NAMES:
            raise self.wrong(name, f"one of {', '.join(ACTIVATION_NAMES)}")
        return ACTIVATION_NAMES[value]

    def part(self, name: str) -> Fields:
        """An object inside the config; an absent one is empty."""
        value = self.raw(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def layer_types(self, layers: int) -> tuple[int, ...] | None:
        """Which layers slide a window, where `layer_types` says so."""
        kinds = self.raw("layer_types")
        if kinds is None:
            return None
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise self.wrong("layer_types", f"a list of {layers} entries, one per layer")
        for kind in kinds:
            if kind not in ("sliding_attention", "full_attention"):
                raise InputError(
                    f"{self.where}: layer_types contains {kind!r}; Whorl has full and sliding_attention"
                )
        return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")

    def refuse(self, *names: str) -> None:
        """Raise for each field that changes the model and that Whorl cannot honour, when it is set."""
        for name in names:
            value = self.raw(name)
            if value not in (None, False, {}, []):
                raise InputError(
                    f"{self.where}: {name} is {_short(value)}, which Whorl's decoder does not support"
                )

    def wrong(self, name: str, expected: str) -> InputError:
        return InputError(f"{self.where}: {name} is {_short(self.raw(name))}; expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class UnfitError(Exception):
    """A point in the space of axes that this family cannot express; says which axis."""
