"""`mats.solve`: merge plain tensors by curvature, without any model, store or recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mats.errors import RequestError, ShapeMismatch
from mats.quadratics import DiagonalQuadratic, KroneckerQuadratic, Quadratic
from mats.quadratics.checks import check_finite
from mats.quadratics.shrinkage import ShrinkageRule, shrink, shrinkage_intensity
from mats.solvers import Solution, SolverSettings, solve_quadratic
from mats.solvers.settings import Precision, SolverName

Stack = Sequence[Tensor] | Tensor


@dataclass(frozen=True)
class RowMoments:
    """What a shrinkage rule must know beside a Gram matrix.

    Attributes:
        rows: T, how many rows x each model's Gram was averaged over, [m] numbers.
        fourth_moments: Σ_t ‖x_t‖⁴ of each model, [m] numbers; `ledoit_wolf` needs them.
    """

    rows: Sequence[float]
    fourth_moments: Sequence[float] | None = None


def solve(
    targets: Stack,
    *,
    input_grams: Stack | None = None,
    output_grams: Stack | None = None,
    diagonals: Stack | None = None,
    quadratic: Quadratic | None = None,
    start: Tensor | None = None,
    model_weights: Sequence[float] | None = None,
    solver: SolverName = "pcg",
    damping: float = 0.1,
    anchor: float = 0.0,
    radius: float | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    snapshots: Sequence[int] = (),
    shrinkage: float | ShrinkageRule | None = None,
    input_moments: RowMoments | None = None,
    output_moments: RowMoments | None = None,
    precision: Precision = "float32",
    settings: SolverSettings | None = None,
) -> Solution:
    """Merge m weights W_i by their curvatures C_i: the minimiser of

        Σ_i λ_i ½ ⟨X − W_i, C_i (X − W_i)⟩ + ½ ⟨X − x0, (D + μI)(X − x0)⟩,   μ = anchor · Σ_i λ_i · mean diagonal of C_i

    with D the factored damping, of strength `damping`.

    What is given decides what C_i is: `input_grams` A_i alone, X A_i (RegMean); with `output_grams` G_i, G_i X A_i
    (K-FAC, as in MaTS); `diagonals` F_i, F_i ∘ X (diagonal Fisher); or any `quadratic` of your own.

    Args:
        targets: W_i, m tensors [out, in], or [L, out, in] for L systems solved as one batch, or [n] for vectors (then
            `input_grams` are the [n, n] Fisher blocks).
        input_grams: A_i [in, in] (or [L, in, in]), or their diagonals [in] ([L, in]). A mean over rows or examples: a
            model measured on more data must not weigh more for it (`mats.quadratics.scaling`).
        output_grams: G_i [out, out] (or [L, out, out]), or their diagonals; likewise.
        diagonals: F_i, in the shape of the targets; likewise.
        quadratic: a `mats.quadratics.Quadratic` of shape (L, out, in); excludes the three above.
        start: x0, in the shape of one target: where the merge stays in directions that no model sees. None: the mean.
        model_weights: λ_i, finite and at least 0; None: all 1.
        solver: `pcg` preconditioned conjugate gradients, `cg` plain ones (as published), `direct` a closed form (an
            error if there is none), `auto` a closed form where there is one.
        damping: strength of the pull toward the start in the metric of the factors: every G_i and A_i gets so many
            times its mean diagonal added (`mats.quadratics.damped`); curvature of one factor is anchored by it instead.
        anchor: strength of the pull toward the start that is the same in every direction, relative to the mean
            curvature; 0 for none.
        radius: longest move ‖X − x0‖, in units of the farthest model's distance from the start; None: no bound.
        tolerance: relative residual to reach.
        max_iterations: at most.
        snapshots: iterations after which the iterate is returned too.
        shrinkage: pull of every Gram toward a multiple of the identity: a share in [0, 1], `ledoit_wolf` (needs the
            moments, and Grams that are means over rows), or `oas` (needs the rows).
        input_moments: row counts behind `input_grams`.
        output_moments: row counts behind `output_grams`.
        precision: of the iteration; right-hand side and residual are float64 always.
        settings: everything about the solver at once, instead of the arguments from `solver` to `precision`.

    Returns:
        The merged weights, and a certificate per system: iterations, true relative residual, why it stopped, each
        model's quadratic before and after, how far the weights moved.

    Raises:
        ShapeMismatch: shapes that do not fit together, with the index.
        NonFiniteWeights, NonFiniteStatistic: NaN or infinity, with the place.
        RequestError: a setting out of range, or a curvature that cannot be one.

    Example:
        >>> import torch
        >>> from mats.solving import solve
        >>> _ = torch.manual_seed(0)
        >>> seen = torch.tensor([1.0, 1.0, 0.0, 0.0])
        >>> inputs = [torch.randn(50, 4) * seen, torch.randn(50, 4) * (1 - seen)]
        >>> weights = [torch.ones(3, 4), -torch.ones(3, 4)]
        >>> grams = [rows.T @ rows / len(rows) for rows in inputs]
        >>> solution = solve(weights, input_grams=grams, damping=1e-6)
        >>> solution.value[0].round(decimals=3).tolist()  # each model rules where its own inputs lie
        [1.0, 1.0, -1.0, -1.0]
        >>> solution.certificates[0].stop_reason.value
        'converged'
    """
    tensors = _tensors("targets", targets)
    batch = [_as_batch(position, tensor, tensors[0]) for position, tensor in enumerate(tensors)]
    given = (input_grams, output_grams, diagonals, quadratic)
    if quadratic is None:
        quadratic = _quadratic(batch, *given[:3], model_weights, shrinkage, input_moments, output_moments)
    elif any(other is not None for other in (*given[:3], model_weights, shrinkage)):
        raise RequestError(
            "solve: a quadratic holds its own statistics and model weights; give it alone, or without it"
        )
    device = quadratic.device
    batch = [tensor.to(device) for tensor in batch]
    origin = _mean(batch) if start is None else _as_batch("start", start, tensors[0]).to(device)
    if settings is None:
        settings = SolverSettings(
            solver, anchor, damping, radius, tolerance, max_iterations, tuple(snapshots), precision
        )
    solution = solve_quadratic(quadratic, batch, origin, settings)
    shape = tensors[0].shape
    kept = {iteration: value.reshape(shape) for iteration, value in solution.snapshots.items()}
    return replace(solution, value=solution.value.reshape(shape), snapshots=kept)


def _tensors(name: str, stack: Stack) -> list[Tensor]:
    """A sequence of tensors, or one tensor stacked along its first dimension, as a list."""
    tensors = list(stack)
    if not tensors:
        raise RequestError(f"{name}: none given; expected one tensor per model")
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise RequestError(f"{name}[{position}] is {kind}; expected a tensor of a floating dtype")
    return tensors


def _as_batch(position: int | str, tensor: Tensor, like: Tensor) -> Tensor:
    """[n], [out, in] or [L, out, in] → [L, out, in], checked against the first target."""
    name = position if isinstance(position, str) else f"targets[{position}]"
    if tensor.shape != like.shape:
        raise ShapeMismatch(
            f"{name} has shape {tuple(tensor.shape)}, targets[0] {tuple(like.shape)}; all must be alike"
        )
    if tensor.dim() not in (1, 2, 3) or tensor.numel() == 0:
        raise ShapeMismatch(
            f"{name} has shape {tuple(tensor.shape)}; expected [n], [out, in] or [L, out, in], not empty"
        )
    return tensor if tensor.dim() == 3 else tensor.reshape(1, -1, tensor.shape[-1])


def _mean(batch: Sequence[Tensor]) -> Tensor:
    """The mean of tensors in float64, one at a time."""
    total = torch.zeros_like(batch[0], dtype=torch.float64)
    for tensor in batch:
        total += tensor
    return total / len(batch)


def _quadratic(
    batch: Sequence[Tensor],
    input_grams: Stack | None,
    output_grams: Stack | None,
    diagonals: Stack | None,
    model_weights: Sequence[float] | None,
    shrinkage: float | ShrinkageRule | None,
    input_moments: RowMoments | None,
    output_moments: RowMoments | None,
) -> Quadratic:
    """The quadratic of what was given."""
    systems, rows, columns = batch[0].shape
    weights = [1.0] * len(batch) if model_weights is None else list(model_weights)
    if len(weights) != len(batch):
        raise ShapeMismatch(f"{len(weights)} model weights for {len(batch)} targets; expected one per target")
    if diagonals is not None:
        if input_grams is not None or output_grams is not None or shrinkage is not None:
            raise RequestError(
                "solve: diagonals exclude input_grams, output_grams and shrinkage; C_i is one or the other"
            )
        return DiagonalQuadratic(_stack("diagonals", diagonals, len(batch), [(systems, rows, columns)]), weights)
    if input_grams is None and output_grams is None:
        raise RequestError(
            "solve: no curvature given; pass input_grams, diagonals or a quadratic (IdentityQuadratic for the average)"
        )
    left, right = (
        None if grams is None else _grams(name, grams, len(batch), systems, size, shrinkage, moments)
        for name, grams, size, moments in (
            ("output_grams", output_grams, rows, output_moments),
            ("input_grams", input_grams, columns, input_moments),
        )
    )
    return KroneckerQuadratic(left, right, weights, shape=(systems, rows, columns))


def _grams(
    name: str,
    grams: Stack,
    models: int,
    systems: int,
    size: int,
    shrinkage: float | ShrinkageRule | None,
    moments: RowMoments | None,
) -> Tensor:
    """A stack of factors [m, L, n, n] or [m, L, n], shrunk where asked."""
    stack = _stack(name, grams, models, [(systems, size, size), (systems, size)])
    if shrinkage is None:
        return stack
    if stack.dim() == 3:
        raise RequestError(f"{name}: shrinkage needs full matrices; these are diagonals")
    check_finite(name, stack)
    shrunk = torch.empty_like(stack)
    for model in range(models):
        rows, fourth = _moments_of(moments, name, model, models)
        for system in range(systems):
            gram = stack[model, system]
            total = gram if rows is None else gram * rows
            shrunk[model, system] = shrink(gram, shrinkage_intensity(shrinkage, total, rows, fourth))
    return shrunk


def _moments_of(moments: RowMoments | None, name: str, model: int, models: int) -> tuple[float | None, float | None]:
    """T and Σ‖x‖⁴ of one model, where given."""
    if moments is None:
        return None, None
    for field in (moments.rows, moments.fourth_moments):
        if field is not None and len(field) != models:
            raise ShapeMismatch(f"{name}: moments of {len(field)} models for {models} targets; expected one each")
    return moments.rows[model], None if moments.fourth_moments is None else moments.fourth_moments[model]


def _stack(name: str, stack: Stack, models: int, shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Tensors of the batch's shape, or (for one system) of that shape without L, as one tensor [m, L, ...]."""
    tensors = _tensors(name, stack)
    if len(tensors) != models:
        raise ShapeMismatch(f"{name}: {len(tensors)} tensors for {models} targets; expected one per target")
    for shape in shapes:
        allowed = [shape] if shape[0] > 1 else [shape, shape[1:]]
        if len(shape) == 3 and shape[:2] == (1, 1):
            allowed.append(shape[2:])  # the diagonal of a vector
        if tuple(tensors[0].shape) in allowed:
            break
    else:
        wanted = " or ".join(str(list(shape if shape[0] > 1 else shape[1:])) for shape in shapes)
        raise ShapeMismatch(f"{name}[0] has shape {list(tensors[0].shape)}; expected {wanted}")
    for position, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise ShapeMismatch(
                f"{name}[{position}] has shape {list(tensor.shape)}, {name}[0] {list(tensors[0].shape)}"
            )
        if tensor.device != tensors[0].device or tensor.dtype != tensors[0].dtype:
            place, first = f"{tensor.dtype} on {tensor.device}", f"{tensors[0].dtype} on {tensors[0].device}"
            raise RequestError(f"{name}[{position}] is {place}, {name}[0] {first}; make them alike")
    return torch.stack(tensors).reshape(models, *shape)
