"""Task-vector scales in closed form: `scale: auto` of task arithmetic, from the metadata instead of held-out data.

With W = W_0 + Σ_j s_j τ_j the predicted loss Σ_i λ_i ½ ⟨W − W_i, C_i (W − W_i)⟩ is quadratic in the m scales:

    M s = r        M_jk = Σ_i λ_i ⟨τ_j, C_i τ_k⟩        r_j = Σ_i λ_i ⟨τ_j, C_i τ_i⟩

solved for the whole model, or for each layer. Everything without curvature takes the scales of the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mats.engine.inputs import MergeInputs
from mats.engine.measured import Quantity, measured, measured_loader
from mats.engine.plan import MergePlan
from mats.methods.settings import ElementwiseSettings
from mats.methods.task_arithmetic import TaskArithmeticSettings, TaskVectorScales
from mats.progress import Progress

CUTOFF = 1e-10  # eigenvalues of M below this share of the largest count as zero: task vectors that depend on each other


@dataclass(frozen=True)
class AutoScales:
    """The scales of one merge.

    Attributes:
        overall: s_j, one per model, for the whole model.
        layers: parameter → s_j for its layer; a bias solved with its weight has the same.
        quantity: what they minimise: the predicted "loss", or the "output_error".
    """

    overall: tuple[float, ...]
    layers: Mapping[str, tuple[float, ...]]
    quantity: Quantity

    def for_plan(self, plan: MergePlan) -> dict[ElementwiseSettings, TaskVectorScales]:
        """The scales of every setting in the plan that leaves them open."""
        return {
            used: TaskVectorScales(self.overall, self.layers if used.scale_scope == "layer" else {})
            for used in _open_scales(plan)
        }

    def told(self, notes: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
        """What report.json says about them, beside the `notes` that it has."""
        quantity = self.quantity.replace("_", " ")
        scales = ", ".join(f"{model} {scale:.3g}" for model, scale in zip(models, self.overall, strict=True))
        entry = {
            "minimise": self.quantity,
            "overall": dict(zip(models, self.overall, strict=True)),
            "layers": {name: dict(zip(models, own, strict=True)) for name, own in self.layers.items()},
        }
        return {"scales": entry, "notes": [*notes, f"scales of least predicted {quantity}, whole model: {scales}"]}


def _open_scales(plan: MergePlan) -> set[TaskArithmeticSettings]:
    """Task arithmetic with automatic scales by which a tensor is merged, or from which a solve starts."""
    used = {part.settings for part in plan.streamed}
    used |= {system.settings.init for group in plan.groups for system in group.systems}
    return {settings for settings in used if isinstance(settings, TaskArithmeticSettings) and settings.scale == "auto"}


def scales_for(inputs: MergeInputs, plan: MergePlan, progress: Progress) -> AutoScales | None:
    """The scales that a merge needs; None where it leaves none open.

    Raises:
        MatsError: as `find_scales`.
    """
    return find_scales(inputs, progress) if _open_scales(plan) else None


def find_scales(inputs: MergeInputs, progress: Progress) -> AutoScales:
    """The best scales by the metadata of the merge's models.

    Held at once: one group of layers within the memory budget, as in a solve.

    Raises:
        RequestError: no parameter has curvature in the metadata of every model.
        StoreCorrupt, NonFiniteStatistic, CheckpointCorrupt, NonFiniteWeights: from the files.
    """
    count = len(inputs.models)
    total = torch.zeros(count, count + 1, dtype=torch.float64)
    layers: dict[str, tuple[float, ...]] = {}
    with measured(inputs.request, None) as (opened, plan, quantity):
        loader = measured_loader(opened, plan)
        progress.start("scales of task vectors", sum(len(group.systems) for group in plan.groups))
        for group in plan.groups:
            targets = loader.targets(group, torch.float64)
            base = loader.stacked(group, torch.float64, opened.read_base)
            quadratic = loader.quadratic(group, torch.float32)
            quadratic.check_values()
            right = quadratic.rhs(targets, base)
            changes = targets.sub_(base)
            pulls = torch.stack([*(quadratic.apply(change) for change in changes), right])
            systems = torch.einsum("jloi,kloi->ljk", changes, pulls).cpu()
            for system, equations in zip(group.systems, systems, strict=True):
                layers |= dict.fromkeys(system.names, solve_scales(equations))
            total += systems.sum(dim=0)
            progress.advance(len(group.systems))
    return AutoScales(solve_scales(total), layers, quantity)


def solve_scales(equations: Tensor) -> tuple[float, ...]:
    """s of M s = r, the shortest where there are several. `equations`: [m, m + 1] float64, M beside r."""
    matrix = (equations[:, :-1] + equations[:, :-1].mT) / 2
    return tuple((torch.linalg.pinv(matrix, rtol=CUTOFF, hermitian=True) @ equations[:, -1]).tolist())
