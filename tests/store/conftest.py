"""Stores on disk for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from store_cases import manifest_of, sums_of

from mats.store import write_store


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Write the store of some example numbers under a name; keyword arguments replace manifest fields."""

    def written(name: str, examples: Sequence[int] = range(8), **changes: object) -> Path:
        sums = sums_of(examples)
        write_store(tmp_path / name, manifest_of(sums, **changes), sums, {"seconds": 1.5})
        return tmp_path / name

    return written
