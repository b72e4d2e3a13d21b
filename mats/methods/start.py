"""The start points x0 a quadratic method can take: every elementwise method, and the base itself."""

from __future__ import annotations

from typing import Annotated, Union

from pydantic import Field

from mats.methods.average import AverageSettings
from mats.methods.base import BaseSettings
from mats.methods.breadcrumbs import BreadcrumbsSettings
from mats.methods.formula import FormulaSettings
from mats.methods.iso_c import IsoCSettings
from mats.methods.iso_cts import IsoCtsSettings
from mats.methods.knots import KnotsSettings
from mats.methods.linear import LinearSettings
from mats.methods.model_stock import ModelStockSettings
from mats.methods.nuslerp import NuslerpSettings
from mats.methods.passthrough import PassthroughSettings
from mats.methods.pointwise import PointwiseSettings
from mats.methods.sce import SceSettings
from mats.methods.slerp import SlerpSettings
from mats.methods.sparse_task_arithmetic import SparseTaskArithmeticSettings
from mats.methods.task_arithmetic import TaskArithmeticSettings
from mats.methods.ties import TiesSettings
from mats.methods.tsv_m import TsvMSettings
from mats.methods.wudi import WudiSettings

DataFreeSettings = Union[  # noqa: UP007 (pydantic reads it at run time)
    AverageSettings,
    LinearSettings,
    PointwiseSettings,
    FormulaSettings,
    TaskArithmeticSettings,
    TiesSettings,
    BreadcrumbsSettings,
    TsvMSettings,
    IsoCSettings,
    IsoCtsSettings,
    WudiSettings,
    KnotsSettings,
    ModelStockSettings,
    NuslerpSettings,
    PassthroughSettings,
    SceSettings,
    SlerpSettings,
    SparseTaskArithmeticSettings,
]
"""Settings of any method that merges models without metadata."""

StartSettings = Annotated[
    Union[BaseSettings, DataFreeSettings],  # noqa: UP007
    Field(discriminator="method"),
]
"""Settings of a start point, told apart by the word under `method`."""
