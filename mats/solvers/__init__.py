"""Batched conjugate gradients, closed forms, certificates. Knows tensors and operators, no models."""

from mats.solvers.settings import SolverSettings
from mats.solvers.solution import BoundKind, Certificate, Solution, StopReason
from mats.solvers.solve import solve_quadratic

__all__ = ["BoundKind", "Certificate", "Solution", "SolverSettings", "StopReason", "solve_quadratic"]
