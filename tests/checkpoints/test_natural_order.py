"""The order of tensors: numbers by value, text by its characters."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mats.checkpoints.tensors import natural_order


def by_parts(name: str) -> list[tuple[bool, int, str]]:
    """The order said plainly: texts and numbers in turn."""
    parts = re.split(r"([0-9]+)", name)
    return [(True, int(part), "") if part.isdigit() else (False, 0, part) for part in parts]


@given(st.lists(st.text(alphabet="ab._-0129", max_size=12), max_size=12))
def test_the_key_orders_as_texts_and_numbers_do(names: list[str]) -> None:
    assert sorted(names, key=natural_order) == sorted(names, key=by_parts)


def test_layers_count_on() -> None:
    names = [f"model.layers.{number}.weight" for number in (0, 2, 9, 10, 100)]
    shuffled = [names[at] for at in (3, 0, 4, 2, 1)]
    assert sorted(shuffled, key=natural_order) == names
    assert sorted(names) != names
