"""The merge methods: their settings by name, and those that work entry by entry."""

from mats.methods.average import AverageSettings
from mats.methods.base import BaseSettings
from mats.methods.breadcrumbs import BreadcrumbsSettings
from mats.methods.elementwise import ElementwiseMerge, Sampler, elementwise, is_mergeable
from mats.methods.fisher import FisherSettings
from mats.methods.formula import FormulaSettings
from mats.methods.iso_c import IsoCSettings
from mats.methods.iso_cts import IsoCtsSettings
from mats.methods.knots import KnotsSettings
from mats.methods.linear import LinearSettings
from mats.methods.mats import MatsSettings
from mats.methods.model_stock import ModelStockSettings
from mats.methods.nuslerp import NuslerpSettings
from mats.methods.passthrough import PassthroughSettings
from mats.methods.pointwise import PointwiseSettings
from mats.methods.quadratic import QuadraticSettings, SolverChoice
from mats.methods.registry import MethodSettings, method_names, parse_method, settings_class
from mats.methods.regmean import RegMeanSettings
from mats.methods.sce import SceSettings
from mats.methods.settings import ElementwiseSettings, MethodSettingsBase
from mats.methods.slerp import SlerpSettings
from mats.methods.sparse_task_arithmetic import SparseTaskArithmeticSettings
from mats.methods.start import StartSettings
from mats.methods.task_arithmetic import TaskArithmeticSettings
from mats.methods.ties import TiesSettings
from mats.methods.tsv_m import TsvMSettings
from mats.methods.wudi import WudiSettings

__all__ = [
    "AverageSettings",
    "BaseSettings",
    "BreadcrumbsSettings",
    "ElementwiseMerge",
    "ElementwiseSettings",
    "FisherSettings",
    "FormulaSettings",
    "IsoCSettings",
    "IsoCtsSettings",
    "KnotsSettings",
    "LinearSettings",
    "MatsSettings",
    "MethodSettings",
    "MethodSettingsBase",
    "ModelStockSettings",
    "NuslerpSettings",
    "PassthroughSettings",
    "PointwiseSettings",
    "QuadraticSettings",
    "RegMeanSettings",
    "Sampler",
    "SceSettings",
    "SlerpSettings",
    "SolverChoice",
    "SparseTaskArithmeticSettings",
    "StartSettings",
    "TaskArithmeticSettings",
    "TiesSettings",
    "TsvMSettings",
    "WudiSettings",
    "elementwise",
    "is_mergeable",
    "method_names",
    "parse_method",
    "settings_class",
]
