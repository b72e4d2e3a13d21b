"""Ritz values and histories that an iteration leaves behind, against dense eigenvalues and shorter runs."""

from __future__ import annotations

import pytest
import torch

from mats.quadratics import KroneckerQuadratic
from mats.solvers.conjugate import Limits, conjugate_gradients
from mats.solvers.system import System


def run(steps: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Smallest Ritz values, histories and iterations of two diagonal systems, one of which stops early."""
    spectra = torch.stack([torch.linspace(0.5, 3.0, 6), torch.full((6,), 2.0)]).double()
    quadratic = KroneckerQuadratic(None, torch.diag_embed(spectra)[None], shape=(2, 1, 6))
    b = torch.ones(2, 1, 6, dtype=torch.float64) / 6**0.5
    limits = Limits(torch.full((2,), 1e-12), torch.full((2,), steps))
    found = conjugate_gradients(System(quadratic, None, torch.zeros(2, 1, 1, dtype=torch.float64)), b, None, limits)
    history = found.trace.extended(None, torch.arange(2), torch.ones(2, dtype=torch.float64))
    return found.trace.smallest_ritz(), history, found.iterations.tolist()


def test_smallest_ritz_value() -> None:
    ritz, history, iterations = run(6)
    assert iterations == [6, 1]
    assert ritz.tolist() == [pytest.approx(0.5, rel=1e-9), pytest.approx(2.0, rel=1e-12)]
    assert (~history.isnan()).sum(dim=1).tolist() == iterations
    early, _, _ = run(2)
    assert 0.5 < float(early[0]) < 3.0  # from above, and not there yet
    assert float(early[0]) > 1.01 * float(ritz[0])


def test_histories_go_on() -> None:
    _, first, _ = run(3)
    spectra = torch.linspace(0.5, 3.0, 6).double()
    quadratic = KroneckerQuadratic(None, torch.diag(spectra)[None, None], shape=(1, 1, 6))
    b = torch.ones(1, 1, 6, dtype=torch.float64) / 6**0.5
    limits = Limits(torch.tensor([1e-12]), torch.tensor([2]))
    more = conjugate_gradients(System(quadratic, None, torch.zeros(1, 1, 1, dtype=torch.float64)), b, None, limits)
    joined = more.trace.extended(first, torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64))
    assert torch.equal(joined[0], first[0])
    assert joined[1, 0] == first[1, 0]
    assert joined[1, 1] == pytest.approx(0.5 * first[0, 0].item())
    assert (~joined.isnan()).sum(dim=1).tolist() == [3, 3]


def test_no_iteration_at_all() -> None:
    quadratic = KroneckerQuadratic(None, torch.eye(3)[None, None], shape=(1, 1, 3))
    limits = Limits(torch.tensor([1e-3]), torch.tensor([5]))
    found = conjugate_gradients(System(quadratic, None, torch.zeros(1, 1, 1)), torch.zeros(1, 1, 3), None, limits)
    assert bool(found.trace.smallest_ritz().isnan().all())
