"""Groups of layers loaded, solved as one batch, certified and written: never more than one group at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints import CheckpointWriter
from mats.engine.inputs import MergeInputs
from mats.engine.layout import from_canonical
from mats.engine.loading import GroupLoader
from mats.engine.plan import Group, MergePlan, System
from mats.engine.rounding import rounding_loss
from mats.engine.snapshots import Snapshots
from mats.engine.streaming import put
from mats.errors import NonFiniteWeights
from mats.methods.quadratic import QuadraticSettings
from mats.progress import Progress
from mats.solvers import Certificate, Solution, SolverSettings, solve_quadratic
from mats.solvers.settings import SolverName


def solve_groups(
    inputs: MergeInputs,
    plan: MergePlan,
    loader: GroupLoader,
    writer: CheckpointWriter,
    snapshots: Snapshots,
    progress: Progress,
) -> None:
    """Solve and write every group that an earlier, killed run has not finished as a whole.

    A group is solved again if one of its tensors is missing: in the same batch, so with the same bytes.
    """
    progress.start("solving groups of layers", sum(len(group.systems) for group in plan.groups))
    for group in plan.groups:
        if not (all(name in writer.done for name in group.names) and snapshots.hold(group.names)):
            solution = _solve_group(group, loader)
            _write_group(inputs, group, solution.value, solution.certificates, writer)
            for iteration in snapshots.iterations:
                value = solution.snapshots.get(iteration, solution.value)  # a closed form has no iterates
                certificates = solution.snapshot_certificates.get(iteration, solution.certificates)
                _write_group(inputs, group, value, certificates, snapshots.writer(iteration))
        progress.advance(len(group.systems))


def _solve_group(group: Group, loader: GroupLoader) -> Solution:
    problem = loader.load(group)
    settings = solver_settings(group.systems[0])
    return solve_quadratic(problem.quadratic, problem.targets, problem.start, settings)


def _write_group(
    inputs: MergeInputs, group: Group, value: Tensor, certificates: Sequence[Certificate], writer: CheckpointWriter
) -> None:
    """Write the systems of a group, [L, out, in], in the form in which they are stored."""
    shapes = {info.name: info.shape for info in inputs.tensors}
    names = [model.name for model in inputs.request.models]
    for system, matrix, certificate in zip(group.systems, value, certificates, strict=True):
        if not bool(torch.isfinite(matrix).all()):
            raise NonFiniteWeights(
                f"{system.weight}: the solve gave a value that is not finite ({certificate.stop_reason.value}); "
                "raise the damping or the anchor, or use precision float64"
            )
        weight, bias = from_canonical(matrix, shapes[system.weight], system.layout, bias=system.bias is not None)
        merged = [(system.weight, weight)]
        if system.bias is not None and bias is not None:
            merged.append((system.bias, bias.reshape(shapes[system.bias])))
        entry = certificate_entry(system, certificate, names) | {"rounding_loss": rounding_loss(inputs, merged)}
        for name, tensor in merged:
            put(inputs, writer, name, tensor, note=entry if name == system.weight else None)


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
