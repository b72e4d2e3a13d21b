"""TSV-M and Iso-C through the engine, on real families: as merges, and as starts of a solve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_tasks import TinyFamily

from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import IsoCSettings, MatsSettings, TsvMSettings
from mats.methods.spectral import matrix_shape
from mats.recipes import recipe_from
from mats.recipes.requests import merge_request


@pytest.fixture(autouse=True)
def light_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page and no plots, which take far longer than these merges."""
    monkeypatch.setattr("mats.engine.merging.write_report", lambda *_, **__: [])


def merged(family: TinyFamily, method: object, output: Path) -> tuple[dict[str, torch.Tensor], MergeRequest]:
    recipe = recipe_from({**family.recipe(output=str(output), device="cpu"), "merge": {"method": "average"}})
    asked = merge_request(recipe)
    request = MergeRequest(asked.models, method, output, base=asked.base, device="cpu")  # type: ignore[arg-type]
    return load_file(merge(request).path / "model.safetensors"), request


def stored(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("kind", ["bert", "t5", "vit"])
def test_every_matrix_is_merged_by_its_definition(
    kind: str, tiny_family: Callable[[str], TinyFamily], tmp_path: Path
) -> None:
    found, request = merged(tiny_family(kind), IsoCSettings(scale=0.8), tmp_path / "out")
    base, models = stored(str(request.base)), [stored(model.path) for model in request.models]
    matrices = 0
    for name, tensor in found.items():
        before = base[name].double().numpy()
        total = sum(model[name].double().numpy() - before for model in models)
        change = tensor.double().numpy() - before
        if IsoCSettings().is_matrix(name, tensor.shape):
            matrices += 1
            u, s, vt = np.linalg.svd(total.reshape(matrix_shape(tensor.shape)), full_matrices=False)
            kept = s > 1e-5 * s[0]
            expected = 0.8 * s[kept].mean() * (u[:, kept] @ vt[kept]).reshape(total.shape)
        else:
            expected = 0.8 * total / len(models)
        np.testing.assert_allclose(change, expected, atol=2e-6, err_msg=name)
    assert matrices >= 6


@pytest.mark.parametrize("start", [TsvMSettings(scale=0.9), IsoCSettings()])
def test_a_solve_that_may_not_move_ends_at_its_start(
    start: TsvMSettings | IsoCSettings, tiny_family: Callable[[str], TinyFamily], tmp_path: Path
) -> None:
    """Identity curvature everywhere and an overwhelming anchor."""
    plain, _ = merged(tiny_family("bert"), start, tmp_path / "plain")
    held = MatsSettings(init=start, fallback=("identity",), anchor=1e12, damping=0.0)
    solved, _ = merged(tiny_family("bert"), held, tmp_path / "solved")
    free, _ = merged(tiny_family("bert"), held.model_copy(update={"anchor": 0.0}), tmp_path / "free")
    for name, tensor in plain.items():
        torch.testing.assert_close(solved[name], tensor, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(free[name], tensor, atol=1e-4) for name, tensor in plain.items())


def test_one_model_is_given_back(tiny_family: Callable[[str], TinyFamily], tmp_path: Path) -> None:
    family = tiny_family("bert")
    _, request = merged(family, TsvMSettings(), tmp_path / "all")
    one = MergeRequest(
        (ModelInput("one", request.models[1].path),), TsvMSettings(), tmp_path / "one", base=request.base, device="cpu"
    )
    found = load_file(merge(one).path / "model.safetensors")
    for name, tensor in stored(request.models[1].path).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
