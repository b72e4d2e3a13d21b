"""Plan a merge, load one group of layers at a time, solve it, write it."""

from mats.engine.collection import save_metadata
from mats.engine.collection_request import CollectionRequest
from mats.engine.cross_validation import StrengthCurve, cross_validate
from mats.engine.merging import MergeResult, merge
from mats.engine.plan import Group, MergePlan, Streamed, System, plan_merge
from mats.engine.prediction import Prediction, predict
from mats.engine.request import Heads, MergeRequest, ModelInput, Rule
from mats.engine.variants import merge_variants

__all__ = [
    "CollectionRequest",
    "Group",
    "Heads",
    "MergePlan",
    "MergeRequest",
    "MergeResult",
    "ModelInput",
    "Prediction",
    "Rule",
    "Streamed",
    "StrengthCurve",
    "System",
    "cross_validate",
    "merge",
    "merge_variants",
    "plan_merge",
    "predict",
    "save_metadata",
]
