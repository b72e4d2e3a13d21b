"""The share of the null space where sums of factors do not show it; `test_hard_systems` compares with dense ones."""

from __future__ import annotations

import pytest
import torch
from hard_systems import HARD_CASES, STRENGTHS, Judged, solve_hard

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings
from mats.solvers.null_space import null_share
from mats.solvers.outcome import closed_form_outcome

FREE = SolverSettings(name="pcg", anchor=0.0, tolerance=1e-5, max_iterations=1000)


def judged(name: str) -> Judged:
    return solve_hard(HARD_CASES[name](), STRENGTHS["free"], FREE)


def test_joint_eigenvectors_alone_understate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: what certificates said before."""
    monkeypatch.setattr("mats.solvers.solve.worth_measuring", lambda *_: False)
    found = judged("rank-deficient")
    assert max(found.hidden) > 0.1
    for certificate, hidden, joint in zip(found.certificates, found.hidden, found.certainly_hidden, strict=True):
        assert certificate.null_share == pytest.approx(joint, abs=1e-4)
        assert joint < 0.1 * hidden


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_known_share_is_found(diagonal: bool) -> None:
    """Two models that see the first row and the first column of X alone; Δ has 1, 4 and 4 of its 9 parts in 3 kinds."""
    first, all_of_it = torch.zeros(3), torch.ones(3)
    first[0] = 1.0
    left, right = torch.stack([first, all_of_it]), torch.stack([all_of_it, first])
    if not diagonal:
        left, right = torch.diag_embed(left), torch.diag_embed(right)
    quadratic = KroneckerQuadratic(left[:, None], right[:, None])
    move = torch.ones(1, 3, 3, dtype=torch.float64)
    zeros = torch.zeros(1, dtype=torch.float64)
    outcome = closed_form_outcome(move, zeros, move, torch.zeros(2, 1))
    assert float(null_share(quadratic, outcome, 1e-6)) == pytest.approx(4 / 9, abs=1e-6)
    seeing = KroneckerQuadratic(torch.eye(3).expand(2, 1, 3, 3), torch.eye(3).expand(2, 1, 3, 3))
    assert float(null_share(seeing, outcome, 1e-6)) == 0.0
    held = closed_form_outcome(move, zeros + 0.1, move, torch.zeros(2, 1))
    assert bool(null_share(quadratic, held, 1e-6).isnan().all())
