"""The tiny family of the end-to-end tests, and a way to write sweeps of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))

from tiny_tasks import TinyFamily, build_family


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    """Three specialists of one small BERT; read-only for tests."""
    return build_family("bert", tmp_path_factory.mktemp("sweeps") / "bert")


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the metadata of `tiny_bert` are measured, once for all tests."""
    return tmp_path_factory.mktemp("metadata")


@pytest.fixture
def write_sweep(tiny_bert: TinyFamily, tiny_store: Path, tmp_path: Path) -> Callable[..., Path]:
    """`write_sweep(axes={…}, merge={…}, …)`: a sweep file over the tiny family, its results in `tmp_path / "out"`."""

    def write(merge: Any = "task_arithmetic", name: str = "sweep.yaml", **sections: Any) -> Path:
        curvature = {"examples": 16, "batch_size": 16, "store": str(tiny_store)}
        recipe = tiny_bert.recipe(device="cpu", curvature=curvature, merge=merge, evaluate={"examples": 16})
        path = tmp_path / name
        sweep = {"recipe": recipe, "output": str(tmp_path / "out"), **sections}
        path.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return path

    return write
