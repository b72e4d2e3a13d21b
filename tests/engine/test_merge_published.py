"""Under the published preset a merge follows the published code: its CG by SciPy, its averages, its lm_head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.linalg
from engine_families import Family

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, merge
from mats.methods.published import published_settings

pytestmark = pytest.mark.usefixtures("light_report")
LAYER = "encoder.block.1.layer.1.DenseReluDense.wo"


def run(family: Family, output: Path, method):
    result = merge(MergeRequest(family.inputs(), method, output, base=str(family.base), device="cpu"))
    with open_checkpoint(result.path) as merged:
        return {name: merged.read(name).double().numpy() for name in merged.tensors}, result.report


def scipy_cg(family: Family, layer: str, iterations: int) -> np.ndarray:
    """The published solve: V = Wᵀ flattened, operator Σ A V G, A and G over their own tokens, from task vectors 0.3."""
    name = f"{layer}.weight"
    stacks = []
    for raw, state in zip(family.raw, family.states, strict=True):
        site = raw.layers[layer].site
        A = raw.sums.tensors[f"input_gram/{site}"].numpy() / raw.sums.tokens[f"site:{site}"]
        G = raw.sums.tensors[f"output_gram/{layer}"].numpy() / raw.sums.tokens[f"layer:{layer}"]
        stacks.append((A, state[name].double().numpy().T, G))
    base = family.base_state[name].double().numpy().T
    start = base + 0.3 * sum(V - base for _, V, _ in stacks)
    operator = scipy.sparse.linalg.LinearOperator(
        (start.size, start.size), lambda v: sum(A @ v.reshape(start.shape) @ G for A, _, G in stacks).ravel()
    )
    right = sum(A @ V @ G for A, V, G in stacks).ravel()
    found, _ = scipy.sparse.linalg.cg(operator, right, x0=start.ravel(), rtol=1e-12, maxiter=iterations)
    return found.reshape(start.shape).T


@pytest.mark.parametrize("iterations", [1, 4, 12])
def test_kfac_iterates_are_scipys(t5: Family, tmp_path: Path, iterations: int) -> None:
    preset = published_settings("mats")
    solver = preset.solver.model_copy(update={"max_iterations": iterations, "tolerance": 0.0})
    merged, report = run(t5, tmp_path / "out", preset.model_copy(update={"solver": solver}))
    found, expected = merged[f"{LAYER}.weight"], scipy_cg(t5, LAYER, iterations)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    further = scipy_cg(t5, LAYER, iterations + 1)
    assert np.linalg.norm(found - further) > 5 * np.linalg.norm(found - expected)
    entry = next(layer for layer in report["layers"] if layer["name"] == f"{LAYER}.weight")
    assert entry["iterations"] == iterations


def test_outside_and_lm_head(t5: Family, tmp_path: Path) -> None:
    """K-FAC averages norms, embeddings and lm_head; RegMean merges lm_head by its input Gram."""
    by_kfac, report = run(t5, tmp_path / "kfac", published_settings("mats"))
    assert set(report["parameters"]["by_rule"]) == {"kfac", "init"}
    for name in ("lm_head.weight", "shared.weight", "encoder.block.0.layer.0.layer_norm.weight"):
        mean = sum(state[name].double().numpy() for state in t5.states) / 2
        np.testing.assert_allclose(by_kfac[name], mean, atol=1e-6)
    by_regmean, _ = run(t5, tmp_path / "regmean", published_settings("regmean"))
    grams = []
    for raw in t5.raw:
        A = raw.sums.tensors["input_gram/lm_head"].numpy() / raw.sums.tokens["site:lm_head"]
        grams.append(0.8 * A + 0.2 * np.diag(np.diag(A)))
    heads = [state["lm_head.weight"].double().numpy().T for state in t5.states]
    expected = np.linalg.inv(sum(grams)) @ sum(A @ V for A, V in zip(grams, heads, strict=True))
    np.testing.assert_allclose(by_regmean["lm_head.weight"], expected.T, atol=1e-5)


def test_fisher_with_the_absolute_floor(t5: Family, tmp_path: Path) -> None:
    """Σ F̂ θ ÷ Σ F̂ with F̂ = max(F, 1e-8); two models count alike (published: the second counts as 0)."""
    merged, _ = run(t5, tmp_path / "fisher", published_settings("fisher"))
    name = "encoder.block.0.layer.0.layer_norm.weight"
    fishers = [np.maximum(raw.sums.tensors[f"diagonal/{name}"].numpy() / raw.examples, 1e-8) for raw in t5.raw]
    values = [state[name].double().numpy() for state in t5.states]
    expected = sum(F * v for F, v in zip(fishers, values, strict=True)) / sum(fishers)
    np.testing.assert_allclose(merged[name], expected, atol=1e-6)


def test_average_of_two_is_not_the_first(t5: Family, tmp_path: Path) -> None:
    merged, _ = run(t5, tmp_path / "average", published_settings("average"))
    by_cg, _ = run(t5, tmp_path / "cg", published_settings("average_cg"))
    for name, value in merged.items():
        np.testing.assert_allclose(value, sum(s[name].double().numpy() for s in t5.states) / 2, atol=1e-6)
        np.testing.assert_allclose(by_cg[name], value, atol=1e-5)
