"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest

from mats.recipes import recipe_from
from mats.recipes.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1GiB", 2**30),
        ("1.5k", 1500),
        ("512", 512),
        ("2b", 2),
        ("3MiB", 3 * 2**20),
    ],
)
def test_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert recipe_from({"models": ["a"], "memory_budget": text}).memory_budget == size


@pytest.mark.parametrize("text", ["8XB", "GB", "-1GB", "1e9", "", "0", "8 G B", "half"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give "):
        parse_size(text)
