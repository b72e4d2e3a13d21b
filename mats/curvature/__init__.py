"""What is measured while a model runs: hooks, accumulators, plans."""

from mats.curvature.collector import Collector, collect, join_partition_
from mats.curvature.experts import unfuse_experts_
from mats.curvature.plan import CollectionPlan, plan_collection
from mats.curvature.settings import CollectionSettings

__all__ = [
    "CollectionPlan",
    "CollectionSettings",
    "Collector",
    "collect",
    "join_partition_",
    "plan_collection",
    "unfuse_experts_",
]
