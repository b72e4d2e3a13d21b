"""Families of tiny models on disk, made once per session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_families import Family, make_family


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Three BERT classifiers; unequal examples and tokens; q, k, v share a site."""
    shared = {
        f"bert.encoder.layer.{layer}.attention.self.{part}": f"bert.encoder.layer.{layer}.attention.self.query"
        for layer in range(2)
        for part in ("key", "value")
    }
    root = tmp_path_factory.mktemp("bert")
    return make_family(root, "bert", examples=[11, 5, 30], rank=[40, 9, 70], shared=shared)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Two T5, no biases."""
    return make_family(tmp_path_factory.mktemp("t5"), "t5", models=2, output_gram_limit=36)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Two GPT-2: transposed weights, tied embedding."""
    return make_family(tmp_path_factory.mktemp("gpt2"), "gpt2", models=2, output_gram_limit=100)


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Two ViT: a convolution."""
    return make_family(tmp_path_factory.mktemp("vit"), "vit", models=2)


@pytest.fixture
def light_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only report.json, without the page and plots, which take far longer than the merge of a tiny model."""

    def write(report: dict[str, Any], folder: Path, **_: object) -> list[str]:
        (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True))
        return ["report.json"]

    monkeypatch.setattr("mats.engine.merging.write_report", write)
