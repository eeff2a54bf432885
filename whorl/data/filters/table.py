"""The filters by the names a recipe uses. A dotted path `module:name` works wherever these do."""

from __future__ import annotations

from collections.abc import Callable

from whorl.data.document import Document
from whorl.data.filters.c4 import c4_quality
from whorl.data.filters.fineweb import fineweb_quality, fineweb_recipe
from whorl.data.filters.gopher import gopher_quality, gopher_repetition

Filter = Callable[[Document], str | None]

FILTERS: dict[str, Filter] = {
    "gopher_quality": gopher_quality,
    "gopher_repetition": gopher_repetition,
    "c4_quality": c4_quality,
    "fineweb_quality": fineweb_quality,
    "fineweb": fineweb_recipe,
}
