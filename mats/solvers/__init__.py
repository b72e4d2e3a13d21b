"""Batched conjugate gradients, closed forms, certificates. Knows tensors and operators, no models."""

from mats.solvers.prepared import PreparedSystems
from mats.solvers.settings import SolverSettings
from mats.solvers.solution import BoundKind, Certificate, Solution, StopReason
from mats.solvers.solve import solve_quadratic

__all__ = ["BoundKind", "Certificate", "PreparedSystems", "Solution", "SolverSettings", "StopReason", "solve_quadratic"]
