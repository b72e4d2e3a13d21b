"""`missing:` puts something where a model lacks a tensor, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mats.engine import MergeRequest, ModelInput, merge, plan_merge
from mats.errors import InputsMismatch, RequestError
from mats.methods import FormulaSettings

pytestmark = pytest.mark.usefixtures("light_report")


def write(folder: Path, **tensors: torch.Tensor) -> str:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def wanted(tmp_path: Path) -> MergeRequest:
    """a has x, y and ids; b lacks y and ids."""
    first = write(tmp_path / "a", x=torch.tensor([1.0, 2.0]), y=torch.tensor([[3.0]]), ids=torch.tensor([7, 8]))
    second = write(tmp_path / "b", x=torch.tensor([10.0, 20.0]))
    models = (ModelInput("a", first), ModelInput("b", second))
    return MergeRequest(models, FormulaSettings(formula="a - 0.5*b"), tmp_path / "out", device="cpu")


def merged(request: MergeRequest) -> dict[str, torch.Tensor]:
    return load_file(merge(request).path / "model.safetensors")


@pytest.mark.parametrize(("how", "expected"), [("zeros", 3.0), ("ones", 2.5), ("copy", 1.5)])
def test_only_what_is_absent_is_filled(wanted: MergeRequest, how: str, expected: float) -> None:
    """In DEM any of these words overwrote every tensor of every model, integer buffers too."""
    request = replace(wanted, missing=how)
    result = merged(request)
    assert result["x"].tolist() == [-4.0, -8.0]
    assert result["y"].tolist() == [[expected]]
    assert result["ids"].tolist() == [7, 8]
    notes = plan_merge(replace(request, output=wanted.output.with_name("other"))).notes
    assert any(note.startswith("model b lacks 1 tensors (first: y)") for note in notes)


def test_a_base_keeps_its_own_unless_told_otherwise(wanted: MergeRequest) -> None:
    base, (first, second) = wanted.models[0].path, wanted.models
    request = replace(wanted, base=base, models=(second,), method=FormulaSettings(formula="base + 0.5*(b - base)"))
    assert merged(request)["y"].tolist() == [[3.0]]
    assert merged(replace(request, missing="zeros", overwrite=True))["y"].tolist() == [[1.5]]
    assert merged(replace(request, missing="copy", overwrite=True))["y"].tolist() == [[3.0]]
    with pytest.raises(
        InputsMismatch, match=r"model b lacks 2 tensors of a \(first: ids\); `missing:` base \(the result"
    ):
        merge(replace(request, missing="error", overwrite=True))
    assert first.name == "a"


def test_without_a_base_nothing_is_guessed(wanted: MergeRequest) -> None:
    with pytest.raises(
        InputsMismatch, match=r"model b lacks 2 tensors of a .*`missing:` zeros, ones or copy, or a `base:`"
    ):
        merge(wanted)
    with pytest.raises(RequestError, match="missing: 'nothing'; one of base, error, zeros, ones, copy"):
        replace(wanted, missing="nothing")  # type: ignore[arg-type]
