"""Every kind of quadratic with its dense twin, for tests of operators and of solvers alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from oracles import Matrix, kronecker
from torch import Tensor

from mats.quadratics import (
    DampedQuadratic,
    DiagonalQuadratic,
    IdentityQuadratic,
    KroneckerQuadratic,
    PerModelQuadratic,
    Quadratic,
    SumQuadratic,
)

MODELS, SYSTEMS, OUT, IN = 3, 2, 4, 5
WEIGHTS = (1.0, 0.25, 2.0)


@dataclass(frozen=True)
class Case:
    """A quadratic and the dense C_i of each model and system: dense[model][system] is [out·in, out·in]."""

    quadratic: Quadratic
    dense: list[list[Matrix]]

    def total(self, system: int) -> Matrix:
        """Σ λ C of one system."""
        return sum(w * C[system] for w, C in zip(self.quadratic.weights, self.dense, strict=True))


def gram(random: np.random.Generator, size: int, rank: int, scale: float = 1.0) -> Matrix:
    """A Gram matrix of `rank` random rows."""
    rows = random.standard_normal((rank, size)) * np.sqrt(scale / rank)
    return rows.T @ rows


def _stack(entries: list[list[Matrix]]) -> Tensor:
    return torch.from_numpy(np.array(entries))


class Factors:
    """Random factors of all models and systems; singular ones see only part of the space, a few entries vanish."""

    def __init__(self, random: np.random.Generator, *, singular: bool, rows: int = OUT, columns: int = IN) -> None:
        rank = (lambda size: max(1, size // 3)) if singular else (lambda size: 3 * size)
        grid = [range(SYSTEMS) for _ in range(MODELS)]
        self.rows, self.columns = rows, columns
        self.G = [[gram(random, rows, rank(rows), 10.0**model) for _ in line] for model, line in enumerate(grid)]
        self.A = [[gram(random, columns, rank(columns)) for _ in line] for line in grid]
        self.g = [[random.random(rows) + 0.1 for _ in line] for line in grid]
        self.a = [[random.random(columns) + 0.1 for _ in line] for line in grid]
        self.F = [[random.random((rows, columns)) + 0.1 for _ in line] for line in grid]
        if singular:
            for line in (*self.g, *self.a, *self.F):
                for entry in line:
                    entry.reshape(-1)[::3] = 0.0

    def dense(self, left: list[list[Matrix]] | None, right: list[list[Matrix]] | None) -> list[list[Matrix]]:
        """The dense twin of a Kronecker quadratic."""

        return [
            [
                kronecker(
                    np.eye(self.rows) if left is None else _full(left[model][system]),
                    np.eye(self.columns) if right is None else _full(right[model][system]),
                )
                for system in range(SYSTEMS)
            ]
            for model in range(MODELS)
        ]


def _kronecker_case(left: str | None, right: str | None) -> Callable[[Factors], Case]:
    def build(f: Factors) -> Case:
        lefts = None if left is None else getattr(f, left)
        rights = None if right is None else getattr(f, right)
        shape = (SYSTEMS, f.rows, f.columns)
        stacks = [None if entries is None else _stack(entries) for entries in (lefts, rights)]
        return Case(KroneckerQuadratic(*stacks, WEIGHTS, shape=shape), f.dense(lefts, rights))

    return build


def _identity(f: Factors) -> Case:
    eye = np.eye(f.rows * f.columns)
    quadratic = IdentityQuadratic(WEIGHTS, (SYSTEMS, f.rows, f.columns), dtype=torch.float64)
    return Case(quadratic, [[eye] * SYSTEMS for _ in range(MODELS)])


def _diagonal(f: Factors) -> Case:
    dense = [[np.diag(entry.ravel()) for entry in line] for line in f.F]
    return Case(DiagonalQuadratic(_stack(f.F), WEIGHTS), dense)


def _added(*parts: Callable[[Factors], Case]) -> Callable[[Factors], Case]:
    def build(f: Factors) -> Case:
        cases = [part(f) for part in parts]
        dense = [
            [sum(case.dense[model][system] for case in cases) for system in range(SYSTEMS)] for model in range(MODELS)
        ]
        return Case(SumQuadratic([case.quadratic for case in cases]), dense)

    return build


STRENGTH = 0.3


def _damped(part: Callable[[Factors], Case]) -> Callable[[Factors], Case]:
    """With one more model: what (G + s ḡ I) ⊗ (A + s ā I) has beyond G ⊗ A, from the definition, summed over models."""

    def build(f: Factors) -> Case:
        case = part(f)
        kfac = case.quadratic
        assert isinstance(kfac, KroneckerQuadratic)
        extra = []
        for system in range(SYSTEMS):
            total = np.zeros((f.rows * f.columns,) * 2)
            for model, weight in enumerate(WEIGHTS):
                G, A = (_full(stack[model, system].numpy()) for stack in (kfac.left, kfac.right))
                damped = [M + STRENGTH * np.trace(M) / len(M) * np.eye(len(M)) for M in (G, A)]
                total += weight * (kronecker(*damped) - kronecker(G, A))
            extra.append(total)
        return Case(DampedQuadratic(kfac, STRENGTH), [*case.dense, extra])

    return build


def one_model(quadratic: Quadratic, model: int) -> Quadratic:
    """A quadratic of one of its models alone, with that model's weight."""
    weight = [quadratic.weights[model]]
    if isinstance(quadratic, SumQuadratic):
        return SumQuadratic([one_model(term, model) for term in quadratic.terms])
    if isinstance(quadratic, DiagonalQuadratic):
        return DiagonalQuadratic(quadratic.diagonals[model : model + 1], weight)
    assert isinstance(quadratic, KroneckerQuadratic)
    parts = [None if stack is None else stack[model : model + 1] for stack in (quadratic.left, quadratic.right)]
    return KroneckerQuadratic(*parts, weight, shape=quadratic.shape)


def _model_by_model(part: Callable[[Factors], Case]) -> Callable[[Factors], Case]:
    """The same, one model at a time; damped, the damping's sums over models are formed so as well."""

    def build(f: Factors) -> Case:
        case = part(f)
        whole = case.quadratic
        if isinstance(whole, DampedQuadratic):
            undamped = PerModelQuadratic(lambda model: one_model(whole.undamped, model), WEIGHTS)
            damped = undamped.damped(STRENGTH)
            assert damped is not None
            return Case(damped, case.dense)
        return Case(PerModelQuadratic(lambda model: one_model(whole, model), WEIGHTS), case.dense)

    return build


def _full(entry: Matrix) -> Matrix:
    return entry if entry.ndim == 2 else np.diag(entry)


CASES: dict[str, Callable[[Factors], Case]] = {
    "average": _identity,
    "diagonal_fisher": _diagonal,
    "regmean": _kronecker_case(None, "A"),
    "kfac": _kronecker_case("G", "A"),
    "left_alone": _kronecker_case("G", None),
    "diagonal_left": _kronecker_case("g", "A"),
    "diagonal_right": _kronecker_case("G", "a"),
    "both_diagonal": _kronecker_case("g", "a"),
    "counts_alone": _kronecker_case(None, "a"),
    "diagonal_left_alone": _kronecker_case("g", None),
    "tied_embedding": _added(_kronecker_case("G", None), _kronecker_case(None, "a")),
    "tied_kfac": _added(_kronecker_case("G", "a"), _kronecker_case("G", None)),
    "kfac_and_diagonal": _added(_kronecker_case("G", "A"), _diagonal),
    "damped_kfac": _damped(_kronecker_case("G", "A")),
    "damped_diagonal_right": _damped(_kronecker_case("G", "a")),
    "damped_both_diagonal": _damped(_kronecker_case("g", "a")),
    "kfac_by_model": _model_by_model(_kronecker_case("G", "A")),
    "regmean_by_model": _model_by_model(_kronecker_case(None, "A")),
    "diagonal_by_model": _model_by_model(_diagonal),
    "embedding_by_model": _model_by_model(_kronecker_case("G", "a")),
    "tied_by_model": _model_by_model(_added(_kronecker_case("G", None), _kronecker_case(None, "a"))),
    "damped_by_model": _model_by_model(_damped(_kronecker_case("G", "A"))),
    "two_kfac": _added(_kronecker_case("G", "A"), _kronecker_case("G", "A")),
}


def make_case(name: str, *, singular: bool = False, seed: int = 0, vector: bool = False) -> Case:
    """One case by name; `vector` makes it a block Fisher of vectors (out = 1)."""
    random = np.random.default_rng(seed)
    return CASES[name](Factors(random, singular=singular, rows=1 if vector else OUT))


def make_targets(case: Case, seed: int = 1) -> tuple[list[Tensor], Tensor]:
    """Targets W_i and a start x0 that is none of them, float64."""
    random = np.random.default_rng(seed)
    shape = case.quadratic.shape
    targets = [torch.from_numpy(random.standard_normal(shape)) for _ in range(case.quadratic.models)]
    return targets, torch.from_numpy(random.standard_normal(shape))
