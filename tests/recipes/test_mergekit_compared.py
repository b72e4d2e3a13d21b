"""Merge files carried out by mergekit itself and by this program, tensor by tensor.

Runs where MERGEKIT_PYTHON names a Python that has mergekit; MERGEKIT_TABLE, a file, gets the table of
docs/mergekit.md.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit_cases import CASES, with_paths
from mergekit_models import tensors_of, transformers_family

from mats.engine.merging import merge
from mats.recipes.mergekit import Options, merge_file_request
from mats.yaml_reader import read_yaml

PYTHON = os.environ.get("MERGEKIT_PYTHON")
DRIVER = """
import sys, pathlib, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for path in map(pathlib.Path, sys.argv[1:]):
    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(config, str(path.with_suffix("")), options=options)
"""
TOLERANCE = 1e-6
"""Rounding of float32 on weights around 1."""
ON_OTHERS = ("linear", "task_arithmetic", "ties", "slerp", "nuslerp", "model_stock", "sce", "breadcrumbs")
"""Cases in the form `models`, which any model can be tried on."""
TRIED = [
    *(("llama", "float32", case) for case in CASES),
    *(
        ("llama", "bfloat16", case)
        for case in ("linear", "task_arithmetic_slices", "slerp", "passthrough", "model_stock")
    ),
    *((kind, "float32", case) for kind in ("gpt2", "t5") for case in ON_OTHERS),
]

pytestmark = pytest.mark.skipif(not PYTHON, reason="MERGEKIT_PYTHON names no Python with mergekit")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Path]:
    """Every case's file, with mergekit's output in the folder of the same name."""
    root = tmp_path_factory.mktemp("mergekit")
    paths = {
        (kind, dtype): transformers_family(root / f"{kind}-{dtype}", kind, getattr(torch, dtype))
        for kind, dtype in dict.fromkeys((kind, dtype) for kind, dtype, _ in TRIED)
    }
    files = {}
    for kind, dtype, case in TRIED:
        path = files[kind, dtype, case] = root / f"{kind}-{dtype}-{case}.yaml"
        path.write_text(yaml.safe_dump({**with_paths(CASES[case], paths[kind, dtype]), "dtype": "float32"}))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(PYTHON), "-c", DRIVER, *map(str, files.values())], check=True, env=environment)
    return files


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows of the table, written out at the end if a file is named for it."""
    rows: list[str] = []
    yield rows
    if target := os.environ.get("MERGEKIT_TABLE"):
        head = ["| merge file | model | tensors | largest difference |", "|---|---|---|---|"]
        Path(target).write_text("\n".join([*head, *rows]) + "\n")


@pytest.mark.parametrize(("kind", "dtype", "case"), TRIED)
def test_the_output_is_mergekits(
    kind: str,
    dtype: str,
    case: str,
    theirs: dict[tuple[str, str, str], Path],
    table: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mats.engine.merging.write_report", lambda *_, **__: [])
    file = theirs[kind, dtype, case]
    expected = _named(tensors_of(file.with_suffix("")))
    request = merge_file_request(read_yaml(file), Options(tmp_path / "out", device="cpu"))
    received = _named(tensors_of(merge(request).path))
    assert sorted(received) == sorted(expected)
    worst = max(float((received[name].double() - value.double()).abs().max()) for name, value in expected.items())
    table.append(f"| {case.replace('_', ' ')} | {kind}, {dtype} | {len(expected)} | {worst:.1e} |")
    assert worst <= TOLERANCE


def _named(tensors: dict[str, Any]) -> dict[str, Any]:
    """Names without the prefix that mergekit adds to GPT-2's."""
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
