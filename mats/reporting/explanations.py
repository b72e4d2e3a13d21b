"""One sentence and one formula for each method, rule and reason to stop, as reports and cards tell them."""

from __future__ import annotations

METHODS = {
    "average": ("Weighted average of the models.", "W = Σ w_i W_i / Σ w_i", "arXiv:2203.05482"),
    "task_arithmetic": (
        "The base plus the scaled sum of task vectors.",
        "W = W_0 + s Σ w_i (W_i − W_0)",
        "arXiv:2212.04089",
    ),
    "ties": (
        "Task vectors trimmed to their largest entries, a sign elected for each entry, agreeing values averaged.",
        "W = W_0 + s · mean of the trimmed τ_i that agree with sign Σ w_i τ_i",
        "arXiv:2306.01708",
    ),
    "tsv_m": (
        "Each model's leading singular vectors, made orthogonal to the other models', and put together again.",
        "W = W_0 + s Û Σ V̂ᵀ",
        "arXiv:2412.00081",
    ),
    "iso_c": (
        "The summed task vectors with every singular value replaced by their mean.",
        "W = W_0 + s σ̄ U Vᵀ,  Σ w_i (W_i − W_0) = U diag(σ) Vᵀ",
        "arXiv:2502.04959",
    ),
    "linear": (
        "Weighted sum of the models; divided by the sum of the weights if asked.",
        "W = Σ w_i W_i  (/ Σ w_i)",
        "arXiv:2203.05482",
    ),
    "formula": (
        "The models combined as a formula of their names says, one exact coefficient each.",
        "W = Σ κ_j W_j",
        "arXiv:2406.15570",
    ),
    "model_stock": (
        "The models' mean, pulled to the base the more the models disagree in direction.",
        "W = t · mean W_i + (1 − t) W_0",
        "arXiv:2403.19522",
    ),
    "nuslerp": (
        "Two models by their weights, along the arc between them.",
        "W = sin((1 − t)φ)/sin φ · W_1 + sin(tφ)/sin φ · W_2",
        "",
    ),
    "slerp": (
        "Two models along the arc between them.",
        "W = sin((1 − t)φ)/sin φ · W_1 + sin(tφ)/sin φ · W_2",
        "",
    ),
    "passthrough": (
        "One model as it is, or scaled.",
        "W = s W_1",
        "",
    ),
    "sce": (
        "What varies most among the changes, weighted by energy, without minority signs.",
        "W = W_0 + Σ w_i τ_i / Σ w_i over the models of the elected sign",
        "arXiv:2402.16107",
    ),
    "sparse_task_arithmetic": (
        "Weighted task vectors thinned out tensor by tensor, with or without a vote on signs.",
        "W = W_0 + s Σ w_i ρ(m_i ∘ τ_i)",
        "arXiv:2311.03099",
    ),
    "pointwise": ("Each entry's mean, sum, median or largest value over the models.", "W = aggregate of the W_i", ""),
    "breadcrumbs": (
        "Task vectors without the largest and the smallest changes of each tensor, summed.",
        "W = W_0 + s Σ w_i m_i ∘ (W_i − W_0)",
        "arXiv:2312.06795",
    ),
    "iso_cts": (
        "Leading directions of the summed task vectors and each task's own beside them, all equally strong.",
        "W = W_0 + s σ̄ Û V̂ᵀ",
        "arXiv:2502.04959",
    ),
    "wudi": (
        "Each task's outputs kept on the inputs that its own update tells of: RegMean with proxy Grams.",
        "(W − x0)(Σ w_i A_i + μ I) = Σ w_i (W_i − x0) A_i,  A_i = τ_iᵀτ_i / ‖τ_i‖²",
        "arXiv:2503.08099",
    ),
    "knots": (
        "Updates in the singular basis they share, merged there by TIES.",
        "W = W_0 + s U Σ TIES(V_1, …, V_m)ᵀ,  [τ_1 … τ_m] = U Σ [V_1ᵀ … V_mᵀ]",
        "arXiv:2410.19735",
    ),
    "fisher": (
        "Average weighted, entry by entry, by each model's diagonal Fisher information.",
        "(Σ λ_i F_i + μ)(W − x0) = Σ λ_i F_i (W_i − x0)",
        "arXiv:2111.09832",
    ),
    "regmean": (
        "The layers whose outputs are closest to each model's on that model's own inputs.",
        "(W − x0)(Σ λ_i A_i + μ I) = Σ λ_i (W_i − x0) A_i",
        "arXiv:2212.09849",
    ),
    "mats": (
        "Models matched in their task subspaces: the Kronecker-factored curvature around each, from a start x0.",
        "Σ λ_i G_i (W − W_i) A_i + μ (W − x0) = 0",
        "arXiv:2312.04339",
    ),
    "base": ("The base model, unchanged.", "W = W_0", ""),
}
"""method → (sentence, formula, paper)"""

RULES = {
    "kfac": "input Gram and output-gradient Gram of the layer",
    "input_gram": "input Gram of the layer",
    "block": "dense Fisher block of a vector",
    "diagonal": "diagonal Fisher",
    "identity": "identity curvature (average)",
    "init": "no curvature: the start x0",
    "base": "taken from the base",
    "head": "not merged: a model's own head",
    "not_floating": "not floating point: taken from the base",
    "exact": "sum of LoRA updates, ranks one after another",
    "svd": "sum of LoRA updates, the best of the rank",
    "factorwise": "LoRA factors summed one by one (PEM)",
    "analogy": "LoRA factors of a + b − c summed one by one (PEM)",
    "alpaca": "LoRA factors as Alpaca-LoRA negation has them (PEM)",
    "linear_only_negate_b": "LoRA factors summed one by one, signs on B (AdapterHub)",
    "peft_linear": "LoRA factors summed with √ weights (PEFT linear)",
}
"""rule → what it uses; a rule not listed is a method of that name"""


def method_sentence(method: str) -> str:
    """What a method does, in one sentence; empty for a method unknown here."""
    return METHODS.get(method, ("", "", ""))[0]


def method_formula(method: str) -> str:
    """The equation a method solves."""
    return METHODS.get(method, ("", "", ""))[1]


def method_paper(method: str) -> str:
    """`arXiv:…` of the method's paper; empty where there is none."""
    return METHODS.get(method, ("", "", ""))[2]


def rule_meaning(rule: str) -> str:
    """What merged the parameters under `rule`."""
    return RULES.get(rule, f"merged by {rule}")
