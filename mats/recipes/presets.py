"""`preset: published`: what the methods' own published code does, as a layer below the recipe.

Sources: the MaTS repository (commit cb52c38) and the TIES repository (44e7891), their commands and released merges:
* fisher: entries at least 1e-8, no anchor;
* regmean: solved exactly, off-diagonal entries × 0.8 (the released merge), A divided by its tokens, the rest averaged;
* mats: A and G each divided by their own tokens, plain CG from task vectors × 0.3, 100 iterations or relative residual
  of 1e-5, no preconditioner, no anchor; what has no curvature (the output head among it) averaged. On (IA)³ vectors,
  whose stores hold blocks, the same with scale 0.2 and 10 iterations: configs/recipes/published_ia3_eight_qa.yaml;
* curvature: a mean loss per example, no homogeneous coordinate, the first 1000 examples of `validation`, gold labels.
"""

from __future__ import annotations

from typing import Any

from mats.recipes.flat import DEFAULT_METHOD
from mats.recipes.layers import Layer, merge_layers

AVERAGE = {"method": "average"}

PUBLISHED_MERGE: dict[str, dict[str, Any]] = {
    "average": {},
    "task_arithmetic": {"scale": 0.3},
    "ties": {"density": 0.2, "scale": 1.0, "zero_votes": "majority", "trim_scope": "global"},
    "fisher": {"init": AVERAGE, "anchor": 0.0, "floor": 1e-8, "fallback": ["diagonal", "init"]},
    "regmean": {
        "init": AVERAGE,
        "outside": AVERAGE,
        "fallback": ["input_gram", "init"],
        "layer_kinds": ["linear"],
        "fold_bias": False,
        "scaling": "tokens",
        "off_diagonal": 0.8,
        "anchor": 0.0,
        "solver": {"name": "direct"},
    },
    "mats": {
        "init": {"method": "task_arithmetic", "scale": 0.3},
        "outside": AVERAGE,
        "fallback": ["kfac", "block", "init"],
        "layer_kinds": ["linear"],
        "fold_bias": False,
        "scaling": "tokens",
        "off_diagonal": 1.0,
        "anchor": 0.0,
        "solver": {"name": "cg", "tolerance": 1e-5, "max_iterations": 100},
    },
}

PUBLISHED_CURVATURE: dict[str, Any] = {
    "split": "validation",
    "examples": 1000,
    "labels": "empirical",
    "loss": "mean",
    "homogeneous": False,
}


def below_preset(layer: Layer) -> Layer:
    """`layer` over the preset that it names, if it names one; settings of the recipe win, key by key."""
    merge = layer.data.get("merge")
    if not isinstance(merge, dict) or merge.get("preset") != "published":
        return layer
    method = merge.get("method", DEFAULT_METHOD)
    if not isinstance(method, str):
        return layer
    settings = PUBLISHED_MERGE.get(method, {})
    data = {"curvature": PUBLISHED_CURVATURE, "merge": {"method": method, **settings}}
    return merge_layers(Layer(data, {(): "preset published"}), layer)
