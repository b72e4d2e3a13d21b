"""Every quadratic against its dense float64 twin, and the laws of a curvature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import quadratic_loss
from quadratic_cases import CASES, MODELS, SYSTEMS, Case, make_case, make_targets
from torch import Tensor

from mats.quadratics import (
    DiagonalQuadratic,
    IdentityQuadratic,
    KroneckerQuadratic,
    Quadratic,
    SumQuadratic,
    empty_left_factors,
    empty_right_factors,
)

names = pytest.mark.parametrize("name", sorted(CASES))
singularity = pytest.mark.parametrize("singular", [False, True], ids=["regular", "singular"])


def all_subclasses(root: type) -> set[type]:
    return {root}.union(*(all_subclasses(child) for child in root.__subclasses__())) if root else set()


def dense_apply(case: Case, X: Tensor) -> Tensor:
    """Σ λ C X by the dense matrices."""
    flat = X.cpu().double().numpy().reshape(SYSTEMS, -1)
    return torch.from_numpy(np.stack([case.total(s) @ flat[s] for s in range(SYSTEMS)])).reshape(X.shape)


def test_every_quadratic_has_a_case() -> None:
    covered = {type(make_case(name).quadratic) for name in CASES}
    ours = {cls for cls in all_subclasses(Quadratic) - {Quadratic} if cls.__module__.startswith("mats.")}
    assert ours == covered


@singularity
@names
class TestOperatorContract:
    def test_apply_is_the_dense_product(self, name: str, singular: bool, device: str) -> None:
        case = make_case(name, singular=singular)
        X = torch.randn(case.quadratic.shape, dtype=torch.float64)
        ours = case.quadratic.to(device).apply(X.to(device)).cpu()
        torch.testing.assert_close(ours, dense_apply(case, X), rtol=1e-12, atol=1e-12)

    def test_float32_and_widening(self, name: str, singular: bool, device: str) -> None:
        case = make_case(name, singular=singular)
        narrow = case.quadratic.to(device, torch.float32)
        X = torch.randn(narrow.shape, dtype=torch.float64, device=device)
        truth = dense_apply(case, X)
        assert (narrow.apply(X.float()).cpu() - truth).norm() < 2e-6 * truth.norm()
        assert narrow.apply(X).dtype == torch.float64
        assert (narrow.apply(X).cpu() - truth).norm() < 2e-7 * truth.norm()

    def test_each_model_alone(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        X = torch.randn(case.quadratic.shape, dtype=torch.float64)
        for model in range(case.quadratic.models):
            ours = case.quadratic.apply_model(model, X)
            for system in range(SYSTEMS):
                dense = torch.from_numpy(case.dense[model][system]) @ X[system].flatten()
                torch.testing.assert_close(ours[system].flatten(), dense, rtol=1e-12, atol=1e-12)

    def test_rhs_and_losses(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        targets, start = make_targets(case)
        stacked = torch.stack(targets)
        rhs, losses = case.quadratic.rhs(stacked, start), case.quadratic.losses(targets, start)
        assert losses.shape == (case.quadratic.models, SYSTEMS)
        for system in range(SYSTEMS):
            dense = sum(
                weight * C[system] @ (target[system] - start[system]).numpy().ravel()
                for weight, C, target in zip(case.quadratic.weights, case.dense, targets, strict=True)
            )
            np.testing.assert_allclose(rhs[system].numpy().ravel(), dense, rtol=1e-11, atol=1e-11)
            for model, target in enumerate(targets):
                loss = quadratic_loss(case.dense[model][system], start[system].numpy(), target[system].numpy())
                assert float(losses[model, system]) == pytest.approx(loss, rel=1e-11, abs=1e-13)

    def test_diagonals(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        means, diagonal = case.quadratic.mean_diagonals(), case.quadratic.diagonal()
        for system in range(SYSTEMS):
            np.testing.assert_allclose(diagonal[system].ravel(), np.diag(case.total(system)), rtol=1e-12)
            for model in range(case.quadratic.models):
                assert float(means[model, system]) == pytest.approx(np.diag(case.dense[model][system]).mean())

    def test_diagonal_in_another_basis(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        _, rows, columns = case.quadratic.shape
        U, V = (torch.linalg.qr(torch.randn(SYSTEMS, n, n, dtype=torch.float64))[0] for n in (rows, columns))
        for left, right in ((U, V), (U, None), (None, V)):
            ours = case.quadratic.diagonal(left, right)
            for system in range(SYSTEMS):
                basis = np.kron(
                    np.eye(rows) if left is None else left[system].numpy(),
                    np.eye(columns) if right is None else right[system].numpy(),
                )
                dense = np.diag(basis.T @ case.total(system) @ basis)
                np.testing.assert_allclose(ours[system].numpy().ravel(), dense, rtol=1e-10, atol=1e-12)

    def test_exactness_is_a_promise_kept(self, name: str, singular: bool) -> None:
        """Where the structure says so, Σ λ C is diagonal in the joint eigenbasis; K-FAC is not (a control)."""
        case = make_case(name, singular=singular)
        sums, sides = case.quadratic.factor_sums(), case.quadratic.sides
        _, rows, columns = case.quadratic.shape
        assert (sums.left is not None) == (sides.left == "dense")
        assert (sums.right is not None) == (sides.right == "dense")
        for system in range(SYSTEMS):
            U = np.eye(rows) if sums.left is None else np.linalg.eigh(sums.left[system].numpy())[1]
            V = np.eye(columns) if sums.right is None else np.linalg.eigh(sums.right[system].numpy())[1]
            basis = np.kron(U, V)
            rotated = basis.T @ case.total(system) @ basis
            off = np.linalg.norm(rotated - np.diag(np.diag(rotated))) / np.linalg.norm(rotated)
            assert (off < 1e-12) == sides.exact, off

    def test_selected_systems(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        X = torch.randn(case.quadratic.shape, dtype=torch.float64)
        whole = case.quadratic.apply(X)
        for index in (torch.tensor([1]), torch.tensor([1, 0, 1]), slice(1, 2)):
            part = case.quadratic.select(index)
            assert part.shape == X[index].shape
            torch.testing.assert_close(part.apply(X[index]), whole[index], rtol=1e-13, atol=1e-13)

    def test_own_numbers_pass_the_check(self, name: str, singular: bool) -> None:
        case = make_case(name, singular=singular)
        case.quadratic.check_values()
        case.quadratic.to(dtype=torch.float32).check_values()


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(CASES)), seed=st.integers(0, 10_000), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_curvatures_are_linear_symmetric_and_positive(name: str, seed: int, a: float, b: float) -> None:
    case = make_case(name, singular=bool(seed % 2), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    X, Y = (torch.randn(case.quadratic.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    CX, CY = case.quadratic.apply(X), case.quadratic.apply(Y)
    scale = float(CX.abs().max() + CY.abs().max()) * 10
    torch.testing.assert_close(case.quadratic.apply(a * X + b * Y), a * CX + b * CY, rtol=0, atol=1e-13 * scale)
    assert float((X * CY).sum()) == pytest.approx(float((CX * Y).sum()), rel=1e-9, abs=1e-10 * scale)
    assert bool(((X * CX).sum(dim=(1, 2)) >= -1e-12 * scale).all())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(MODELS)))
def test_the_order_of_models_does_not_matter(seed: int, order: list[int]) -> None:
    case = make_case("kfac", seed=seed)
    kfac = case.quadratic
    assert isinstance(kfac, KroneckerQuadratic)
    assert kfac.left is not None
    assert kfac.right is not None
    shuffled = KroneckerQuadratic(kfac.left[order], kfac.right[order], [kfac.weights[i] for i in order])
    X = torch.randn(kfac.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(shuffled.apply(X), kfac.apply(X), rtol=1e-12, atol=1e-12)


def test_swapped_factors_are_another_operator() -> None:
    """A control for orientation: G X A is not A X G (square factors, so shapes cannot tell)."""
    G, A = (torch.randn(2, 1, 4, 4, dtype=torch.float64) for _ in range(2))
    G, A = G @ G.mT, A @ A.mT
    X = torch.randn(1, 4, 4, dtype=torch.float64)
    right, swapped = KroneckerQuadratic(G, A).apply(X), KroneckerQuadratic(A, G).apply(X)
    torch.testing.assert_close(right, sum(G[i] @ X @ A[i] for i in range(2)))
    assert (right - swapped).norm() > 0.1 * right.norm()


def test_lost_weights_are_another_operator() -> None:
    case = make_case("kfac")
    kfac = case.quadratic
    assert isinstance(kfac, KroneckerQuadratic)
    X = torch.randn(kfac.shape, dtype=torch.float64)
    assert (KroneckerQuadratic(kfac.left, kfac.right).apply(X) - kfac.apply(X)).norm() > 0.1 * kfac.apply(X).norm()


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_equal_weights_take_the_short_way(weight: float) -> None:
    case = make_case("kfac")
    kfac = case.quadratic
    assert isinstance(kfac, KroneckerQuadratic)
    X = torch.randn(kfac.shape, dtype=torch.float64)
    equal = KroneckerQuadratic(kfac.left, kfac.right, [weight] * MODELS).apply(X)
    torch.testing.assert_close(equal, weight * sum(kfac.apply_model(i, X) for i in range(MODELS)))


def test_prepared_stacks_are_not_copied() -> None:
    left, right = empty_left_factors(3, 2, 4).fill_(1.0), empty_right_factors(3, 2, 5).fill_(1.0)
    quadratic = KroneckerQuadratic(left, right)
    assert quadratic.left is not None
    assert quadratic.right is not None
    assert quadratic.left.data_ptr() == left.data_ptr()
    assert quadratic.right.data_ptr() == right.data_ptr()
    part = quadratic.select(slice(1, 2))
    assert isinstance(part, KroneckerQuadratic)
    assert part.right is not None
    assert part.right.data_ptr() == right[:, 1].data_ptr()
    single = torch.ones(3, 1, 5, 5)
    alone = KroneckerQuadratic(None, single, shape=(1, 4, 5)).right
    assert alone is not None
    assert alone.data_ptr() == single.data_ptr()


def test_vectors_are_one_row() -> None:
    case = make_case("regmean", vector=True)
    X = torch.randn(SYSTEMS, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(case.quadratic.apply(X), dense_apply(case, X))


def test_identity_and_diagonal_are_held_where_asked(device: str) -> None:
    identity = IdentityQuadratic([1.0], (1, 2, 3)).to(device, torch.float64)
    diagonal = DiagonalQuadratic(torch.ones(1, 1, 2, 3)).to(device, torch.float64)
    for quadratic in (identity, diagonal, SumQuadratic([identity, diagonal])):
        assert quadratic.device.type == device
        assert quadratic.dtype == torch.float64
        assert quadratic.to(device, torch.float64).mean_diagonals().device.type == device
