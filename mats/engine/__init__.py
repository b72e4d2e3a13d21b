"""Plan a merge, load one group of layers at a time, solve it, write it."""

from mats.engine.collection import save_metadata
from mats.engine.collection_request import CollectionRequest
from mats.engine.merging import MergeResult, merge
from mats.engine.plan import Group, MergePlan, Streamed, System, plan_merge
from mats.engine.request import Heads, MergeRequest, ModelInput, Rule

__all__ = [
    "CollectionRequest",
    "Group",
    "Heads",
    "MergePlan",
    "MergeRequest",
    "MergeResult",
    "ModelInput",
    "Rule",
    "Streamed",
    "System",
    "merge",
    "plan_merge",
    "save_metadata",
]
