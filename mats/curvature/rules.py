"""How each kind of layer becomes a matrix [out, in] with input rows and output-gradient rows.

One layout serves everything after this file: activations and gradients as [examples, rows, features], where rows are
tokens, patches or a single row per example.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mats.curvature.experts import ExpertLinear
from mats.errors import ShapeMismatch
from mats.store.records import Layout


def by_example(tensor: Tensor, examples: int) -> Tensor:
    """View [..., d] as [examples, rows, d]; the leading dimension must hold the examples in order.

    Raises:
        ShapeMismatch: The number of rows is no multiple of `examples`.
    """
    rows = tensor.numel() // max(tensor.shape[-1], 1)
    if rows % examples != 0:
        raise ShapeMismatch(f"activations of shape {tuple(tensor.shape)} do not split into {examples} examples")
    return tensor.reshape(examples, rows // examples, tensor.shape[-1])


@dataclass(frozen=True)
class Routing:
    """Which tokens a router chose for one call of a layer, whose rows are then [n, 1, features].

    Attributes:
        tokens: int64 [n], the token of each row, counted over the whole batch, example after example.
        total: Tokens of the whole batch.
    """

    tokens: Tensor
    total: int

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """The mask [B, T] of all tokens at these rows, [n, 1]."""
        return None if mask is None else mask.flatten()[self.tokens][:, None]

    def weights(self, weights: Tensor | None) -> Tensor | None:
        """The examples' weights [B] at these rows, [n]."""
        return None if weights is None else weights[self.tokens // (self.total // len(weights))]

    def by_example(self, rows: Tensor, examples: int) -> Tensor:
        """Rows [n, 1, d] as [examples, most rows of one, d]; zeros, which add nothing, fill up."""
        owners = self.tokens // (self.total // examples)  # ascending, as the tokens are
        counts = torch.bincount(owners, minlength=examples)
        places = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
        padded = rows.new_zeros(examples, max(1, int(counts.max())), rows.shape[-1])
        padded[owners, places] = rows[:, 0]
        return padded


class LayerRule(ABC):
    """A module with a weight, seen as a matrix."""

    kind: ClassVar[str]
    layout: Layout

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    @abstractmethod
    def in_size(self) -> int:
        """Columns of the canonical matrix."""

    @property
    @abstractmethod
    def out_size(self) -> int:
        """Rows of the canonical matrix."""

    def leading_shape(self, activations: Tensor) -> tuple[int, ...]:
        """Shape of the positions at which the layer reads: that of the input without its features."""
        return tuple(activations.shape[:-1])

    def routing(self) -> Routing | None:
        """Which tokens the rows of the present call are of; None where they are all tokens in order."""
        return None

    def input_rows(self, activations: Tensor, examples: int) -> Tensor:
        """The module's input as [examples, rows, in_size]."""
        return by_example(activations, examples)

    def gradient_rows(self, gradient: Tensor, examples: int) -> Tensor:
        """The gradient at the module's output as [examples, rows, out_size]."""
        return by_example(gradient, examples)


class LinearRule(LayerRule):
    """`nn.Linear`: weight [out, in]."""

    kind = "linear"
    layout = "out_in"
    module: nn.Linear

    @property
    def in_size(self) -> int:
        """Input features."""
        return self.module.in_features

    @property
    def out_size(self) -> int:
        """Output features."""
        return self.module.out_features


class ExpertRule(LinearRule):
    """One matrix of one expert of a mixture: a linear layer that reads the tokens routed to it."""

    module: ExpertLinear  # type: ignore[assignment]

    @property
    def layout(self) -> Layout:  # type: ignore[override]
        """How the weight lies in memory and in files."""
        return "in_out" if self.module.transposed else "out_in"

    def leading_shape(self, _activations: Tensor) -> tuple[int, ...]:
        """All tokens, flat: those of the mask that its rows are chosen from."""
        return (self.module.total,)

    def routing(self) -> Routing:
        """See `LayerRule`."""
        return Routing(self.module.tokens, self.module.total)

    def input_rows(self, activations: Tensor, _examples: int) -> Tensor:
        """[n, in] as [n, 1, in], whatever the examples: `routing` tells whose they are."""
        return activations[:, None]

    def gradient_rows(self, gradient: Tensor, _examples: int) -> Tensor:
        """[n, out] as [n, 1, out]."""
        return gradient[:, None]


class Conv1DRule(LayerRule):
    """`Conv1D` of transformers (GPT-2): a linear layer with weight [in, out]."""

    kind = "conv1d"
    layout = "in_out"

    @property
    def in_size(self) -> int:
        """Input features."""
        return int(self.module.get_parameter("weight").shape[0])

    @property
    def out_size(self) -> int:
        """Output features."""
        return int(self.module.get_parameter("weight").shape[1])


class EmbeddingRule(LayerRule):
    """`nn.Embedding`: weight [vocabulary, dim]; its input rows are one-hot, so ids stand for them."""

    kind = "embedding"
    layout = "in_out"
    module: nn.Embedding

    @property
    def scale(self) -> float:
        """What the looked up rows are multiplied with (BART, Gemma), so that the input is scale · one-hot."""
        return float(getattr(self.module, "embed_scale", 1.0)) if _is_scaled(self.module) else 1.0

    @property
    def in_size(self) -> int:
        """Vocabulary size."""
        return self.module.num_embeddings

    @property
    def out_size(self) -> int:
        """Embedding dimension."""
        return self.module.embedding_dim

    def leading_shape(self, activations: Tensor) -> tuple[int, ...]:
        """Ids have no feature dimension."""
        return tuple(activations.shape)

    def input_rows(self, activations: Tensor, examples: int) -> Tensor:
        """The ids as int64 [examples, rows]."""
        return by_example(activations.unsqueeze(-1), examples).squeeze(-1)


class Conv2dRule(LayerRule):
    """`nn.Conv2d` with one group: a linear layer on unfolded patches, weight [out, c, kh, kw] → [out, c·kh·kw]."""

    kind = "conv2d"
    layout = "conv"
    module: nn.Conv2d

    @property
    def in_size(self) -> int:
        """Numbers in a patch."""
        return self.module.in_channels * self.module.kernel_size[0] * self.module.kernel_size[1]

    @property
    def out_size(self) -> int:
        """Output channels."""
        return self.module.out_channels

    def leading_shape(self, activations: Tensor) -> tuple[int, ...]:
        """One row per output position; only the examples are known here."""
        return (activations.shape[0],) if activations.dim() == 4 else (1,)

    def input_rows(self, activations: Tensor, examples: int) -> Tensor:
        """Patches in the order of the weight's columns, [examples, positions, c·kh·kw]."""
        module = self.module
        padding: tuple[int, ...] | int = 0
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            activations = functional.pad(activations, module._reversed_padding_repeated_twice, mode=mode)
        else:
            padding = tuple(module.padding)
        patches = functional.unfold(
            activations, module.kernel_size, dilation=module.dilation, padding=padding, stride=module.stride
        )
        return by_example(patches.transpose(1, 2), examples)

    def gradient_rows(self, gradient: Tensor, examples: int) -> Tensor:
        """[B, out, h, w] as [examples, h·w, out]."""
        return by_example(gradient.flatten(2).transpose(1, 2), examples)


class Conv1dRule(LayerRule):
    """`nn.Conv1d` with one group: a linear layer on windows of the signal, weight [out, c, k] → [out, c·k]."""

    kind = "temporal_conv"
    layout = "conv"
    module: nn.Conv1d

    @property
    def in_size(self) -> int:
        """Numbers in a window."""
        return self.module.in_channels * self.module.kernel_size[0]

    @property
    def out_size(self) -> int:
        """Output channels."""
        return self.module.out_channels

    def leading_shape(self, activations: Tensor) -> tuple[int, ...]:
        """One row per output position; only the examples are known here."""
        return (activations.shape[0],) if activations.dim() == 3 else (1,)

    def input_rows(self, activations: Tensor, examples: int) -> Tensor:
        """Windows in the order of the weight's columns, [examples, positions, c·k]."""
        module = self.module
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            activations = functional.pad(activations, module._reversed_padding_repeated_twice, mode=mode)
        elif module.padding[0]:
            activations = functional.pad(activations, (module.padding[0], module.padding[0]))
        size, step = module.kernel_size[0], module.dilation[0]
        windows = activations.unfold(2, (size - 1) * step + 1, module.stride[0])[..., ::step]  # [B, c, positions, k]
        return by_example(windows.transpose(1, 2).flatten(2), examples)

    def gradient_rows(self, gradient: Tensor, examples: int) -> Tensor:
        """[B, out, positions] as [examples, positions, out]."""
        return by_example(gradient.transpose(1, 2), examples)


def layer_rule(module: nn.Module) -> LayerRule | None:
    """The rule of `module`, or None when it has none (`why_no_rule` says why)."""
    forward = type(module).forward
    if "weight" not in module._parameters or module._parameters["weight"] is None:
        return None
    if isinstance(module, ExpertLinear):
        return ExpertRule(module)
    if isinstance(module, nn.Linear):
        return LinearRule(module)  # a forward of its own is judged by the coverage check, as all else (Falcon)
    if isinstance(module, nn.Embedding) and (forward is nn.Embedding.forward or _is_scaled(module)):
        return (
            None if module.max_norm is not None or module.sparse or module.scale_grad_by_freq else EmbeddingRule(module)
        )
    if isinstance(module, nn.Conv2d) and forward is nn.Conv2d.forward and module.groups == 1:
        return Conv2dRule(module)
    if isinstance(module, nn.Conv1d) and forward is nn.Conv1d.forward and module.groups == 1:
        return Conv1dRule(module)
    # Only a model that uses Conv1D has loaded this file of transformers, which takes seconds to import.
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    if conv1d is not None and isinstance(module, conv1d) and forward is conv1d.forward:
        return Conv1DRule(module)
    return None


def _is_scaled(module: nn.Embedding) -> bool:
    """Whether `module` overrides the lookup to scale it; the coverage check judges whether it does more than that."""
    return type(module).forward is not nn.Embedding.forward and hasattr(module, "embed_scale")


def why_no_rule(module: nn.Module) -> str:
    """Why Grams do not cover the parameters that `module` holds."""
    kind = type(module).__name__
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups != 1:
        return f"convolution with {module.groups} groups: no Gram rule; `diagonal` covers it"
    if type(module).__name__ == "ParametrizationList":
        return "what a parametrisation makes a weight of: no Gram rule; `diagonal` or `block` covers it"
    if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)):
        return f"{kind} with a forward or options of its own: no Gram rule; `diagonal` covers it"
    return f"held by {kind}: no Gram rule; `diagonal` or `block` covers it"
