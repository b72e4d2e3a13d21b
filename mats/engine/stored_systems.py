"""Chosen weights of real checkpoints and their stores as systems in memory: what a merge would solve for them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mats.engine.auto_scale import scales_for
from mats.engine.balance import balance_of
from mats.engine.belonging import check_fingerprints
from mats.engine.cross_validation import choose_strength
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader, GroupProblem
from mats.engine.plan import Group, MergePlan, System, make_plan, read_indexes
from mats.engine.request import MergeRequest
from mats.engine.solving import solver_settings
from mats.engine.streaming import ElementwisePool
from mats.errors import RequestError
from mats.progress import Progress, Silent
from mats.solvers import SolverSettings


@dataclass(frozen=True)
class StoredGroup:
    """Systems of one shape, loaded.

    Attributes:
        systems: what they are in the checkpoint.
        problem: targets, start and quadratic.
        settings: how the request solves them.
        shapes: of the stored tensors that they decide, by name.
    """

    systems: tuple[System, ...]
    problem: GroupProblem
    settings: SolverSettings
    shapes: Mapping[str, tuple[int, ...]]

    def stored(self, position: int, matrix: Tensor) -> dict[str, Tensor]:
        """The solution [out, in] of one system as the checkpoint stores it: the weight, and a bias solved with it."""
        return self.systems[position].stored(matrix, self.shapes.__getitem__)


def load_systems(request: MergeRequest, patterns: Sequence[str], progress: Progress | None = None) -> list[StoredGroup]:
    """Load the systems of the weights whose names match, exactly as the merge of `request` would solve them.

    Args:
        request: models with their stores, method, start; its output is not touched.
        patterns: names of weights, or globs (* and ?).
        progress: told of what takes time.

    Raises:
        RequestError: a pattern that matches no weight, or only weights without curvature; the nearest names, or why.
        MatsError: what planning and reading meet.
    """
    progress = progress or Silent()
    request, _ = choose_strength(request, progress)
    with MergeInputs(request) as inputs:
        plan = make_plan(inputs)
        chosen = _chosen(plan, patterns)
        check_fingerprints(inputs, progress)
        scales = scales_for(inputs, plan, progress)
        pool = ElementwisePool(inputs, plan, progress, None if scales is None else scales.for_plan(plan))
        stores = read_indexes(inputs)
        balance = balance_of(stores, plan.groups)
        loader = GroupLoader(inputs, stores, pool.for_start, resolve_device(request.device), balance)
        groups = []
        for group in chosen:
            wanted = {name: inputs.infos[name].shape for name in group.names}
            groups.append(StoredGroup(group.systems, loader.load(group), solver_settings(group.systems[0]), wanted))
        return groups


def _chosen(plan: MergePlan, patterns: Sequence[str]) -> list[Group]:
    """The plan's groups, cut down to the systems asked for."""
    solved = [system.weight for group in plan.groups for system in group.systems]
    for pattern in patterns:
        if not fnmatch.filter(solved, pattern):
            raise RequestError(_fault(plan, pattern, solved))
    groups = []
    for group in plan.groups:
        systems = tuple(
            system for system in group.systems if any(fnmatch.fnmatchcase(system.weight, p) for p in patterns)
        )
        if systems:
            groups.append(replace(group, systems=systems, bytes=group.bytes * len(systems) // len(group.systems)))
    return groups


def _fault(plan: MergePlan, pattern: str, solved: Sequence[str]) -> str:
    """Why nothing is solved under a pattern, in one line."""
    beside = {part.name: part for part in plan.streamed}
    if found := fnmatch.filter(beside, pattern):
        part = beside[found[0]]
        reason = f" ({part.reason})" if part.reason else ""
        return f"weights {pattern!r}: {part.name} is not solved but merged by rule {part.rule}{reason}"
    near = difflib.get_close_matches(pattern, solved, n=1, cutoff=0.0)
    riding = [name for group in plan.groups for name in group.names if fnmatch.fnmatchcase(name, pattern)]
    if riding:
        return f"weights {pattern!r}: {riding[0]} is a bias solved along with its weight; name the weight"
    return f"weights {pattern!r}: no weight of that name among {len(solved)} that are solved" + (
        f"; did you mean {near[0]}?" if near else ""
    )
