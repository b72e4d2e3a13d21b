"""A world small enough to know the answer: two linear layers, every example's gradient, the dense float64 system.

Nothing here comes from `mats`. The Kronecker factorisation is usually an approximation; here it is exact, because
  * W2 W1 = 0 and W2 b1 = 0, so the logits are zero and the prediction is uniform whatever the input, and
  * each input sequence appears with every possible sequence of labels, so the output gradients have mean zero, are
    uncorrelated between tokens, and do not depend on the inputs.
So the Fisher of one layer, the mean over examples of the outer product of whole gradients, is a Kronecker product, and
a correct implementation must reproduce the dense solution to rounding. Some directions no example sees.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

INPUT, HIDDEN, CLASSES = 3, 4, 3
PADDING = 4  # a token with a loud vector: counting it must be noticed


class TwoLayers(nn.Module):
    """token → fixed vector → Linear(3, 4) → Linear(4, 3); labels are aligned with the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", token_vectors(), persistent=False)
        self.first = nn.Linear(INPUT, HIDDEN).double()
        self.second = nn.Linear(HIDDEN, CLASSES).double()

    def forward(self, decoder_input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.second(self.first(self.table[decoder_input_ids])))


def token_vectors() -> Tensor:
    """Vectors of the tokens 0 … 3, in a plane of the 3-space; the padding token points elsewhere."""
    vectors = torch.tensor([[1.0, 0, 0], [0.5, -1, 0], [-0.25, 2, 0], [1.5, 1, 0], [3, -2, 5]])
    return vectors.double()


def indifferent_model(seed: int) -> TwoLayers:
    """Random weights with W2 W1 = 0, W2 b1 = 0 and b2 = 0, so that all logits are zero."""
    generator = torch.Generator().manual_seed(seed)
    model = TwoLayers()
    basis = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)).Q
    written, read = basis[:, :2], basis[:, 2:]
    with torch.no_grad():
        model.first.weight.copy_(written @ torch.randn(2, INPUT, generator=generator, dtype=torch.float64))
        model.first.bias.copy_(written @ torch.randn(2, generator=generator, dtype=torch.float64))
        model.second.weight.copy_(torch.randn(CLASSES, 2, generator=generator, dtype=torch.float64) @ read.T)
        model.second.bias.zero_()
    return model


def factorial_examples(sequences: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """Every sequence with every possible sequence of labels: (tokens, labels) pairs."""
    return [
        (tokens, list(labels))
        for tokens in sequences
        for labels in itertools.product(range(CLASSES), repeat=len(tokens))
    ]


def gradient(model: TwoLayers, tokens: list[int], labels: list[int]) -> dict[str, Tensor]:
    """Gradient of one unpadded example's summed log-likelihood, as [out, in + 1] per layer, the bias last."""
    logits = model(torch.tensor([tokens])).logits[0]
    likelihood = torch.log_softmax(logits, dim=-1)[range(len(labels)), labels].sum()
    parts = dict(zip(NAMES, torch.autograd.grad(likelihood, [model.get_parameter(n) for n in NAMES]), strict=True))
    return {
        layer: torch.cat([parts[f"{layer}.weight"], parts[f"{layer}.bias"][:, None]], dim=1)
        for layer in ("first", "second")
    }


NAMES = ("first.weight", "first.bias", "second.weight", "second.bias")


def dense_fisher(model: TwoLayers, examples: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """F = (1/N) Σ_n g_n g_nᵀ for each layer, g_n flattened row by row: [p, p] with p = out · (in + 1)."""
    gradients = [gradient(model, tokens, labels) for tokens, labels in examples]
    return {
        layer: sum(torch.outer(g[layer].flatten(), g[layer].flatten()) for g in gradients) / len(examples)
        for layer in ("first", "second")
    }


def augmented(model: TwoLayers, layer: str) -> Tensor:
    """[W | b] of a layer, float64."""
    module = model.get_submodule(layer)
    return torch.cat([module.weight, module.bias[:, None]], dim=1).detach().double()


@dataclass(frozen=True)
class Answer:
    """The merged [W | b], and the projector on directions that no example of any model sees."""

    value: Tensor
    unseen: Tensor


def anchored_solution(
    fishers: list[Tensor], weights: list[float], targets: list[Tensor], start: Tensor, anchor: float
) -> Answer:
    """Solve (Σ λ_i F_i + μ I) Δ = Σ λ_i F_i (w_i − x0) densely; μ = anchor · Σ λ_i mean diag F_i."""
    total = sum(weight * fisher for weight, fisher in zip(weights, fishers, strict=True))
    damping = anchor * sum(weight * fisher.diagonal().mean() for weight, fisher in zip(weights, fishers, strict=True))
    right = sum(
        weight * fisher @ (target - start).flatten()
        for weight, fisher, target in zip(weights, fishers, targets, strict=True)
    )
    step = torch.linalg.solve(total + damping * torch.eye(len(total), dtype=torch.float64), right)
    eigenvalues, vectors = torch.linalg.eigh(total)
    unseen = vectors[:, eigenvalues < 1e-12 * eigenvalues.max()]
    return Answer(start + step.reshape(start.shape), unseen @ unseen.T)
