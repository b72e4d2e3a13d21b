"""Anchor or damping chosen by cross-validation, half of the examples against the other, with no data at hand.

The metadata of two halves of each model's examples are kept apart (`curvature.fold`). For every strength on a grid the
merge is solved with the curvature of one half, and what it costs is told by the curvature of the other:

    risk(s) = Σ_i λ_i ½ ⟨W_s(half a) − W_i, C_i(half b) (W_s(half a) − W_i)⟩        mean over (a, b) and (b, a)

with λ_i b_i for λ_i where the scaling is balanced (`mats.engine.balance`; b_i of half a), summed over all layers. The
strength of least risk is used for the merge on all examples. It sees the sampling noise of the metadata. How far the
quadratic itself can be trusted it cannot see: both halves believe in it alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mats.engine.balance import balance_of
from mats.engine.belonging import check_fingerprints
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.measured import as_measured
from mats.engine.plan import Group, make_plan, store_indexes
from mats.engine.request import MergeRequest
from mats.engine.solving import solver_settings
from mats.engine.streaming import ElementwisePool
from mats.errors import RequestError
from mats.methods.quadratic import LOSS_RULES, QuadraticSettings, Strength
from mats.progress import Progress, Silent
from mats.solvers import solve_quadratic

GRID = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)
"""From where nothing is held back to where little moves."""


@dataclass(frozen=True)
class StrengthCurve:
    """What cross-validation found.

    Attributes:
        setting: "anchor" or "damping".
        values: the strengths tried, rising.
        risks: held-out predicted loss of each, Σ λ_i (or λ_i b_i) over tasks, mean over the two directions.
        tasks: task → the same for it alone, without λ_i.
        start: the held-out predicted loss of the start, which an infinite strength would keep.
    """

    setting: Strength
    values: tuple[float, ...]
    risks: tuple[float, ...]
    tasks: Mapping[str, tuple[float, ...]]
    start: float

    @property
    def chosen(self) -> float:
        """The strength of least risk; of equal ones the largest."""
        return max(value for value, risk in zip(self.values, self.risks, strict=True) if risk == min(self.risks))

    def told(self) -> dict[str, Any]:
        """As plain data, for report.json."""
        return {
            "setting": self.setting,
            "chosen": self.chosen,
            "values": list(self.values),
            "risks": list(self.risks),
            "tasks": {name: list(risks) for name, risks in self.tasks.items()},
            "start": self.start,
        }


def choose_strength(
    request: MergeRequest, progress: Progress | None = None
) -> tuple[MergeRequest, StrengthCurve | None]:
    """The request with its strength chosen, and the curve; the request itself where it leaves nothing open.

    Raises:
        MatsError: as `cross_validate`.
    """
    for rule in request.rules:
        if isinstance(rule.method, QuadraticSettings) and rule.method.cross_validate is not None:
            raise RequestError(
                f"rule {rule.parameters}: cross_validate holds for the whole merge; set it beside the merge's method"
            )
    method = request.method
    if not isinstance(method, QuadraticSettings) or method.cross_validate is None:
        return request, None
    curve = cross_validate(request, method.cross_validate, progress=progress)
    chosen = {method.cross_validate: curve.chosen, "cross_validate": None}
    return replace(request, method=method.model_copy(update=chosen)), curve


def cross_validate(
    request: MergeRequest, setting: Strength, *, grid: Sequence[float] = GRID, progress: Progress | None = None
) -> StrengthCurve:
    """The held-out predicted loss of every strength in `grid`.

    Args:
        request: a merge by a quadratic method; every model names its two `folds`. Its output is not touched.
        setting: which strength is tried; the method's other settings hold.
        grid: strengths ≥ 0.
        progress: told of every group of layers and direction.

    Returns:
        The curve. Held at once: one group of layers with the curvature of both halves.

    Raises:
        RequestError: a method without quadratics, a model without two folds, or no parameter with curvature.
        InputsMismatch, FingerprintMismatch: the halves do not belong to the models, or cover other parameters.
        StoreCorrupt, NonFiniteStatistic, CheckpointCorrupt, NonFiniteWeights: from the files.
    """
    _check(request, grid)
    progress = progress or Silent()
    count = len(request.models)
    values = tuple(sorted(set(grid)))
    total = torch.zeros(len(values) + 1, count, dtype=torch.float64)
    weighted = torch.zeros(len(values) + 1, dtype=torch.float64)
    for half in (0, 1):
        with ExitStack() as opened:
            ours, theirs = (opened.enter_context(MergeInputs(_on_half(request, part))) for part in (half, 1 - half))
            losses, weights = _one_direction(ours, theirs, setting, values, progress)
            total += losses / 2
            weighted += losses @ weights / 2
    *risks, start = weighted.tolist()
    tasks = {model.name: tuple(total[:-1, index].tolist()) for index, model in enumerate(request.models)}
    return StrengthCurve(setting, values, tuple(risks), tasks, start)


def _check(request: MergeRequest, grid: Sequence[float]) -> None:
    if not isinstance(request.method, QuadraticSettings):
        raise RequestError(
            f"cross-validation: method {request.method.name} minimises no quadratic; mats would be right"
        )
    if not grid or any(not value >= 0 for value in grid):
        raise RequestError(f"cross-validation: the grid is {list(grid)}; one or more strengths of at least 0 are right")
    for model in request.models:
        if len(model.folds) != 2:
            raise RequestError(
                f"model {model.name}: cross_validate needs the metadata of two halves of its examples, received "
                f"{len(model.folds)}; measure them with curvature.fold=[0,2] and curvature.fold=[1,2]"
            )


def _on_half(request: MergeRequest, half: int) -> MergeRequest:
    return replace(request, models=tuple(replace(model, metadata=model.folds[half]) for model in request.models))


def _one_direction(
    ours: MergeInputs, theirs: MergeInputs, setting: Strength, values: Sequence[float], progress: Progress
) -> tuple[Tensor, Tensor]:
    """Held-out losses [values + 1, m] of solves with our curvature, by theirs, the start's last; and weights [m]."""
    plan = make_plan(ours)
    groups = [group for group in plan.groups if group.systems[0].rule in LOSS_RULES] or list(plan.groups)
    if not groups:
        raise RequestError("cross-validation: no parameter has curvature in the metadata of both halves of every model")
    pool = ElementwisePool(ours, plan, progress)
    device = resolve_device(ours.request.device)
    stores = store_indexes(ours)
    balance = balance_of(stores, groups)
    solving = GroupLoader(ours, stores, pool.for_start, device, balance)
    judging = GroupLoader(theirs, store_indexes(theirs), pool.for_start, device)
    for inputs in (ours, theirs):
        check_fingerprints(inputs, progress)
    total = torch.zeros(len(values) + 1, len(ours.models), dtype=torch.float64)
    progress.start(f"cross-validating the {setting}", sum(len(group.systems) for group in groups))
    for group in groups:
        total += _group_losses(group, solving, judging, setting, values)
        progress.advance(len(group.systems))
    weights = balance.weights(groups[0].systems[0], [model.weight for model in ours.request.models])
    return total, torch.tensor(weights, dtype=torch.float64)


def _group_losses(
    group: Group, solving: GroupLoader, judging: GroupLoader, setting: Strength, values: Sequence[float]
) -> Tensor:
    """[values + 1, m] for one group of layers."""
    problem = solving.load(group)
    measured = replace(group, systems=tuple(replace(system, settings=as_measured()) for system in group.systems))
    held_out = judging.quadratic(measured, problem.quadratic.dtype)
    held_out.check_values()
    plain = replace(solver_settings(group.systems[0]), snapshots=())

    def losses(weights: Tensor) -> Tensor:
        return held_out.losses(problem.targets, weights.double()).sum(dim=1).cpu()

    rows = []
    for value in values:
        settings = replace(plain, anchor=value) if setting == "anchor" else replace(plain, damping=value)
        rows.append(losses(solve_quadratic(problem.quadratic, problem.targets, problem.start, settings).value))
    return torch.stack([*rows, losses(problem.start)])
