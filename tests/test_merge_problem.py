"""`mats.solve` on problems: one call, one result, whatever the problem was made of; old names keep working."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from torch import Tensor

import mats
import mats.merge_problem
from mats.errors import RequestError, ShapeMismatch
from mats.solvers import BoundKind, SolverSettings, StopReason

OUT, IN = 4, 6


def gram(size: int) -> Tensor:
    rows = torch.randn(3 * size, size, dtype=torch.float64) * torch.logspace(0, -1.5, size, dtype=torch.float64)
    return rows.T @ rows / len(rows)


def tensors(systems: int = 2) -> dict[str, Any]:
    def stack(make: Any) -> list[Tensor]:
        return [torch.stack([make() for _ in range(systems)]) for _ in range(3)]

    targets = stack(lambda: torch.randn(OUT, IN, dtype=torch.float64))
    return {"targets": targets, "input_grams": stack(lambda: gram(IN)), "output_grams": stack(lambda: gram(OUT))}


def problem(**more: Any) -> mats.MergeProblem:
    given = tensors()
    return mats.MergeProblem.from_tensors(given.pop("targets"), **given, **more)


def test_the_two_forms_and_the_two_names_are_one() -> None:
    given = tensors()
    targets = given.pop("targets")
    made = mats.MergeProblem.from_tensors(targets, **given)
    results = [
        mats.solve(made, method="cg", tol=1e-7),
        mats.solve(made, solver="cg", tolerance=1e-7),
        mats.solve(targets, method="cg", tol=1e-7, **given),
        mats.solve(made, settings=SolverSettings("cg", anchor=0.0, damping=0.1, tolerance=1e-7)),
    ]
    for result in results:
        assert torch.equal(result.value, results[0].value)
        assert result.certificates == results[0].certificates
    assert not torch.equal(mats.solve(made).value, results[0].value)


def test_a_result_tells_everything_system_by_system() -> None:
    made = problem(models=["a", "b", "c"], names=["first", "second"])
    result = mats.solve(made, tol=1e-6, history=True, snapshots=[2])
    assert result.names == ("first", "second")
    assert result.solved
    assert result.reasons == (StopReason.CONVERGED,) * 2
    assert "within the tolerance" in result.reasons[0].sentence
    assert result.value.shape == (2, OUT, IN)
    assert torch.equal(result.values["second"], result.value[1])
    assert result.snapshots[2].shape == (2, OUT, IN)
    assert result.snapshot_certificates[2][0].iterations == 2
    assert all(0 < residual <= 1.01e-6 for residual in result.residuals)
    for history, iterations, residual in zip(result.histories, result.iterations, result.residuals, strict=True):
        assert len(history) == iterations
        assert history[-1] <= 1e-6 < history[-2]  # the recurrence's own: rounding keeps the true one a little above
        assert residual < 10 * max(history[-1], 1e-7)
    assert mats.solve(made).histories == ()
    for model in "abc":
        assert len(result.losses_before[model]) == len(result.losses_after[model]) == 2
    group = made.groups[0]
    wanted = group.quadratic.losses(group.targets, result.value)
    torch.testing.assert_close(torch.tensor([result.losses_after[m] for m in "abc"], dtype=torch.float64), wanted)
    assert result.certificates[0].bound is BoundKind.PROVEN


def test_summary_and_plot_show_every_system() -> None:
    result = mats.solve(problem(models=["a", "b", "[red]c[/red]"], names=["first", "second"]))
    text = result.summary()
    for wanted in ("first", "second", "left at most", "converged", "[red]c[/red]", "at the start"):
        assert wanted in text
    assert "second" not in result.summary(limit=1) or "first" not in result.summary(limit=1)
    figure = result.plot()
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["first", "second"]


def test_vectors_and_single_matrices_keep_their_shape() -> None:
    blocks = [gram(IN) for _ in range(2)]
    result = mats.solve([torch.randn(IN, dtype=torch.float64) for _ in blocks], input_grams=blocks, method="auto")
    assert result.value.shape == result.values["system 0"].shape == (IN,)
    assert result.reasons == (StopReason.CLOSED_FORM,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cg", "solver": "pcg"}, r"method and solver are one argument; 'cg' and 'pcg' are given"),
        ({"tol": 0.1, "tolerance": 0.2}, r"tol and tolerance are one argument; 0\.1 and 0\.2"),
        ({"input_grams": [torch.eye(IN)]}, r"input_grams is part of the problem already"),
        ({"settings": SolverSettings(), "anchor": 0.2}, r"settings say everything about the solver; anchor is given"),
        ({"tol": 2.0}, r"solver tolerance is 2\.0; expected a number in \[0, 1\)"),
        ({"method": "lu"}, r"solver name 'lu'; expected one of pcg, cg"),
    ],
)
def test_faults_in_the_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        mats.solve(problem(), **options)


def test_names_must_be_as_many_and_differ() -> None:
    with pytest.raises(ShapeMismatch, match="models: 2 different names for 3"):
        problem(models=["a", "b"])
    with pytest.raises(ShapeMismatch, match="names: 1 different names for 2"):
        problem(names=["a", "a"])


def test_docstring_runs() -> None:
    assert doctest.testmod(mats.merge_problem).failed == 0
