from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError
from mats.store import settings_digits, store_folder

PARTS = ("paws", "paws", "validation", "empirical", "mean")


def test_the_name_says_what_was_measured():
    folder = store_folder("metadata", *PARTS, {"seed": 0})
    assert re.fullmatch(r"metadata/paws/paws-validation-empirical-mean-[0-9a-f]{8}", folder.as_posix())


def test_every_setting_changes_the_digits_and_key_order_does_not():
    base = settings_digits({"seed": 0, "statistics": ("a", "b")})
    assert base == settings_digits({"statistics": ["a", "b"], "seed": 0})
    assert base != settings_digits({"seed": 1, "statistics": ("a", "b")})
    assert base != settings_digits({"seed": 0, "statistics": ("a",)})


@given(st.text(min_size=1).filter(lambda text: re.search("[a-z0-9]", text, re.ASCII)))
def test_any_name_becomes_one_folder(name):
    folder = store_folder("metadata", name, name, "validation", "empirical", "mean", {})
    assert len(folder.parts) == 3
    assert not folder.parts[1].startswith(".")


def test_names_made_equal_by_cleaning_stay_apart():
    a = store_folder("metadata", "google/t5", *PARTS[1:], {})
    b = store_folder("metadata", "google--t5", *PARTS[1:], {})
    assert a.parent == b.parent
    assert a != b


def test_names_without_letters_and_odd_settings_are_refused():
    with pytest.raises(RequestError, match=r"model name '\.\.': no letter or digit"):
        store_folder("metadata", "..", *PARTS[1:], {})
    with pytest.raises(RequestError, match="only JSON values"):
        settings_digits({"f": object()})
