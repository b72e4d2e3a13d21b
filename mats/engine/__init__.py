"""Plan a merge, load one group of layers at a time, solve it, write it."""

from mats.engine.merging import MergeResult, merge
from mats.engine.plan import Group, MergePlan, Streamed, System, plan_merge
from mats.engine.request import MergeRequest, ModelInput, Rule

__all__ = [
    "Group",
    "MergePlan",
    "MergeRequest",
    "MergeResult",
    "ModelInput",
    "Rule",
    "Streamed",
    "System",
    "merge",
    "plan_merge",
]
