"""Strengths chosen half against half: the curve against dense solves, and what the choice does to a merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import engine_oracle
import numpy as np
import pytest
import torch
from engine_families import Family
from linear_cases import linear_gaussian, solution, write_linear_store
from safetensors.torch import load_file

from mats.engine import MergeRequest, Rule, merge
from mats.engine.cross_validation import GRID, choose_strength, cross_validate
from mats.errors import FingerprintMismatch, RequestError
from mats.methods import AverageSettings, MatsSettings, RegMeanSettings, SolverChoice, TiesSettings

pytestmark = pytest.mark.usefixtures("light_report")
EXACT = SolverChoice(name="pcg", tolerance=1e-9, max_iterations=500, precision="float64")
WEIGHTS = (1.0, 2.0)


def settings(**changes: object) -> MatsSettings:
    return MatsSettings(**{"init": AverageSettings(), "solver": EXACT, "anchor": 0.0, "damping": 0.0, **changes})


def linear_request(root: Path, rows: tuple[int, ...] = (40, 25), **changes: object) -> tuple[MergeRequest, list]:
    models, data = linear_gaussian(root, rows)
    models = [replace(model, weight=weight) for model, weight in zip(models, WEIGHTS, strict=True)]
    return MergeRequest(tuple(models), settings(**changes), root / "out", device="cpu"), data


def halves(data: list) -> list[list[np.ndarray]]:
    """I ⊗ mean [x; 1][x; 1]ᵀ of each half of each task: [half][task]."""
    found: list[list[np.ndarray]] = [[], []]
    for inputs, _ in data:
        for half, part in enumerate((inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :])):
            found[half].append(engine_oracle.regmean(part.T @ part, 3, len(part)))
    return found


def evened(curvatures: list[np.ndarray]) -> list[float]:
    """λ_i b_i: the weights, and factors that give every curvature the mean trace."""
    traces = [float(np.trace(curvature)) for curvature in curvatures]
    return [weight * np.mean(traces) / trace for weight, trace in zip(WEIGHTS, traces, strict=True)]


@pytest.mark.parametrize("scaling", ["examples", "balanced"])
def test_the_curve_is_that_of_dense_solves(tmp_path: Path, scaling: str) -> None:
    request, data = linear_request(tmp_path, scaling=scaling)
    grid = (0.0, 0.01, 0.3, 10.0)
    found = cross_validate(request, "anchor", grid=grid)
    curvatures, targets = halves(data), [solution(*task) for task in data]
    start = engine_oracle.average(targets, WEIGHTS)
    weights_of = [WEIGHTS if scaling == "examples" else evened(half) for half in curvatures]

    def risk(weights: np.ndarray, held_out: list[np.ndarray]) -> list[float]:
        moves = [(weights - target).ravel() for target in targets]
        return [0.5 * float(move @ curvature @ move) for move, curvature in zip(moves, held_out, strict=True)]

    for position, value in enumerate(grid):
        directions = [
            risk(engine_oracle.anchored(curvatures[a], targets, start, weights_of[a], value), curvatures[1 - a])
            for a in (0, 1)
        ]
        tasks = np.mean(directions, axis=0)
        expected = np.mean([np.dot(directions[a], weights_of[a]) for a in (0, 1)])
        assert [found.tasks[f"task{task}"][position] for task in (0, 1)] == pytest.approx(tasks, rel=1e-6)
        assert found.risks[position] == pytest.approx(expected, rel=1e-6)
        # control: judged by the half that was solved with, the risk is another one
        same = [
            risk(engine_oracle.anchored(curvatures[a], targets, start, weights_of[a], value), curvatures[a])
            for a in (0, 1)
        ]
        judged = np.mean([np.dot(same[a], weights_of[a]) for a in (0, 1)])
        assert value == 10.0 or abs(judged / found.risks[position] - 1) > 0.02
    at_start = np.mean([np.dot(risk(start, curvatures[1 - a]), weights_of[a]) for a in (0, 1)])
    assert found.start == pytest.approx(at_start, rel=1e-6)
    assert found.chosen == grid[int(np.argmin(found.risks))]


def test_few_examples_ask_for_more_restraint_than_many(tmp_path: Path) -> None:
    """Seven examples in a half hardly span five inputs; a thousand pin every direction down."""
    few, _ = linear_request(tmp_path / "few", (14, 14))
    many, _ = linear_request(tmp_path / "many", (2000, 2000))
    assert cross_validate(few, "anchor").chosen > cross_validate(many, "anchor").chosen


def test_halves_that_agree_need_no_restraint(tmp_path: Path) -> None:
    request, data = linear_request(tmp_path)
    models = []
    for index, model in enumerate(request.models):
        folds = tuple(
            write_linear_store(tmp_path / f"same{half}-{index}", Path(model.path), data[index][0]) for half in (0, 1)
        )
        models.append(replace(model, folds=folds))
    for setting in ("anchor", "damping"):
        curve = cross_validate(replace(request, models=tuple(models)), setting)  # type: ignore[arg-type]
        assert curve.chosen == GRID[0]
        assert list(curve.risks) == sorted(curve.risks)
        assert curve.risks[-1] <= curve.start


@pytest.mark.parametrize("setting", ["anchor", "damping"])
def test_the_merge_uses_the_chosen_strength(tmp_path: Path, setting: str) -> None:
    request, _ = linear_request(tmp_path, (14, 14), cross_validate=setting)
    result = merge(request)
    told = result.report["cross_validation"]
    assert told["chosen"] == told["values"][int(np.argmin(told["risks"]))]
    assert result.report["settings"][setting] == told["chosen"]
    plain = replace(request, method=settings(**{setting: told["chosen"]}), output=tmp_path / "plain")
    expected = load_file(merge(plain).path / "model.safetensors")
    for name, tensor in load_file(result.path / "model.safetensors").items():
        assert torch.equal(tensor, expected[name])
    other = load_file(merge(replace(plain, method=settings(), output=tmp_path / "other")).path / "model.safetensors")
    assert not torch.allclose(other["layer.weight"], expected["layer.weight"], atol=1e-4)


def test_real_layers_in_groups(bert: Family, tmp_path: Path) -> None:
    """Stores of other random rows stand in for halves; the budget does not change the curve."""
    from engine_families import draw_store, make_model, nudge, write_raw

    models = []
    for index, model in enumerate(bert.inputs()):
        folds = []
        for half in (0, 1):
            raw, parameters, _ = draw_store(nudge(make_model("bert", 0), 100 + index), 500 + 10 * half + index)
            write_raw(tmp_path / f"fold{half}-{index}", raw, bert.models[index], parameters)
            folds.append(tmp_path / f"fold{half}-{index}")
        models.append(replace(model, folds=tuple(folds)))
    request = MergeRequest(tuple(models), settings(solver=SolverChoice()), tmp_path / "out", device="cpu")
    whole = cross_validate(request, "damping", grid=(0.01, 1.0))
    pieces = cross_validate(replace(request, memory_budget=400_000), "damping", grid=(0.01, 1.0))
    assert whole.risks == pytest.approx(pieces.risks, rel=1e-3)
    assert not (tmp_path / "out").exists()
    by_output = replace(request, method=RegMeanSettings(anchor=0.0))
    assert len(cross_validate(by_output, "anchor", grid=(0.1,)).risks) == 1


def test_what_cannot_be_cross_validated_is_refused(tmp_path: Path) -> None:
    request, _ = linear_request(tmp_path, cross_validate="anchor")
    bare = tuple(replace(model, folds=()) for model in request.models)
    with pytest.raises(
        RequestError, match=r"task0: cross_validate needs .* received 0; measure them with curvature.fold"
    ):
        merge(replace(request, models=bare))
    with pytest.raises(RequestError, match="method ties minimises no quadratic"):
        cross_validate(replace(request, method=TiesSettings()), "anchor")
    with pytest.raises(RequestError, match=r"the grid is \[-1\]"):
        cross_validate(request, "anchor", grid=(-1,))
    with pytest.raises(RequestError, match=r"rule layer.\*: cross_validate holds for the whole merge"):
        choose_strength(replace(request, rules=(Rule("layer.*", request.method),)))
    swapped = tuple(
        replace(model, folds=other.folds) for model, other in zip(request.models, request.models[::-1], strict=True)
    )
    with pytest.raises(FingerprintMismatch, match="measured on"):
        cross_validate(replace(request, models=swapped), "anchor")
    plain = replace(request, method=settings())
    assert choose_strength(plain) == (plain, None)
