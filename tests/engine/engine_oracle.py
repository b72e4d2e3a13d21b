"""The merged weights of one layer from the definition: dense matrices over vec(W), float64, numpy, no code of `mats`.

vec(W) is row-major over [out, in]; a bias is the last input. C = G ⊗ A, so that C vec(W) = vec(G W A).
"""

from __future__ import annotations

import numpy as np


def kfac(input_sum, output_sum, examples, tokens):
    """The properly scaled block: Σ_t δδᵀ ⊗ Σ_t aaᵀ ÷ (N · T)."""
    return np.kron(output_sum, input_sum) / (examples * tokens)


def regmean(input_sum, outputs, examples):
    """I ⊗ Σ_t aaᵀ ÷ N."""
    return np.kron(np.eye(outputs), input_sum) / examples


def anchored(curvatures, targets, start, weights, anchor):
    """x0 + Δ with (Σ λ C + μ I) Δ = Σ λ C (w − x0), μ = anchor Σ λ mean diag C; least squares if singular."""
    total = sum(w * c for w, c in zip(weights, curvatures, strict=True))
    mu = anchor * sum(w * np.trace(c) / len(c) for w, c in zip(weights, curvatures, strict=True))
    right = sum(w * c @ (t.ravel() - start.ravel()) for w, c, t in zip(weights, curvatures, targets, strict=True))
    delta = np.linalg.lstsq(total + mu * np.eye(len(total)), right, rcond=1e-12)[0]
    return start + delta.reshape(start.shape)


def task_arithmetic(base, models, scale, weights):
    """θ0 + scale Σ λ (θ − θ0)."""
    return base + scale * sum(w * (m - base) for w, m in zip(weights, models, strict=True))


def average(models, weights):
    """Σ λ θ ÷ Σ λ."""
    return sum(w * m for w, m in zip(weights, models, strict=True)) / sum(weights)
