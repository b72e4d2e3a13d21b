"""Solving again: the bytes of a single solve at first, fewer iterations afterwards, the same answers always."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics import KroneckerQuadratic
from mats.solvers import PreparedSystems, SolverSettings, solve_quadratic
from mats.solvers.iterative import piece_size

Systems = tuple[KroneckerQuadratic, Tensor, Tensor]


@pytest.fixture
def systems() -> Systems:
    """Three systems of four models, 40 × 33, with falling eigenvalues."""
    generator = torch.Generator().manual_seed(0)

    def grams(size: int) -> Tensor:
        rows = torch.randn(4, 3, 2 * size, size, generator=generator) * torch.arange(1, size + 1) ** -0.75
        return rows.mT @ rows

    start = torch.randn(3, 40, 33, generator=generator)
    targets = start + 0.01 * torch.randn(4, 3, 40, 33, generator=generator)
    return KroneckerQuadratic(grams(40), grams(33)), targets, start


@pytest.mark.parametrize("solver", ["pcg", "cg", "auto"])
def test_first_and_cold_solves_have_the_bytes_of_a_single_one(systems: Systems, solver: str) -> None:
    settings = SolverSettings(name=solver, anchor=0.1, damping=0.02)  # type: ignore[arg-type]
    single = solve_quadratic(*systems, settings)
    prepared = PreparedSystems(*systems, settings)
    assert torch.equal(prepared.solve().value, single.value)
    prepared.solve(anchor=3.0)
    again = prepared.solve(warm=False)
    assert torch.equal(again.value, single.value)
    assert again.certificates == single.certificates


def test_a_path_of_anchors_takes_fewer_iterations(systems: Systems) -> None:
    prepared = PreparedSystems(*systems, SolverSettings(tolerance=1e-5))
    warm = cold = 0
    for anchor in (0.3, 0.25, 0.2, 0.16):
        ours = prepared.solve(anchor=anchor)
        fresh = solve_quadratic(*systems, SolverSettings(anchor=anchor, tolerance=1e-5))
        assert ours.solved
        warm += sum(certificate.iterations for certificate in ours.certificates)
        cold += sum(certificate.iterations for certificate in fresh.certificates)
        move = (fresh.value - systems[2]).norm()
        assert float((ours.value - fresh.value).norm()) < 1e-3 * float(move)
    assert warm < 0.8 * cold


def test_another_damping(systems: Systems) -> None:
    prepared = PreparedSystems(*systems, SolverSettings(anchor=0.0, damping=0.1))
    prepared.solve()
    for damping in (0.05, 0.0, 0.2):
        ours = prepared.solve(damping=damping, anchor=0.01)
        fresh = solve_quadratic(*systems, SolverSettings(anchor=0.01, damping=damping))
        assert ours.solved
        assert float((ours.value - fresh.value).norm()) < 3e-3 * float((fresh.value - systems[2]).norm())
    assert not torch.allclose(prepared.solve(damping=2.0).value, ours.value, atol=1e-5)


def test_damping_of_a_single_factor_is_an_anchor(systems: Systems) -> None:
    grams, (_, targets, start) = systems[0].right, systems
    single = KroneckerQuadratic(None, grams, shape=(3, 40, 33))
    prepared = PreparedSystems(single, targets, start, SolverSettings(anchor=0.1))
    held = prepared.solve(damping=0.2)
    assert torch.equal(
        held.value, solve_quadratic(single, targets, start, SolverSettings(anchor=0.1, damping=0.2)).value
    )


def test_bad_input_is_refused_when_it_is_prepared(systems: Systems) -> None:
    quadratic, targets, start = systems
    with pytest.raises(RequestError, match=r"solver anchor is -1"):
        PreparedSystems(quadratic, targets, start).solve(anchor=-1)
    assert quadratic.left is not None
    quadratic.left[1, 2] -= 100 * torch.eye(40)
    with pytest.raises(RequestError, match=r"left factor of model 1, system 2"):
        PreparedSystems(quadratic, targets, start)


def test_pieces_do_not_change_the_answer(systems: Systems, monkeypatch: pytest.MonkeyPatch) -> None:
    """One system after the other, two at a time, all at once: as batches go, up to the tolerance."""
    settings = SolverSettings(tolerance=1e-6, anchor=0.01, history=True)
    values = []
    for elements in (1, 2 * 4 * (40 * 40 + 33 * 33) + 2 * 40 * 33, 1 << 30):
        monkeypatch.setattr("mats.solvers.iterative.PIECE_ELEMENTS", elements)
        values.append(solve_quadratic(*systems, settings))
    assert piece_size(systems[0]) > 3
    move = float((values[0].value - systems[2]).norm())
    for other in values[1:]:
        assert float((other.value - values[0].value).norm()) < 1e-4 * move
        for ours, theirs in zip(values[0].certificates, other.certificates, strict=True):
            assert abs(ours.iterations - theirs.iterations) <= 1
