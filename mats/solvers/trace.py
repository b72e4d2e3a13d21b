"""What conjugate gradients tell on their way: residuals, and through their step lengths the operator's spectrum.

With step lengths α_k and β_k, the Lanczos matrix of M⁻¹(C + ν) is tridiagonal with diagonal 1/α_k + β_{k−1}/α_{k−1}
and √β_k / α_k beside it (Saad, *Iterative Methods for Sparse Linear Systems*, section 6.7.3); its eigenvalues are Ritz
values, and the smallest of them lies above the operator's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

LANCZOS_STEPS = 128  # of the first iterations: later ones add little and cost their cube


class Trace:
    """Numbers of every iteration, kept on the device until somebody asks.

    Args:
        systems: L.
        device: where they are iterated.
    """

    def __init__(self, systems: int, device: torch.device) -> None:
        self.systems, self.device = systems, device
        self._rows: list[tuple[Tensor, Tensor]] = []

    def add(self, index: Tensor, running: Tensor, alpha: Tensor, beta: Tensor, residual: Tensor) -> None:
        """One iteration of the systems at `index`: its steps [n, 1, 1], its residuals' norms [n]; NaN if it stood."""
        row = torch.stack([alpha.flatten(), beta.flatten(), residual]).to(torch.float64)
        self._rows.append((index, row.masked_fill(~running, torch.nan)))

    def _table(self, number: int, rows: int) -> Tensor:
        """One of the numbers over the first iterations: [L, K], NaN where a system did not iterate."""
        table = torch.full((self.systems, rows), torch.nan, dtype=torch.float64, device=self.device)
        for column, (index, row) in enumerate(self._rows[:rows]):
            table[index, column] = row[number]
        return table

    def smallest_ritz(self) -> Tensor:
        """The smallest Ritz value of each system [L]; NaN where no iteration was made."""
        rows = min(len(self._rows), LANCZOS_STEPS)
        if rows == 0:
            return torch.full((self.systems,), torch.nan, dtype=torch.float64, device=self.device)
        alpha, beta = self._table(0, rows), self._table(1, rows)
        made = (alpha > 0).cumprod(dim=1).bool()  # a system's first iterations, up to where it stopped
        inverse = torch.where(made, 1 / alpha, 0.0)
        diagonal = inverse.clone()
        diagonal[:, 1:] += (beta * inverse)[:, :-1].where(made[:, 1:], 0.0)
        beside = ((beta.clamp(min=0).sqrt() * inverse)[:, :-1]).where(made[:, 1:], 0.0)
        diagonal = torch.where(made, diagonal, diagonal[:, :1])  # no smaller than the smallest: 1/α_1 is a Ritz value
        matrix = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        smallest = torch.linalg.eigvalsh(matrix)[:, 0]
        return torch.where(made[:, 0], smallest, torch.nan)

    def extended(self, before: Tensor | None, index: Tensor, unit: Tensor) -> Tensor:
        """The histories [L, K] of all systems, with those at `index` going on by this run's residuals.

        Args:
            before: histories up to here; None: this is the first run.
            index: which systems this run was made for.
            unit: what this run's residuals are multiplied by, [n].
        """
        own = self._table(2, len(self._rows)) * unit[:, None]
        if before is None:
            return own
        counts = (~before[index].isnan()).sum(dim=1)
        made = (~own.isnan()).sum(dim=1)
        width = max(before.shape[1], int((counts + made).max()))
        longer = torch.full((before.shape[0], width), torch.nan, dtype=torch.float64, device=before.device)
        longer[:, : before.shape[1]] = before
        for row, (system, first, more) in enumerate(zip(index.tolist(), counts.tolist(), made.tolist(), strict=True)):
            longer[system, first : first + more] = own[row, :more]
        return longer
