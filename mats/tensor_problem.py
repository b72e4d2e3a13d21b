"""Plain tensors as a problem to solve: what is given decides what the curvatures C_i are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor
from typing_extensions import TypedDict

from mats.errors import RequestError, ShapeMismatch
from mats.quadratics import DiagonalQuadratic, KroneckerQuadratic, Quadratic
from mats.quadratics.checks import check_finite
from mats.quadratics.shrinkage import ShrinkageRule, shrink, shrinkage_intensity

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


class Curvatures(TypedDict, total=False):
    """Everything beside the targets that says what is to be minimised; see `MergeProblem.from_tensors`."""

    input_grams: Stack | None
    output_grams: Stack | None
    diagonals: Stack | None
    quadratic: Quadratic | None
    start: Tensor | None
    model_weights: Sequence[float] | None
    shrinkage: float | ShrinkageRule | None
    input_moments: RowMoments | None
    output_moments: RowMoments | None
    models: Sequence[str] | None
    names: Sequence[str] | None


@dataclass(frozen=True)
class TensorSystems:
    """Tensors brought into the form of `solve_quadratic`.

    Attributes:
        quadratic: Σ λ C.
        targets: m tensors [L, out, in], on the quadratic's device.
        start: x0 [L, out, in].
        shape: of one target, as it was given.
    """

    quadratic: Quadratic
    targets: list[Tensor]
    start: Tensor
    shape: torch.Size


def tensor_systems(targets: Stack, given: Curvatures) -> TensorSystems:
    """Check the tensors and bring them into one form; see `MergeProblem.from_tensors` for what may be given.

    Raises:
        ShapeMismatch, RequestError, NonFiniteStatistic: with the index and what was received.
    """
    for key in given:
        if key not in Curvatures.__annotations__:
            known = (*Curvatures.__annotations__, *_ALSO_OF_SOLVE)
            near = get_close_matches(key, known, n=1) or [name for name in known if name.endswith(key)]
            raise RequestError(f"solve: unknown argument {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    tensors = _tensors("targets", targets)
    batch = [_as_batch(position, tensor, tensors[0]) for position, tensor in enumerate(tensors)]
    quadratic, start = given.get("quadratic"), given.get("start")
    if quadratic is None:
        quadratic = _quadratic(batch, given)
    elif any(given.get(key) is not None for key in _DECIDED_BY_A_QUADRATIC):
        raise RequestError(
            "solve: a quadratic holds its own statistics and model weights; give it alone, or without it"
        )
    batch = [tensor.to(quadratic.device) for tensor in batch]
    origin = _mean(batch) if start is None else _as_batch("start", start, tensors[0]).to(quadratic.device)
    return TensorSystems(quadratic, batch, origin, tensors[0].shape)


_ALSO_OF_SOLVE = ("method", "tol", "damping", "anchor", "radius", "max_iterations", "snapshots", "history", "precision")
_DECIDED_BY_A_QUADRATIC = ("input_grams", "output_grams", "diagonals", "model_weights", "shrinkage")


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


def _quadratic(batch: Sequence[Tensor], given: Curvatures) -> Quadratic:
    """The quadratic of what was given."""
    input_grams, output_grams, diagonals = given.get("input_grams"), given.get("output_grams"), given.get("diagonals")
    model_weights, shrinkage = given.get("model_weights"), given.get("shrinkage")
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
            ("output_grams", output_grams, rows, given.get("output_moments")),
            ("input_grams", input_grams, columns, given.get("input_moments")),
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
