"""Presets: what the methods' own published code does, as a layer below the recipe.

The settings themselves, with their sources, are `mats.methods.published`; this file knows only how a recipe names them,
and what the published code measures: each model at its own weights, a mean loss per example, inputs without a
homogeneous coordinate, the first 1000 examples of `validation`, gold labels.
"""

from __future__ import annotations

from typing import Any

from mats.errors import RecipeError, RequestError
from mats.methods.published import PUBLISHED, ModelKind, published_settings
from mats.recipes.flat import DEFAULT_METHOD
from mats.recipes.layers import Layer, merge_layers

PUBLISHED_CURVATURE: dict[str, Any] = {
    "split": "validation",
    "examples": 1000,
    "labels": "empirical",
    "loss": "mean",
    "homogeneous": False,
    "position": 1.0,
}


def below_preset(layer: Layer) -> tuple[Layer, list[str]]:
    """`layer` over the preset that it names, if it names one; settings of the recipe win, key by key.

    Returns:
        The new layer, and a line where the preset has nothing for the recipe's method. A preset that the schema does
        not know is left to the schema.
    """
    merge = layer.data.get("merge")
    preset = merge.get("preset") if isinstance(merge, dict) else None
    if not isinstance(merge, dict) or preset not in ("published", "published_cg", "published_ia3"):
        return layer, []
    method = merge.get("method", DEFAULT_METHOD)
    try:
        settings = _settings(preset, method)
    except RecipeError as error:
        return layer, [f"{layer.origin(('merge', 'preset'))}: merge.preset: {line}" for line in error.faults]
    data = {"curvature": PUBLISHED_CURVATURE, "merge": settings}
    return merge_layers(Layer(data, {(): f"preset {preset}"}), layer), []


def _settings(preset: str, method: Any) -> dict[str, Any]:
    """The preset's settings for a method, as a recipe would write them."""
    kind: ModelKind = "ia3" if preset == "published_ia3" else "model"
    name = f"{method}_cg" if preset == "published_cg" else method
    known = sorted(key for key in PUBLISHED[kind] if key.endswith("_cg") == (preset == "published_cg"))
    offered = [
        key.removesuffix("_cg") for key in known if published_settings(key, kind).name == key.removesuffix("_cg")
    ]
    if method not in offered:
        raise RecipeError(
            [f"received {preset!r}; nothing was published for method {method!r} (only {', '.join(offered)})"]
        )
    try:
        return published_settings(name, kind).model_dump(mode="json")
    except RequestError as error:
        raise RecipeError([str(error)]) from error
