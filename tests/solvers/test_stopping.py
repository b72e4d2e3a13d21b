"""When systems stop, and that nothing else depends on it: batch, looks, snapshots, host copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratic_cases import make_case, make_targets
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, StopReason, solve_quadratic
from mats.solvers.conjugate import (
    CONVERGED,
    NO_CURVATURE,
    OUT_OF_ITERATIONS,
    RUNNING,
    STAGNATED,
    Iterates,
    Limits,
    _Batch,
    conjugate_gradients,
)
from mats.solvers.system import System


def spectrum_batch(systems: int, size: int = 24, seed: int = 0) -> tuple[KroneckerQuadratic, Tensor, Tensor]:
    """Systems of ever greater difficulty, two K-FAC models each: the first factors nearly multiples of the identity."""
    generator = torch.Generator().manual_seed(seed)

    def factor(hardness: float) -> Tensor:
        basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
        return (basis * torch.logspace(0, -hardness, size, dtype=torch.float64)) @ basis.T

    stacks = [
        torch.stack([torch.stack([factor((s + 1) / 3) for s in range(systems)]) for _ in range(2)]) for _ in range(2)
    ]
    targets = torch.randn(2, systems, size, size, dtype=torch.float64, generator=generator)
    return KroneckerQuadratic(stacks[0], stacks[1]), targets, targets.sum(dim=0)


@pytest.mark.parametrize("solver", ["cg", "pcg"])
def test_batch_composition_does_not_matter(solver: str, device: str) -> None:
    quadratic, targets, start = spectrum_batch(5)
    options = SolverSettings(name=solver, anchor=1e-3, tolerance=1e-8, max_iterations=2000, precision="float64")  # type: ignore[arg-type]
    together = solve_quadratic(quadratic.to(device), targets.to(device), start.to(device), options)
    iterations = [certificate.iterations for certificate in together.certificates]
    assert len(set(iterations)) == 5  # systems left the batch one after the other
    for system in range(5):
        one = slice(system, system + 1)
        alone = solve_quadratic(
            quadratic.select(one).to(device), targets[:, one].to(device), start[one].to(device), options
        )
        assert abs(alone.certificates[0].iterations - iterations[system]) <= 1
        torch.testing.assert_close(alone.value[0], together.value[system], rtol=1e-6, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 100))
def test_order_of_systems_and_models(order: list[int], seed: int) -> None:
    quadratic, targets, start = spectrum_batch(4, size=6, seed=seed)
    index = torch.tensor(order)
    options = SolverSettings(tolerance=1e-9, precision="float64", max_iterations=2000)
    whole = solve_quadratic(quadratic, targets, start, options)
    shuffled = solve_quadratic(quadratic.select(index), targets[:, index], start[index], options)
    torch.testing.assert_close(shuffled.value, whole.value[index], rtol=1e-6, atol=1e-7)
    assert quadratic.left is not None
    assert quadratic.right is not None
    reversed_models = KroneckerQuadratic(quadratic.left.flip(0), quadratic.right.flip(0))
    torch.testing.assert_close(
        solve_quadratic(reversed_models, targets.flip(0), start, options).value, whole.value, rtol=1e-6, atol=1e-7
    )


def run(quadratic: KroneckerQuadratic, b: Tensor, check_every: int, limit: int = 400) -> Any:
    """The iteration itself, on a device type that makes the host look only every `check_every` iterations."""
    ones = torch.ones(b.shape[0], 1, 1, dtype=b.dtype)
    system = System(quadratic, ones, 0.001 * ones)
    batch = _Batch(system, b, None, Limits(torch.full((b.shape[0],), 1e-8), torch.full((b.shape[0],), limit)))
    return system, batch


def test_when_the_host_looks_does_not_matter() -> None:
    """Masks freeze a system at its own iteration; looking later only costs time."""
    quadratic, targets, start = spectrum_batch(4)
    b = quadratic.rhs(targets, start)
    b /= b.flatten(1).norm(dim=1)[:, None, None]
    system, batch = run(quadratic, b, 1)
    limits = Limits(torch.full((4,), 1e-8), torch.full((4,), 400))
    looked = conjugate_gradients(system, b, None, limits)
    for _ in range(500):  # never looks, long after all have stopped
        batch.advance()
    assert torch.equal(batch.iterations, looked.iterations)
    assert torch.equal(batch.state, looked.state)
    torch.testing.assert_close(batch.X, looked.X, rtol=1e-10, atol=1e-10)
    assert bool(batch.X.isfinite().all())


class CopiesToHost(TorchDispatchMode):
    """Counts operations that make a host wait for a device."""

    waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.waiting or (name == "_to_copy" and (kwargs or {}).get("device") is not None):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_no_host_copy_inside_an_iteration() -> None:
    quadratic, targets, start = spectrum_batch(3)
    b = quadratic.rhs(targets, start)
    _, batch = run(quadratic, b, 10)
    with CopiesToHost() as watched:
        for _ in range(5):
            batch.advance()
    assert watched.seen == []
    with CopiesToHost() as control:
        float(b.sum())
    assert control.seen == ["_local_scalar_dense"]


def test_snapshots_are_the_shorter_runs() -> None:
    quadratic, targets, start = spectrum_batch(4)
    quick = quadratic.to(dtype=torch.float64)
    options = {"name": "cg", "anchor": 0.01, "tolerance": 1e-6, "precision": "float64"}
    long = solve_quadratic(quick, targets, start, SolverSettings(snapshots=(1, 5, 40), **options))  # type: ignore[arg-type]
    for count in (1, 5, 40):
        short = solve_quadratic(quick, targets, start, SolverSettings(max_iterations=count, **options))  # type: ignore[arg-type]
        torch.testing.assert_close(long.snapshots[count], short.value, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(long.snapshots[1], long.snapshots[5], rtol=1e-3)
    assert sorted(long.snapshots) == [1, 5, 40]


def test_zero_right_hand_side_is_nothing_to_do() -> None:
    case = make_case("kfac")
    _, start = make_targets(case)
    for solver in ("pcg", "cg", "direct"):
        solution = solve_quadratic(case.quadratic, [start] * 3, start, SolverSettings(name=solver))  # type: ignore[arg-type]
        assert torch.equal(solution.value, start)
        for certificate in solution.certificates:
            assert certificate.stop_reason is StopReason.NOTHING_TO_DO
            assert certificate.iterations == 0
            assert certificate.movement == certificate.relative_residual == 0.0


def test_iteration_limit_is_reported() -> None:
    quadratic, targets, start = spectrum_batch(2)
    solution = solve_quadratic(quadratic, targets, start, SolverSettings(name="cg", max_iterations=2, anchor=0.0))
    assert not solution.solved
    assert [c.stop_reason for c in solution.certificates] == [StopReason.ITERATION_LIMIT] * 2
    assert [c.iterations for c in solution.certificates] == [2, 2]


def test_negative_curvature_stops_with_the_iterate_before_it() -> None:
    """An indefinite operator (possible only by rounding, forced here) stops its own system and no other."""
    good, bad = torch.diag(torch.linspace(1, 2, 6)), torch.diag(torch.tensor([1.0, 1.1, 1.2, -1.0, 1.3, 1.4]))
    quadratic = KroneckerQuadratic(None, torch.stack([good, bad])[None], shape=(2, 1, 6))
    b = torch.ones(2, 1, 6) / 6**0.5
    ones = torch.ones(2, 1, 1)
    limits = Limits(torch.full((2,), 1e-6), torch.full((2,), 50))
    result = conjugate_gradients(System(quadratic, ones, 0 * ones), b, None, limits)
    assert result.state.tolist() == [CONVERGED, NO_CURVATURE]
    assert bool(result.X.isfinite().all())
    quadratics = 0.5 * (result.X * quadratic.apply(result.X)).sum(dim=(1, 2)) - (b * result.X).sum(dim=(1, 2))
    assert bool((quadratics < 0).all())  # better than not having moved


def test_residual_that_stops_falling_is_stagnation() -> None:
    """A right-hand side outside the range can never be met."""
    quadratic = KroneckerQuadratic(None, torch.diag(torch.tensor([1.0, 2.0, 0.0]))[None, None], shape=(1, 1, 3))
    ones = torch.ones(1, 1, 1)
    limits = Limits(torch.tensor([1e-6]), torch.tensor([500]))
    result = conjugate_gradients(System(quadratic, ones, 0 * ones), torch.tensor([[[0.6, 0.0, 0.8]]]), None, limits)
    assert result.state.tolist()[0] in (STAGNATED, NO_CURVATURE)
    assert bool(result.X.isfinite().all())


def test_out_of_iterations_per_system() -> None:
    quadratic, targets, start = spectrum_batch(3)
    b = quadratic.rhs(targets, start)
    ones = torch.ones(3, 1, 1, dtype=torch.float64)
    limits = Limits(torch.full((3,), 1e-12), torch.tensor([2, 5, 3]))
    result = conjugate_gradients(System(quadratic, ones, 0 * ones), b, None, limits)
    assert result.iterations.tolist() == [2, 5, 3]
    assert result.state.tolist() == [OUT_OF_ITERATIONS] * 3


def test_every_reason_has_a_sentence() -> None:
    sentences = {reason.sentence for reason in StopReason}
    assert len(sentences) == len(StopReason)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert {reason for reason in StopReason if reason.solved} == {
        StopReason.CONVERGED,
        StopReason.CLOSED_FORM,
        StopReason.NOTHING_TO_DO,
    }


def test_stopped_systems_leave_the_batch() -> None:
    """At the ends by slicing, which copies no factor; from the middle once they are half of what remains."""
    quadratic = KroneckerQuadratic(None, torch.eye(3).repeat(1, 6, 1, 1), shape=(6, 2, 3))
    ones = torch.ones(6, 1, 1)
    limits = Limits(torch.zeros(6), torch.full((6,), 9))
    batch = _Batch(System(quadratic, ones, ones), torch.ones(6, 2, 3), None, limits)
    counts = torch.zeros(2, 6, dtype=torch.int64)
    whole = Iterates(torch.zeros(6, 2, 3), counts[0], counts[1], {}, batch.trace)

    def left() -> list[int]:
        assert batch.drop_stopped(whole)
        return [int(i) for i in batch.index]

    assert left() == [0, 1, 2, 3, 4, 5]
    batch.state[2] = CONVERGED
    assert left() == [0, 1, 2, 3, 4, 5]
    batch.state[0] = STAGNATED
    assert left() == [1, 2, 3, 4, 5]
    part = batch.system.quadratic
    assert isinstance(part, KroneckerQuadratic)
    assert part.right is not None
    assert quadratic.right is not None
    assert part.right.data_ptr() == quadratic.right[:, 1].data_ptr()
    batch.state[2:4] = CONVERGED  # systems 3 and 4
    assert left() == [1, 5]
    assert whole.state.tolist() == [STAGNATED, RUNNING, CONVERGED, CONVERGED, CONVERGED, RUNNING]
    batch.state[:] = CONVERGED
    assert not batch.drop_stopped(whole)
