"""What collection must give, by means that share nothing with it: no hooks, no masks, no padding, no batches.

Every example is run alone and unpadded. Inputs and outputs of weights are seen by intercepting torch functions and
matched by the weight that is passed; gradients come from `autograd.grad` on a loss written out here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mats.data.batch import Batch


class SeenCalls(TorchFunctionMode):
    """Notes (weight, kind, input, output) of every linear, addmm, conv2d and embedding call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, str, Tensor, Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function is functional.linear or function is torch._C._nn.linear:
            self.calls.append((args[1], "linear", args[0], output))
        elif function is torch.addmm:
            self.calls.append((args[2], "conv1d", args[1], output))
        elif function is functional.embedding:
            self.calls.append((args[1], "embedding", args[0], output))
        elif function is torch.conv2d and (len(args) < 7 or args[6] == 1):
            # A convolution whose kernels are the unit vectors lists each patch in the order of the weight's columns.
            units = torch.eye(args[1][0].numel(), dtype=args[1].dtype).reshape(-1, *args[1].shape[1:])
            self.calls.append((args[1], "conv2d", torch.conv2d(args[0], units, None, *args[3:6]), output))
        elif function is torch.conv1d and (len(args) < 7 or args[6] == 1):
            units = torch.eye(args[1][0].numel(), dtype=args[1].dtype).reshape(-1, *args[1].shape[1:])
            self.calls.append((args[1], "temporal_conv", torch.conv1d(args[0], units, None, *args[3:6]), output))
        return output


@dataclass
class Oracle:
    """Sums by (parameter name, kind of call) and by parameter name."""

    inputs: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    input_sums: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    rows: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    outputs: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    input_fourth: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    output_fourth: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    diagonal: dict[str, Tensor] = field(default_factory=dict)
    block: dict[str, Tensor] = field(default_factory=dict)


def written_out_loss(batch: Batch, logits: Tensor, loss: str = "mean") -> Tensor:
    """The loss of a batch of one, spelt out position by position."""
    assert batch.size == 1
    if batch.labels.dim() == 1:
        return -torch.log(torch.exp(logits[0]) / torch.exp(logits[0]).sum())[batch.labels[0]]
    terms = []
    for position in range(batch.labels.shape[1]):
        label = int(batch.labels[0, position])
        row = position - 1 if batch.task == "language_modeling" else position
        if label != -100 and row >= 0:
            terms.append(torch.logsumexp(logits[0, row], 0) - logits[0, row, label])
    total = torch.stack(terms).sum()
    return total / len(terms) if loss == "mean" else total


Losses = Callable[[Batch, Tensor], Iterator[tuple[float, Tensor]]]


def one_loss(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    yield 1.0, written_out_loss(batch, logits)


def oracle(model: nn.Module, examples: list[tuple[float, Batch]], losses: Losses = one_loss) -> Oracle:
    """Sums over weighted batches of one.

    `losses` yields (weight, loss) pairs: several for an expectation over labels that leave the inputs as they are.
    """
    training, flags = model.training, [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(True)
    named = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    result = Oracle()
    for weight, batch in examples:
        with SeenCalls() as seen:
            logits = model(**batch.inputs).logits
        calls = [call for call in seen.calls if id(call[0]) in named]
        for parameter, kind, inputs, _ in calls:
            _add_inputs(result, (named[id(parameter)], kind), parameter, inputs.detach(), weight)
        for probability, loss in losses(batch, logits):
            total = weight * probability
            outputs = [output for *_, output in calls]
            deltas = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
            for (parameter, kind, _, _), delta in zip(calls, deltas, strict=True):
                if delta is not None:
                    _add_outputs(result, (named[id(parameter)], kind), delta, total)
            gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    _add(result.diagonal, name, total * gradient**2)
                    if gradient.numel() < 100:
                        flat = gradient.flatten()
                        _add(result.block, name, total * torch.outer(flat, flat))
    model.train(training)
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return result


def _add(table: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    table[key] = table[key] + value if key in table else value.clone()


def _add_inputs(result: Oracle, key: tuple[str, str], parameter: Tensor, inputs: Tensor, weight: float) -> None:
    if key[1] == "embedding":
        rows = functional.one_hot(inputs.flatten(), parameter.shape[0]).to(torch.float64)
    elif key[1] in ("conv2d", "temporal_conv"):
        rows = inputs.movedim(1, -1).reshape(-1, inputs.shape[1])
    else:
        rows = inputs.reshape(-1, inputs.shape[-1])
    _add(result.inputs, key, weight * sum(torch.outer(row, row) for row in rows))
    _add(result.input_sums, key, weight * rows.sum(0))
    result.rows[key] += weight * len(rows)
    result.input_fourth[key] += float(weight * (rows**2).sum(1).pow(2).sum())


def _add_outputs(result: Oracle, key: tuple[str, str], delta: Tensor, weight: float) -> None:
    rows = delta.movedim(1, -1) if key[1] in ("conv2d", "temporal_conv") else delta
    rows = rows.reshape(-1, rows.shape[-1])
    _add(result.outputs, key, weight * sum(torch.outer(row, row) for row in rows))
    result.output_fourth[key] += float(weight * (rows**2).sum(1).pow(2).sum())


def relative_error(value: Tensor, expected: Tensor) -> float:
    """‖value − expected‖ / ‖expected‖."""
    return float((value - expected).norm() / expected.norm().clamp(min=1e-300))
