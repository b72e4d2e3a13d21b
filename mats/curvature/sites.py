"""Which layers read the same input, and whose tokens it holds, seen on one forward pass.

Nothing is guessed from names. Layers share a site when they are given the same tensor; a tensor belongs to the target
side of an encoder-decoder when autograd's graph leads from it back to the embedding of the decoder's ids. So the
encoder's output that feeds every decoder layer's cross-attention is one site, with the input mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mats.curvature.masks import Side, rows_mask
from mats.curvature.rules import Conv1dRule, Conv2dRule, EmbeddingRule, LayerRule
from mats.data.batch import Batch
from mats.errors import InputsMismatch, ShapeMismatch

_TARGET_IDS = ("decoder_input_ids",)


@dataclass(frozen=True)
class Call:
    """One call of a layer during the first forward pass.

    Attributes:
        identity: Equal for two calls exactly when they read the same tensor in the same state, as rows of one kind.
        side: Whose mask the rows take.
        problem: Why its input has no Gram by example and token, or None.
        is_shared: It reads one thing for all examples (a table of relative positions), not rows of theirs.
    """

    identity: tuple[Any, ...]
    side: Side
    problem: str | None
    is_shared: bool = False


class CallRecorder:
    """Notes every call of the layers that have a rule, in the order in which the model runs them."""

    def __init__(self, batch: Batch, measured: frozenset[str]) -> None:
        """Prepare for `batch`; a mask that does not fit is an error for the layers in `measured` only."""
        self.batch = batch
        self.measured = measured
        self.calls: dict[str, list[Call]] = {}
        # Held until all calls are judged: the encoder runs before the decoder's ids are seen, and an address that is
        # used again would make two tensors look like one.
        self._seen: list[tuple[str, LayerRule, Tensor, tuple[Any, ...]]] = []
        self._roots: list[Any] = []
        self._reaches_target: dict[Any, bool] = {}

    def note_embedding(self, ids: Tensor, output: Tensor) -> None:
        """Remember where the decoder's ids enter the graph."""
        if matching_ids(self.batch, ids) in _TARGET_IDS and output.grad_fn is not None:
            self._roots.append(output.grad_fn)
            self._reaches_target[output.grad_fn] = True

    def note_call(self, name: str, rule: LayerRule, inputs: Tensor) -> None:
        """Remember one call of the layer `name`."""
        self._seen.append((name, rule, inputs, _identity(rule, inputs)))

    def judge_calls(self) -> None:
        """After the forward pass: decide each call's side and whether its mask fits, and let the tensors go.

        Raises:
            ShapeMismatch: A mask has another length than the tokens it is for.
            InputsMismatch: Encoder and decoder tokens cannot be told apart.
        """
        for name, rule, inputs, identity in self._seen:
            self.calls.setdefault(name, []).append(self._judge(name, rule, inputs, identity))
        self._seen.clear()
        self._roots.clear()
        self._reaches_target.clear()

    def _judge(self, name: str, rule: LayerRule, inputs: Tensor, identity: tuple[Any, ...]) -> Call:
        source = matching_ids(self.batch, inputs) if isinstance(rule, EmbeddingRule) else None
        side = self._side(name, inputs, source)
        if isinstance(rule, EmbeddingRule) and source is None and not self._one_id_per_token(inputs):
            problem: str | None = "its ids are not the batch's, so they cannot be told apart by example and padding"
        else:
            leading = rule.leading_shape(inputs)
            problem = self._mask_problem(name, leading, side)
            if problem is not None and len(leading) > 1 and leading[0] == 1 < self.batch.size:
                return Call(identity, side, problem, is_shared=True)
        return Call(identity, side, problem)

    def _one_id_per_token(self, ids: Tensor) -> bool:
        """Whether ids that the model made itself (RoBERTa's positions) have the form of the batch's tokens."""
        mask = self.batch.input_mask
        return mask is not None and self.batch.target_mask is None and ids.shape == mask.shape

    def _mask_problem(self, name: str, leading: tuple[int, ...], side: Side) -> str | None:
        """Why the mask does not apply; a batch of the right form with the wrong length is an error."""
        mask = self.batch.target_mask if side == "target" else self.batch.input_mask
        try:
            rows_mask(name, leading, self.batch.size, mask, side)
        except ShapeMismatch as error:
            if name in self.measured and len(leading) > 1 and leading[0] == self.batch.size:
                raise
            return str(error)
        return None

    def _side(self, name: str, inputs: Tensor, source: str | None) -> Side:
        if self.batch.target_mask is None:
            return "input"
        if source is not None:
            return "target" if source in _TARGET_IDS else "input"
        if self._roots:
            return "target" if inputs.grad_fn is not None and self._depends_on_target(inputs.grad_fn) else "input"
        return self._side_by_length(name, inputs)

    def _side_by_length(self, name: str, inputs: Tensor) -> Side:
        """Last resort for a decoder whose ids were not seen to be embedded: lengths, if they differ."""
        target = self.batch.target_mask
        source = self.batch.input_mask
        assert target is not None
        if source is None or source.shape[1] != target.shape[1]:
            return "target" if inputs.dim() > 2 and inputs.shape[1] == target.shape[1] else "input"
        if name not in self.measured:
            return "input"  # nothing of it depends on a mask
        raise InputsMismatch(
            f"site {name}: encoder and decoder tokens cannot be told apart: both have {target.shape[1]} positions, "
            "and no embedding was given decoder_input_ids; pad the inputs by one position"
        )

    def _depends_on_target(self, node: Any) -> bool:
        """Whether the graph above `node` holds the embedding of the decoder's ids; depth first, without recursion."""
        known = self._reaches_target
        stack = [node]
        while stack:
            top = stack[-1]
            if top in known:
                stack.pop()
                continue
            above = [parent for parent, _ in top.next_functions if parent is not None]
            unknown = [parent for parent in above if parent not in known]
            if any(known.get(parent, False) for parent in above):
                known[top] = True
                stack.pop()
            elif unknown:
                stack.extend(unknown)
            else:
                known[top] = False
                stack.pop()
        return known[node]


def _identity(rule: LayerRule, inputs: Tensor) -> tuple[Any, ...]:
    """What makes two inputs one site: the same memory in the same state, unfolded alike."""
    form: tuple[Any, ...] = ("rows",)
    if rule.routing() is not None:  # no two empty tensors can be told apart by their memory
        return ("routed", id(inputs))
    if isinstance(rule, EmbeddingRule):
        form = ("ids", rule.in_size, rule.scale)
    elif isinstance(rule, (Conv1dRule, Conv2dRule)):
        conv = rule.module
        form = ("patches", conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode)
    return (*form, *tensor_identity(inputs))


def tensor_identity(tensor: Tensor) -> tuple[Any, ...]:
    """Memory, shape and version of a tensor; unique while the tensor is alive."""
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor._version)


def matching_ids(batch: Batch, ids: Tensor) -> str | None:
    """Which of the batch's inputs `ids` is: by memory first, then by value; None when it is none of them."""
    candidates = {
        name: tensor
        for name, tensor in batch.inputs.items()
        if not tensor.is_floating_point() and tensor.dim() == 2 and "mask" not in name and tensor.shape == ids.shape
    }
    for name, tensor in candidates.items():
        if tensor.data_ptr() == ids.data_ptr():
            return name
    for name, tensor in candidates.items():
        if tensor.shape[0] == batch.size and bool(torch.equal(tensor, ids.to(tensor.dtype))):
            return name
    return None


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor that a module was called with."""
    value = args[0] if args else next(iter(kwargs.values()))
    assert isinstance(value, Tensor)
    return value


def starting_graph(output: Tensor) -> Tensor:
    """`output` as the start of autograd's graph. A leaf could not be changed in place: the model gets a copy of it."""
    return output.detach().requires_grad_(True).clone()


def starting_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's inputs, of which pixels and other measurements start autograd's graph; ids and masks do not."""
    return {
        name: tensor.detach().requires_grad_(True) if tensor.is_floating_point() and "mask" not in name else tensor
        for name, tensor in inputs.items()
    }


def spread_over_examples(module: nn.Module, inputs: Tensor, output: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """A lookup made once for the whole batch (ids [1, T] of positions) as one for each example.

    What reads it broadcasts anyway; spread, its gradient arrives example by example.
    """
    if not is_lookup(module) or examples == 1 or inputs.dim() != 2 or inputs.shape[0] != 1 or output.dim() != 3:
        return inputs, output
    return inputs.expand(examples, -1), output.expand(examples, -1, -1)


def is_lookup(module: nn.Module) -> bool:
    """Whether `module` turns ids into vectors, whatever else it does to them."""
    return isinstance(module, nn.Embedding)
