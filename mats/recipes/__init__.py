"""Recipes: the configuration schema, layers of files, overrides, and the requests that a recipe amounts to."""

from mats.recipes.loading import load_recipe, recipe_from
from mats.recipes.schema import MergeSection, Recipe, RuleEntry
from mats.recipes.sections import CurvatureSection, EvaluateSection, ModelEntry

__all__ = [
    "CurvatureSection",
    "EvaluateSection",
    "MergeSection",
    "ModelEntry",
    "Recipe",
    "RuleEntry",
    "load_recipe",
    "recipe_from",
]
