"""From the sums in a store to one model's curvature C_i, by the settings of a quadratic method. Pure functions.

The divisors and the shrinkage themselves are defined in `mats.quadratics`; here the settings choose among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mats.methods.quadratic import QuadraticSettings
from mats.quadratics.scaling import example_scale, gram_scale, kronecker_scales, scale_off_diagonal
from mats.quadratics.shrinkage import shrink, shrinkage_intensity


@dataclass(frozen=True)
class GramSums:
    """One Gram as a store holds it.

    Attributes:
        total: Σ x xᵀ [n, n], or its diagonal [n] (token counts).
        tokens: rows summed.
        fourth_moment: Σ‖x‖⁴; None where it was not measured.
    """

    total: Tensor
    tokens: float
    fourth_moment: float | None = None

    @property
    def mean_diagonal(self) -> float:
        """tr ÷ n of the sum."""
        diagonal = self.total.diagonal() if self.total.dim() == 2 else self.total
        return float(diagonal.mean(dtype=torch.float64))


def leading_block(gram: GramSums, size: int) -> GramSums:
    """The Gram of inputs a without their homogeneous 1, for a layer without bias at a site measured with it.

    Σ‖a‖⁴ follows from Σ‖[a; 1]‖⁴ = Σ (‖a‖² + 1)² = Σ‖a‖⁴ + 2 tr Σ a aᵀ + T. A Gram of `size` comes back as it is.
    """
    if gram.total.dim() == 1 or gram.total.shape[-1] != size + 1:
        return gram
    block = gram.total[:size, :size]
    fourth = gram.fourth_moment
    if fourth is not None:
        fourth = fourth - 2 * float(block.diagonal().sum(dtype=torch.float64)) - gram.tokens
    return GramSums(block, gram.tokens, fourth)


def kronecker_factors(
    inputs: GramSums, outputs: GramSums | None, examples: float, settings: QuadraticSettings
) -> tuple[Tensor, Tensor | None]:
    """(A_i, G_i) of C_i: W ↦ G_i W A_i for one layer of one model; G_i is None without `outputs`.

    A layer through which no row of this model's data passed has no curvature: zeros.
    """
    if inputs.tokens == 0:
        return torch.zeros_like(inputs.total), None if outputs is None else torch.zeros_like(outputs.total)
    if outputs is None:
        scale = gram_scale(settings.scaling, examples=examples, rows=inputs.tokens, mean_diagonal=inputs.mean_diagonal)
        return regularised(inputs, settings) * scale, None
    scales = kronecker_scales(
        settings.scaling,
        examples=examples,
        input_rows=inputs.tokens,
        output_rows=outputs.tokens,
        input_mean_diagonal=inputs.mean_diagonal,
        output_mean_diagonal=outputs.mean_diagonal,
    )
    return regularised(inputs, settings) * scales.right, regularised(outputs, settings) * scales.left


def regularised(gram: GramSums, settings: QuadraticSettings) -> Tensor:
    """The sum, its off-diagonal scaled and the whole shrunk toward scaled identity; token counts are left as they are.

    Both steps keep the trace and commute; the shrinkage's intensity is that of the sum as measured.
    """
    if gram.total.dim() == 1:
        return gram.total
    matrix = scale_off_diagonal(gram.total, settings.off_diagonal)
    if settings.shrinkage is None:
        return matrix
    return shrink(matrix, shrinkage_intensity(settings.shrinkage, gram.total, gram.tokens, gram.fourth_moment))


def block_matrix(total: Tensor, examples: float, settings: QuadraticSettings) -> Tensor:
    """The dense Fisher block [n, n] of one vector parameter: Σ g gᵀ ÷ N, its off-diagonal scaled."""
    mean = float(total.diagonal().mean(dtype=torch.float64))
    matrix = scale_off_diagonal(total, settings.off_diagonal)
    return matrix * example_scale(settings.scaling, examples=examples, mean_diagonal=mean)


def fisher_diagonal(total: Tensor, examples: float, settings: QuadraticSettings) -> Tensor:
    """The diagonal Fisher of one parameter, Σ g² ÷ N, not below the absolute `floor`."""
    mean = float(total.mean(dtype=torch.float64))
    diagonal = total * example_scale(settings.scaling, examples=examples, mean_diagonal=mean)
    return diagonal.clamp_(min=settings.floor) if settings.floor > 0 else diagonal
