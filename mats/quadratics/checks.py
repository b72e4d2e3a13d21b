"""Refusing problems that make no sense, in one line that names the index and the number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mats.errors import MatsError, NonFiniteStatistic, RequestError, ShapeMismatch

ASYMMETRY_LIMIT = (
    1e-3  # |X − Xᵀ| against the largest entry; sums by GEMM stay near 1e-6, half-precision storage near 4e-4
)
INDEFINITE_LIMIT = 1e-3  # −(smallest) ÷ largest eigenvalue; rounding of float32 sums stays near 1e-7
NEGATIVE_LIMIT = 1e-5  # −(a diagonal entry) against the largest one; rounding of a sum of squares stays far below


def check_model_weights(weights: Sequence[float] | Tensor) -> tuple[float, ...]:
    """λ as a tuple of Python numbers.

    Raises:
        RequestError: none at all, or one that is negative or not finite.
    """
    values = tuple(float(weight) for weight in (weights.tolist() if isinstance(weights, Tensor) else weights))
    if not values:
        raise RequestError("model weights: none given; a quadratic needs at least one model")
    for model, value in enumerate(values):
        if not math.isfinite(value) or value < 0:
            raise RequestError(f"model weight {model} is {value}; weights must be finite and at least 0")
    return values


def check_system_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(L, out, in) with all three at least 1.

    Raises:
        ShapeMismatch: anything else.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ShapeMismatch(f"systems have shape {tuple(shape)}; expected (L, out, in), each at least 1")
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_targets(targets: Sequence[Tensor] | Tensor, models: int, shape: tuple[int, int, int]) -> None:
    """The targets W_i are m tensors of the systems' shape.

    Raises:
        ShapeMismatch: another number of them, or another shape.
    """
    if len(targets) != models:
        raise ShapeMismatch(f"{len(targets)} targets for {models} models; expected one per model")
    for model in range(models):
        if tuple(targets[model].shape) != shape:
            raise ShapeMismatch(
                f"target {model} has shape {tuple(targets[model].shape)}; expected {shape} (L, out, in)"
            )


def check_stack(name: str, stack: Tensor, shapes: Sequence[tuple[int | None, ...]]) -> None:
    """A stack of statistics is of a floating dtype and one of the allowed shapes (None: any size).

    Raises:
        ShapeMismatch: another shape.
        RequestError: an integer or complex dtype.
    """
    if not stack.is_floating_point():
        raise RequestError(f"{name}: dtype {stack.dtype}; expected a floating one")
    for shape in shapes:
        if stack.dim() == len(shape) and all(want in (None, got) for want, got in zip(shape, stack.shape, strict=True)):
            return
    wanted = " or ".join(str(tuple("any" if size is None else size for size in shape)) for shape in shapes)
    raise ShapeMismatch(f"{name}: shape {tuple(stack.shape)}; expected {wanted}".replace("'", ""))


def check_same_place(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Two tensors of one problem share device and dtype.

    Raises:
        RequestError: they do not.
    """
    if tensor.device != other.device:
        raise RequestError(f"{name} is on {tensor.device}, {other_name} on {other.device}; move both to one device")
    if tensor.dtype != other.dtype:
        raise RequestError(f"{name} is {tensor.dtype}, {other_name} {other.dtype}; cast both to one dtype")


def check_finite(name: str, tensor: Tensor, *, error: type[MatsError] = NonFiniteStatistic) -> None:
    """No NaN and no infinity; the message carries the first bad index and the value there.

    Raises:
        NonFiniteStatistic: or the class given as `error`.
    """
    # The sum of a tensor is finite unless an entry is not, or the sum overflows: one cheap pass in the usual case.
    if bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        return
    bad = (~torch.isfinite(tensor)).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise error(f"{name}: entry {index} is {tensor[index].item()}; every entry must be finite")


def check_nonnegative(name: str, values: Tensor) -> None:
    """Entries of a diagonal [..., n] are not negative, beyond rounding.

    Raises:
        RequestError: naming the first entry that is.
    """
    check_finite(name, values)
    limit = NEGATIVE_LIMIT * values.abs().amax(dim=-1, keepdim=True)
    bad = (values < -limit).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise RequestError(
            f"{name}: diagonal entry {index} is {values[index].item():.6g}; curvature cannot be negative"
        )


def check_gram(name: str, gram: Tensor) -> None:
    """A matrix [n, n] is finite, symmetric and positive semi-definite, beyond rounding.

    Raises:
        NonFiniteStatistic, RequestError: naming the first entry at fault.
    """
    check_finite(name, gram)
    check_nonnegative(name, gram.diagonal())
    difference = (gram - gram.mT).abs_()
    largest = float(gram.abs().amax())
    if float(difference.amax()) > ASYMMETRY_LIMIT * largest:
        row, column = divmod(int(difference.argmax()), gram.shape[-1])
        raise RequestError(
            f"{name}: entry ({row}, {column}) is {float(gram[row, column]):.6g}, its mirror image "
            f"{float(gram[column, row]):.6g}; a Gram matrix is symmetric"
        )
    _check_semidefinite(name, gram)


def _check_semidefinite(name: str, gram: Tensor) -> None:
    """No plainly negative eigenvalue: a Cholesky factorisation tells cheaply; where it fails, eigenvalues decide."""
    wide = gram if gram.dtype in (torch.float32, torch.float64) else gram.to(torch.float32)
    largest = float(wide.diagonal().amax())
    if largest <= 0:
        largest = float(wide.abs().amax()) or 1.0
    held = wide / largest
    held.diagonal().add_(INDEFINITE_LIMIT)
    if not bool(torch.linalg.cholesky_ex(held)[1]):
        return
    values = torch.linalg.eigvalsh((wide.to(torch.float64) + wide.mT.to(torch.float64)) / 2)
    if float(values[0]) < -INDEFINITE_LIMIT * float(values.abs().amax()):
        raise RequestError(
            f"{name}: it has the eigenvalue {float(values[0]):.6g} beside {float(values[-1]):.6g}; a Gram matrix is "
            "positive semi-definite"
        )
