"""The examples of docs/datasets.md are read as the page says, and the page names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mats.data import DatasetSpec, load_spec

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_examples_are_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.yaml").write_text(text)
    assert load_spec(tmp_path / "dataset.yaml").name in text


def test_every_key_is_on_the_page() -> None:
    assert [name for name in DatasetSpec.model_fields if name not in PAGE] == []
