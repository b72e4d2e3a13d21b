"""`solve` on plain tensors: every way to say what C_i is, shapes, refusals, and its own example."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch
from oracles import anchor_strength, anchored_merge, kronecker
from torch import Tensor

import mats.solving
from mats.errors import NonFiniteStatistic, NonFiniteWeights, RequestError, ShapeMismatch
from mats.quadratics import IdentityQuadratic
from mats.solvers import SolverSettings, StopReason
from mats.solving import RowMoments, solve

OUT, IN = 3, 4


def gram(size: int, rows: int = 9) -> Tensor:
    data = torch.randn(rows, size, dtype=torch.float64)
    return data.T @ data / rows


@pytest.fixture
def targets() -> list[Tensor]:
    return [torch.randn(OUT, IN, dtype=torch.float64) for _ in range(3)]


def expected(
    curvatures: list[Any], targets: list[Tensor], start: Tensor, weights: list[float], anchor: float
) -> Tensor:
    arrays = [t.numpy().reshape(1, -1) if t.dim() == 1 else t.numpy() for t in targets]
    x0 = start.numpy().reshape(1, -1) if start.dim() == 1 else start.numpy()
    mu = anchor_strength(curvatures, weights, anchor)
    return torch.from_numpy(anchored_merge(curvatures, arrays, x0, weights, mu)).reshape(start.shape)


@pytest.mark.parametrize("solver", ["pcg", "cg", "direct", "auto"])
def test_kfac(targets: list[Tensor], solver: str) -> None:
    A, G = [gram(IN) for _ in targets], [gram(OUT) for _ in targets]
    weights, start = [1.0, 0.5, 2.0], torch.zeros(OUT, IN, dtype=torch.float64)
    solution = solve(
        targets, input_grams=A, output_grams=G, start=start, model_weights=weights, solver=solver,
        anchor=0.2, damping=0.0, tolerance=1e-10, precision="float64",
    )  # type: ignore[arg-type]  # fmt: skip
    truth = expected([kronecker(g, a) for g, a in zip(G, A, strict=True)], targets, start, weights, 0.2)
    torch.testing.assert_close(solution.value, truth, rtol=1e-7, atol=1e-8)


def test_regmean_fisher_and_average(targets: list[Tensor]) -> None:
    mean = torch.stack(targets).mean(dim=0)
    A, F = [gram(IN) for _ in targets], [torch.rand(OUT, IN, dtype=torch.float64) for _ in targets]
    ones = [1.0] * 3
    regmean = solve(targets, input_grams=A, tolerance=1e-10).value
    truth = expected([kronecker(np.eye(OUT), a.numpy()) for a in A], targets, mean, ones, 0.1)
    torch.testing.assert_close(regmean, truth, rtol=1e-6, atol=1e-7)
    fisher = solve(targets, diagonals=F, solver="direct", anchor=0.0, damping=0.0).value
    torch.testing.assert_close(fisher, sum(f * t for f, t in zip(F, targets, strict=True)) / sum(F))
    average = solve(
        targets, quadratic=IdentityQuadratic(ones, (1, OUT, IN)), start=torch.zeros_like(mean), anchor=0.0, damping=0.0
    )
    torch.testing.assert_close(average.value, mean, rtol=1e-4, atol=1e-5)


def test_vectors_and_blocks() -> None:
    targets = [torch.randn(4, dtype=torch.float64) for _ in range(2)]
    blocks = [gram(4, rows=2) for _ in range(2)]
    solution = solve(targets, input_grams=blocks, tolerance=1e-10)
    assert solution.value.shape == (4,)
    truth = expected([b.numpy() for b in blocks], targets, sum(targets) / 2, [1.0, 1.0], 0.1)
    torch.testing.assert_close(solution.value, truth, rtol=1e-7, atol=1e-8)
    diagonal = solve(targets, input_grams=[b.diagonal() for b in blocks], tolerance=1e-10).value
    same = solve(targets, diagonals=[b.diagonal() for b in blocks], tolerance=1e-10).value
    torch.testing.assert_close(diagonal, same)


@pytest.mark.parametrize("solver", ["pcg", "cg", "direct"])
def test_factored_damping_by_the_dense_definition(targets: list[Tensor], solver: str) -> None:
    """Σ λ (G + s ḡ I) Δ (A + s ā I) = Σ λ G (W − x0) A; a pull by the identity of any strength is something else."""
    strength, weights = 0.2, [1.0, 0.5, 2.0]
    A, G = [gram(IN, rows=2) for _ in targets], [gram(OUT, rows=2) for _ in targets]
    start = torch.randn(OUT, IN, dtype=torch.float64)
    left, right = np.zeros((OUT * IN,) * 2), np.zeros(OUT * IN)
    for weight, g, a, target in zip(weights, G, A, targets, strict=True):
        damped = [m.numpy() + strength * float(m.trace()) / len(m) * np.eye(len(m)) for m in (g, a)]
        left += weight * np.kron(damped[0], damped[1])
        right += weight * np.kron(g.numpy(), a.numpy()) @ (target - start).numpy().ravel()
    truth = start + torch.from_numpy(np.linalg.solve(left, right)).reshape(OUT, IN)
    options: dict[str, Any] = {"input_grams": A, "output_grams": G, "start": start, "model_weights": weights}
    options |= {"solver": solver, "tolerance": 1e-11, "precision": "float64"}
    solution = solve(targets, damping=strength, **options)
    torch.testing.assert_close(solution.value, truth, rtol=1e-8, atol=1e-9)
    assert len(solution.certificates[0].loss_after) == len(targets)
    for anchor in (0.01, 0.1, 1.0):
        plain = solve(targets, damping=0.0, anchor=anchor, **options).value
        assert (plain - truth).norm() > 1e-2 * (truth - start).norm()


def test_curvature_of_one_factor_is_anchored_by_the_damping(targets: list[Tensor]) -> None:
    A = [gram(IN) for _ in targets]
    damped = solve(targets, input_grams=A, damping=0.3, tolerance=1e-10).value
    torch.testing.assert_close(damped, solve(targets, input_grams=A, damping=0.0, anchor=0.3, tolerance=1e-10).value)


def test_batches_and_stacks(targets: list[Tensor], device: str) -> None:
    A, G = [gram(IN).to(device) for _ in targets], [gram(OUT).to(device) for _ in targets]
    targets = [target.to(device) for target in targets]
    alone = solve(targets, input_grams=A, output_grams=G)
    stacked = solve(torch.stack(targets), input_grams=torch.stack(A), output_grams=torch.stack(G))
    torch.testing.assert_close(stacked.value, alone.value)
    batched = solve(
        [t.expand(2, OUT, IN) for t in targets],
        input_grams=[a.expand(2, IN, IN) for a in A],
        output_grams=[g.expand(2, OUT, OUT) for g in G],
        snapshots=(1,),
    )
    assert batched.value.shape == batched.snapshots[1].shape == (2, OUT, IN)
    assert len(batched.certificates) == 2
    torch.testing.assert_close(batched.value[1], alone.value, rtol=1e-3, atol=1e-4)


def test_settings_at_once(targets: list[Tensor]) -> None:
    A = [gram(IN) for _ in targets]
    settings = SolverSettings(name="direct", anchor=0.3, damping=0.0)
    assert solve(targets, input_grams=A, settings=settings).certificates[0].stop_reason is StopReason.CLOSED_FORM
    torch.testing.assert_close(
        solve(targets, input_grams=A, settings=settings).value,
        solve(targets, input_grams=A, anchor=0.3, damping=0.0, tolerance=1e-9).value, rtol=1e-6, atol=1e-7,
    )  # fmt: skip


def test_shrinkage_reaches_the_factors(targets: list[Tensor]) -> None:
    rows = [torch.randn(5, IN, dtype=torch.float64) for _ in targets]
    A = [r.T @ r / 5 for r in rows]
    moments = RowMoments([5.0] * 3, [float((r.square().sum(dim=1) ** 2).sum()) for r in rows])
    plain = solve(targets, input_grams=A, solver="direct").value
    results = {
        str(rule): solve(targets, input_grams=A, solver="direct", shrinkage=rule, input_moments=moments).value
        for rule in (0.5, "oas", "ledoit_wolf")
    }
    by_hand = [0.5 * a + 0.5 * a.trace() / IN * torch.eye(IN, dtype=torch.float64) for a in A]
    torch.testing.assert_close(results["0.5"], solve(targets, input_grams=by_hand, solver="direct").value)
    for value in results.values():
        assert (value - plain).norm() > 1e-3 * plain.norm()
    with pytest.raises(RequestError, match=r"shrinkage ledoit_wolf needs the number of rows and"):
        solve(targets, input_grams=A, shrinkage="ledoit_wolf")
    with pytest.raises(RequestError, match=r"shrinkage 'wolf'; expected a number"):
        solve(targets, input_grams=A, shrinkage="wolf")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"input_grams: shrinkage needs full matrices"):
        solve(targets, input_grams=[a.diagonal() for a in A], shrinkage=0.5)
    with pytest.raises(ShapeMismatch, match=r"moments of 1 models for 3 targets"):
        solve(targets, input_grams=A, shrinkage="oas", input_moments=RowMoments([5.0]))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, RequestError, r"no curvature given; pass input_grams, diagonals or a quadratic"),
    "both": ({"input_grams": 1, "diagonals": 1}, RequestError, r"diagonals exclude input_grams"),
    "weights": ({"input_grams": 1, "model_weights": [1.0]}, ShapeMismatch, r"1 model weights for 3 targets"),
    "negative": ({"input_grams": 1, "model_weights": [1.0, -1.0, 1.0]}, RequestError, r"model weight 1 is -1\.0"),
    "anchor": ({"input_grams": 1, "anchor": -1.0}, RequestError, r"solver anchor is -1\.0"),
    "damping": ({"input_grams": 1, "damping": -1.0}, RequestError, r"solver damping is -1\.0"),
    "solver": ({"input_grams": 1, "solver": "lu"}, RequestError, r"solver name 'lu'"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_requests_that_make_no_sense(targets: list[Tensor], wrong: str) -> None:
    arguments, error, message = WRONG[wrong]
    values = {"input_grams": [gram(IN) for _ in targets], "diagonals": [t.square() for t in targets]}
    filled = {key: values.get(key, value) for key, value in arguments.items()}
    with pytest.raises(error, match=message):
        solve(targets, **filled)


def test_shapes_are_named(targets: list[Tensor]) -> None:
    A = [gram(IN) for _ in targets]
    with pytest.raises(ShapeMismatch, match=r"targets\[1\] has shape \(4, 3\), targets\[0\] \(3, 4\)"):
        solve([targets[0], targets[1].T, targets[2]], input_grams=A)
    with pytest.raises(ShapeMismatch, match=r"input_grams\[0\] has shape \[3, 3\]; expected \[4, 4\] or \[4\]"):
        solve(targets, input_grams=[gram(OUT) for _ in targets])
    with pytest.raises(ShapeMismatch, match=r"input_grams\[2\] has shape \[3, 3\], input_grams\[0\] \[4, 4\]"):
        solve(targets, input_grams=[A[0], A[1], gram(OUT)])
    with pytest.raises(ShapeMismatch, match=r"input_grams: 2 tensors for 3 targets"):
        solve(targets, input_grams=A[:2])
    with pytest.raises(ShapeMismatch, match=r"start has shape \(4, 3\)"):
        solve(targets, input_grams=A, start=targets[0].T)
    with pytest.raises(RequestError, match=r"targets: none given"):
        solve([], input_grams=[])
    with pytest.raises(RequestError, match=r"targets\[0\] is torch\.int64; expected a tensor of a floating dtype"):
        solve([targets[0].long()], input_grams=A[:1])
    with pytest.raises(
        RequestError, match=r"input_grams\[1\] is torch\.float32 on cpu, input_grams\[0\] torch\.float64"
    ):
        solve(targets, input_grams=[A[0], A[1].float(), A[2]])


def test_numbers_are_named(targets: list[Tensor]) -> None:
    A = [gram(IN) for _ in targets]
    A[2][1, 1] = float("nan")
    with pytest.raises(NonFiniteStatistic, match=r"right factor of model 2, system 0: entry \(1, 1\) is nan"):
        solve(targets, input_grams=A)
    A[2] = gram(IN)
    targets[1][0, 3] = float("inf")
    with pytest.raises(NonFiniteWeights, match=r"target 1: entry \(0, 0, 3\) is inf"):
        solve(targets, input_grams=A)


def test_inputs_are_not_modified(targets: list[Tensor]) -> None:
    A, G = [gram(IN) for _ in targets], [gram(OUT) for _ in targets]
    before = [t.clone() for t in (*targets, *A, *G)]
    for solver in ("pcg", "cg", "direct"):
        solve(targets, input_grams=A, output_grams=G, solver=solver, shrinkage=0.1)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(before, (*targets, *A, *G), strict=True))


def test_docstring_runs() -> None:
    assert doctest.testmod(mats.solving).failed == 0


@pytest.mark.parametrize(("key", "meant"), [("weights", "model_weights"), ("dampingg", "damping"), ("tole", "tol")])
def test_a_misspelt_argument_is_not_passed_over(targets: list[Tensor], key: str, meant: str) -> None:
    grams = [gram(IN) for _ in targets]
    with pytest.raises(RequestError, match=rf"solve: unknown argument '{key}'; did you mean '{meant}'\?"):
        solve(targets, input_grams=grams, **{key: 0.1})  # type: ignore[arg-type]
