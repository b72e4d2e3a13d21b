"""Merge fine-tuned models by matching them in their task subspaces.

The names below are imported when they are first used, so that `import mats` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mats.checkpoints import Checkpoint, open_checkpoint
    from mats.curvature import CollectionSettings, collect
    from mats.data import load_spec
    from mats.engine.collection import CollectionRequest, save_metadata
    from mats.engine.merging import MergeResult, merge
    from mats.engine.plan import plan_merge
    from mats.engine.request import MergeRequest, ModelInput, Rule
    from mats.errors import MatsError
    from mats.evaluation import evaluate
    from mats.merge_problem import MergeProblem
    from mats.methods.registry import parse_method
    from mats.recipes import Recipe, load_recipe, recipe_from
    from mats.recipes.requests import collection_request, merge_request
    from mats.solve_result import SolveResult
    from mats.solvers import Solution
    from mats.solving import solve
    from mats.store import MetadataStore, open_store
    from mats.training import TrainingRequest, TrainingSettings, fine_tune, fine_tune_jointly

_HOMES = {
    "Checkpoint": "mats.checkpoints",
    "CollectionRequest": "mats.engine.collection",
    "CollectionSettings": "mats.curvature",
    "MatsError": "mats.errors",
    "MergeProblem": "mats.merge_problem",
    "MergeRequest": "mats.engine.request",
    "MergeResult": "mats.engine.merging",
    "MetadataStore": "mats.store",
    "ModelInput": "mats.engine.request",
    "Recipe": "mats.recipes",
    "Rule": "mats.engine.request",
    "Solution": "mats.solvers",
    "SolveResult": "mats.solve_result",
    "TrainingRequest": "mats.training",
    "TrainingSettings": "mats.training",
    "collect": "mats.curvature",
    "collection_request": "mats.recipes.requests",
    "evaluate": "mats.evaluation",
    "fine_tune": "mats.training",
    "fine_tune_jointly": "mats.training",
    "load_recipe": "mats.recipes",
    "load_spec": "mats.data",
    "merge": "mats.engine.merging",
    "merge_request": "mats.recipes.requests",
    "open_checkpoint": "mats.checkpoints",
    "open_store": "mats.store",
    "parse_method": "mats.methods.registry",
    "plan_merge": "mats.engine.plan",
    "recipe_from": "mats.recipes",
    "save_metadata": "mats.engine.collection",
    "solve": "mats.solving",
}
"""Public name → the module that defines it."""

__all__ = [
    "Checkpoint",
    "CollectionRequest",
    "CollectionSettings",
    "MatsError",
    "MergeProblem",
    "MergeRequest",
    "MergeResult",
    "MetadataStore",
    "ModelInput",
    "Recipe",
    "Rule",
    "Solution",
    "SolveResult",
    "TrainingRequest",
    "TrainingSettings",
    "__version__",
    "collect",
    "collection_request",
    "evaluate",
    "fine_tune",
    "fine_tune_jointly",
    "load_recipe",
    "load_spec",
    "merge",
    "merge_request",
    "open_checkpoint",
    "open_store",
    "parse_method",
    "plan_merge",
    "recipe_from",
    "save_metadata",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use; the next use finds it in the module."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mats' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES})
