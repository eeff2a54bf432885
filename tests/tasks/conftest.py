import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def test_data() -> Callable[[str], Path]:
    """The path of a real file for tests; skips by its name where it is absent."""
    folder = Path(os.environ.get("WHORL_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"needs {name} in $WHORL_TEST_DATA")
        return folder / name

    return find
