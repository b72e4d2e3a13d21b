"""Families of tiny models on disk, made once per session."""

from __future__ import annotations

import pytest
from engine_families import Family, make_family
from light_reports import write_light_report


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
    """Only report.json; see `light_reports`."""
    monkeypatch.setattr("mats.engine.merging.write_report", write_light_report)
