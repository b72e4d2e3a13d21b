"""What `mats.solve` hands back: merged weights by name, certificates, and both as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mats.errors import RequestError
from mats.merge_problem import MergeProblem, SystemGroup
from mats.solvers import Certificate, Solution, StopReason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mats.reporting.report import LayerEntry


@dataclass(frozen=True)
class SolveResult:
    """Solutions of all systems of a problem; lists are in the order of `names`.

    Attributes:
        names: of the systems.
        models: names of the models.
        values: merged tensors by name, as their checkpoint stores them (a bias solved with its weight apart from it).
        certificates: what is known about each solution.
        snapshots_by_name: the iterates after chosen iterations, likewise; a system that stopped before has its final
            value there, and so has one that was solved in closed form.
        snapshot_certificates: the same for each snapshot.
        histories: relative residual of each system after every iteration, where `history` was asked for.
        shape: of one target, where the problem was made of plain tensors.
    """

    names: tuple[str, ...]
    models: tuple[str, ...]
    values: dict[str, Tensor]
    certificates: tuple[Certificate, ...]
    snapshots_by_name: dict[int, dict[str, Tensor]]
    snapshot_certificates: dict[int, tuple[Certificate, ...]]
    histories: tuple[tuple[float, ...], ...]
    shape: torch.Size | None = None

    @property
    def value(self) -> Tensor:
        """The merged weights of a problem of plain tensors, in the shape of one target.

        Raises:
            RequestError: the problem was made of stores; `values` has its tensors by name.
        """
        return self._shaped(self.values)

    @property
    def snapshots(self) -> dict[int, Tensor]:
        """The iterates after chosen iterations, in the shape of one target; see `value`."""
        return {iteration: self._shaped(values) for iteration, values in self.snapshots_by_name.items()}

    @property
    def solved(self) -> bool:
        """Whether every system reached its tolerance."""
        return all(reason.solved for reason in self.reasons)

    @property
    def reasons(self) -> tuple[StopReason, ...]:
        """Why each system was left as it is; `.sentence` says it in words."""
        return tuple(certificate.stop_reason for certificate in self.certificates)

    @property
    def iterations(self) -> tuple[int, ...]:
        """Of each system."""
        return tuple(certificate.iterations for certificate in self.certificates)

    @property
    def residuals(self) -> tuple[float, ...]:
        """The true relative residual of each system."""
        return tuple(certificate.relative_residual for certificate in self.certificates)

    @property
    def losses_before(self) -> dict[str, tuple[float, ...]]:
        """Each model's quadratic at the start, by model, for each system."""
        return self._losses([certificate.loss_before for certificate in self.certificates])

    @property
    def losses_after(self) -> dict[str, tuple[float, ...]]:
        """Each model's quadratic at the solution, by model, for each system."""
        return self._losses([certificate.loss_after for certificate in self.certificates])

    def summary(self, *, limit: int | None = None, width: int = 120) -> str:
        """The certificates as a table of text.

        Args:
            limit: show so many systems only, those with the largest residuals.
            width: of a line.
        """
        from rich.console import Console

        from mats.reporting.tables import certificates_table, losses_table

        console = Console(width=width, no_color=True, legacy_windows=False)
        with console.capture() as capture:
            console.print(certificates_table(self.entries(), limit=limit))
            console.print(losses_table("Quadratics of the models", self.entries(), self.models))
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def plot(self) -> Figure:
        """The certificates as a picture, system by system (matplotlib); in a notebook it shows itself."""
        from mats.reporting.layer_plot import plot_certificates

        return plot_certificates(self.entries(), self.models)

    def entries(self) -> list[LayerEntry]:
        """The certificates as `report.json` has them."""
        return [
            {"name": name, "rule": "", "shape": [], **certificate.as_entry(self.models)}  # type: ignore[typeddict-item]
            for name, certificate in zip(self.names, self.certificates, strict=True)
        ]

    def _shaped(self, values: dict[str, Tensor]) -> Tensor:
        if self.shape is None:
            raise RequestError(f"value: the problem was made of stores; take values[{next(iter(values))!r}]")
        return torch.stack(list(values.values())).reshape(self.shape)

    def _losses(self, losses: Sequence[tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        return dict(zip(self.models, zip(*losses, strict=True), strict=True))


def gathered(problem: MergeProblem, solutions: Sequence[Solution]) -> SolveResult:
    """The solutions of a problem's groups as one result."""
    pairs = list(zip(problem.groups, solutions, strict=True))
    iterations = sorted({iteration for solution in solutions for iteration in solution.snapshots})
    return SolveResult(
        names=problem.names,
        models=problem.models,
        values={name: tensor for group, solution in pairs for name, tensor in _stored(group, solution.value).items()},
        certificates=tuple(certificate for solution in solutions for certificate in solution.certificates),
        snapshots_by_name={
            iteration: {
                name: tensor
                for group, solution in pairs
                for name, tensor in _stored(group, solution.snapshots.get(iteration, solution.value)).items()
            }
            for iteration in iterations
        },
        snapshot_certificates={
            iteration: tuple(
                certificate
                for solution in solutions
                for certificate in solution.snapshot_certificates.get(iteration, solution.certificates)
            )
            for iteration in iterations
        },
        histories=tuple(history for solution in solutions for history in solution.histories),
        shape=problem.shape,
    )


def _stored(group: SystemGroup, values: Tensor) -> dict[str, Tensor]:
    """The solutions of a group by the names of its tensors."""
    return {
        name: tensor for position, value in enumerate(values) for name, tensor in group.stored(position, value).items()
    }
