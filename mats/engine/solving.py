"""Groups of layers loaded, solved as one batch, certified and written: never more at once than the plan says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints import CheckpointWriter
from mats.engine.fitting import Solved, solve_fitting
from mats.engine.fused_parts import Assembly, split_part, whole_name
from mats.engine.group_plan import overlapped
from mats.engine.groups_ahead import GroupsAhead
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader, GroupProblem
from mats.engine.plan_parts import Group, System
from mats.engine.processes import Processes
from mats.engine.rounding import rounding_loss
from mats.engine.snapshots import Snapshots
from mats.engine.streaming import put
from mats.engine.write_behind import WriteBehind
from mats.errors import NonFiniteWeights
from mats.methods.quadratic import QuadraticSettings
from mats.progress import Progress
from mats.solvers import Certificate, Solution, SolverSettings, solve_quadratic
from mats.solvers.settings import SolverName

Solver = Callable[..., Solution]


def solve_groups(
    inputs: MergeInputs,
    groups: Sequence[Group],
    loader: GroupLoader,
    writer: CheckpointWriter,
    snapshots: Snapshots,
    progress: Progress,
    *,
    processes: Processes | None = None,
    solver: Solver = solve_quadratic,
) -> None:
    """Solve and write every group that an earlier, killed run has not finished as a whole.

    While one is solved, the next is read and the last is written, on threads of their own, where the budget holds all
    three. A group is solved again if one of its tensors is missing: in the same batch, so with the same bytes.

    Args:
        inputs, loader, writer, snapshots: of the merge.
        groups: those that are this process's to solve, in order.
        progress: told the share of the arithmetic, in percent.
        processes: asked before each group whether another one has failed.
        solver: solves; of the form of `solve_quadratic`.
    """
    processes = processes or Processes()
    finished = [_is_done(group, writer, snapshots) for group in groups]
    todo = overlapped([group for group, is_done in zip(groups, finished, strict=True) if not is_done], inputs.request)
    loader.prepare(todo)
    done = _Percent(progress, f"solving {sum(len(group.systems) for group in groups)} layers (percent)", groups)
    done.add(group for group, is_done in zip(groups, finished, strict=True) if is_done)

    def solve(problem: GroupProblem, group: Group) -> Solution:
        settings = solver_settings(group.systems[0])
        return solver(problem.quadratic, problem.targets, problem.start, settings)

    limit = max((group.value_bytes for group in todo), default=0)
    assembly = Assembly()
    with WriteBehind(limit) as behind, GroupsAhead(todo, loader, partial(_shareable, inputs)) as ahead:
        for turn, group in enumerate(todo):
            processes.check()
            if not group.overlaps:
                behind.finish()
            beside = group.overlaps and type(writer) is CheckpointWriter and _shareable(inputs, group)
            for solved in solve_fitting(group, _first_from(ahead, turn, loader), solve, loader.device):
                write = partial(_write_solved, inputs, assembly, group, _on_host(solved), writer, snapshots)
                behind.submit(solved.group.value_bytes, write, shareable=beside)
                del solved, write
            done.add([group])


def _is_done(group: Group, writer: CheckpointWriter, snapshots: Snapshots) -> bool:
    names = tuple(dict.fromkeys(whole_name(name) for name in group.names))
    return all(name in writer.done for name in names) and snapshots.hold(names)


def _first_from(ahead: GroupsAhead, turn: int, loader: GroupLoader) -> Callable[[Group, torch.device], GroupProblem]:
    """Loads what was read ahead when first asked, and reads again, alone, when that was too much for the memory."""
    asked = False

    def load(group: Group, device: torch.device) -> GroupProblem:
        nonlocal asked
        if asked:
            ahead.drop()
            return loader.on(device).load(group)
        asked = True
        return ahead.problem(turn)

    return load


def _shareable(inputs: MergeInputs, group: Group) -> bool:
    """Whether a group's tensors can be read beside other work."""
    return all(inputs.shareable(name) for name in group.names)


class _Percent:
    """Tells progress by the work of what is done."""

    def __init__(self, progress: Progress, description: str, groups: Iterable[Group]) -> None:
        self._progress = progress
        self._total = sum(group.work for group in groups)
        self._done, self._told = 0.0, 0
        progress.start(description, 100)

    def add(self, groups: Iterable[Group]) -> None:
        """These are done."""
        self._done += sum(group.work for group in groups)
        percent = round(100 * self._done / self._total) if self._total else 100
        self._progress.advance(percent - self._told)
        self._told = percent


def _on_host(solved: Solved) -> Solved:
    """Copied by the thread that solved, so that a GPU's next work does not come first."""
    solution = solved.solution
    snapshots = {iteration: value.cpu() for iteration, value in solution.snapshots.items()}
    return replace(solved, solution=replace(solution, value=solution.value.cpu(), snapshots=snapshots))


def _write_solved(
    inputs: MergeInputs,
    assembly: Assembly,
    planned: Group,
    solved: Solved,
    writer: CheckpointWriter,
    snapshots: Snapshots,
) -> None:
    """Write what was solved, to the output and to every snapshot; tell where memory did not allow what was planned."""
    solution, group = solved.solution, solved.group
    told: dict[str, Any] = {}
    if solved.made_do:
        told["made_do"] = {**solved.made_do, "planned": len(planned.systems)}
    _write_group(inputs, assembly, group, solution.value, solution.certificates, writer, told)
    for iteration in snapshots.iterations:
        value = solution.snapshots.get(iteration, solution.value)  # a closed form has no iterates
        certificates = solution.snapshot_certificates.get(iteration, solution.certificates)
        _write_group(inputs, assembly, group, value, certificates, snapshots.writer(iteration), told)


def _write_group(
    inputs: MergeInputs,
    assembly: Assembly,
    group: Group,
    value: Tensor,
    certificates: Sequence[Certificate],
    writer: CheckpointWriter,
    told: Mapping[str, Any],
) -> None:
    """Write the systems of a group, [L, out, in], in the form in which they are stored."""
    names = [model.name for model in inputs.request.models]
    for system, matrix, certificate in zip(group.systems, value, certificates, strict=True):
        if not bool(torch.isfinite(matrix).all()):
            raise NonFiniteWeights(
                f"{system.weight}: the solve gave a value that is not finite ({certificate.stop_reason.value}); "
                "raise the damping or the anchor, or use precision float64"
            )
        merged = list(system.stored(matrix, lambda name: inputs.infos[name].shape).items())
        entry = certificate_entry(system, certificate, names) | {"rounding_loss": rounding_loss(inputs, merged), **told}
        for name, tensor in merged:
            _put(inputs, assembly, writer, name, tensor, entry if name == system.weight else None)


def _put(
    inputs: MergeInputs,
    assembly: Assembly,
    writer: CheckpointWriter,
    name: str,
    tensor: Tensor,
    entry: dict[str, Any] | None,
) -> None:
    """Write a tensor, or keep what is a part of one until it is whole."""
    whole, number = split_part(name)
    if number is None:
        put(inputs, writer, name, tensor, note=entry)
    elif (complete := assembly.add(writer, inputs.infos[whole], number, tensor, entry)) is not None:
        put(inputs, writer, whole, complete[0], note=complete[1] or None)


def solver_settings(system: System) -> SolverSettings:
    """How a system's group is solved: Kronecker systems as the settings say, others in closed form unless by cg."""
    settings: QuadraticSettings = system.settings
    name = _solver_name(system)
    return SolverSettings(
        name=name,
        tolerance=settings.solver.tolerance,
        max_iterations=settings.solver.max_iterations,
        anchor=settings.anchor,
        damping=settings.damping,
        radius=settings.radius,
        precision=settings.solver.precision,
        reference=settings.solver.reference,
        snapshots=settings.solver.snapshots if name in ("cg", "pcg") else (),
    )


def _solver_name(system: System) -> SolverName:
    chosen = system.settings.solver.name
    if chosen == "pcg" and system.rule in ("block", "diagonal", "identity"):
        return "auto"
    return chosen


def certificate_entry(system: System, certificate: Certificate, models: Sequence[str]) -> dict[str, Any]:
    """What report.json says about one solved layer."""
    entry: dict[str, Any] = {
        "name": system.weight,
        "rule": system.rule,
        "shape": list(system.shape),
        **certificate.as_entry(models),
    }
    if system.bias is not None:
        entry["bias"] = system.bias
    if system.reason is not None:
        entry["fallback_reason"] = system.reason
    return entry


def unconverged(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the layers whose solve missed its tolerance."""
    return [entry["name"] for entry in entries if entry.get("converged") is False]
