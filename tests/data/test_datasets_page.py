"""The examples of docs/datasets.md are read as the page says, and the page names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from mats.data import DatasetSpec, GenerationSettings, PerplexitySettings, Prompts, SplitRule, load_spec, metrics_for
from mats.data.sources import CsvSource, HubSource
from mats.data.spec import Columns
from mats.data.split_rules import LabelSkew, RowFilter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
MODELS = [DatasetSpec, Columns, SplitRule, LabelSkew, RowFilter, CsvSource, HubSource, Prompts]
MODELS += [GenerationSettings, PerplexitySettings]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_examples_are_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "promptsource").symlink_to(ROOT / "configs" / "promptsource")
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    assert load_spec(tmp_path / "dataset.yaml").name in text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_on_the_page(model: type[BaseModel]) -> None:
    assert [name for name in model.model_fields if name not in PAGE] == []


def test_every_metric_is_on_the_page() -> None:
    tasks = ("text_classification", "text_regression", "text_to_text", "language_modeling")
    known = {name for task in tasks for name in metrics_for(task, has_choices=False)}
    assert [name for name in sorted(known) if f"`{name}`" not in PAGE] == []
