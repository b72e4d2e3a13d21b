"""The curvatures C_i as batched linear operators: apply, right-hand side, per-model loss."""

from mats.quadratics.base import FactorSums, Quadratic, Sides
from mats.quadratics.damped import DampedQuadratic
from mats.quadratics.diagonal import DiagonalQuadratic
from mats.quadratics.factors import empty_left_factors, empty_right_factors
from mats.quadratics.identity import IdentityQuadratic
from mats.quadratics.kronecker import KroneckerQuadratic
from mats.quadratics.per_model import PerModelQuadratic
from mats.quadratics.total import SumQuadratic

__all__ = [
    "DampedQuadratic",
    "DiagonalQuadratic",
    "FactorSums",
    "IdentityQuadratic",
    "KroneckerQuadratic",
    "PerModelQuadratic",
    "Quadratic",
    "Sides",
    "SumQuadratic",
    "empty_left_factors",
    "empty_right_factors",
]
