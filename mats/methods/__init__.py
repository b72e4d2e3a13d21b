"""The merge methods: their settings by name, and those that work entry by entry."""

from mats.methods.average import AverageSettings
from mats.methods.base import BaseSettings
from mats.methods.elementwise import ElementwiseMerge, Sampler, elementwise, is_mergeable
from mats.methods.fisher import FisherSettings
from mats.methods.iso_c import IsoCSettings
from mats.methods.formula import FormulaSettings
from mats.methods.linear import LinearSettings
from mats.methods.mats import MatsSettings
from mats.methods.quadratic import QuadraticSettings, SolverChoice
from mats.methods.registry import MethodSettings, method_names, parse_method, settings_class
from mats.methods.regmean import RegMeanSettings
from mats.methods.settings import ElementwiseSettings, MethodSettingsBase
from mats.methods.start import StartSettings
from mats.methods.task_arithmetic import TaskArithmeticSettings
from mats.methods.ties import TiesSettings
from mats.methods.tsv_m import TsvMSettings

__all__ = [
    "AverageSettings",
    "BaseSettings",
    "ElementwiseMerge",
    "ElementwiseSettings",
    "FisherSettings",
    "IsoCSettings",
    "LinearSettings",
    "MatsSettings",
    "MethodSettings",
    "MethodSettingsBase",
    "QuadraticSettings",
    "RegMeanSettings",
    "Sampler",
    "SolverChoice",
    "StartSettings",
    "TaskArithmeticSettings",
    "FormulaSettings",
    "TiesSettings",
    "TsvMSettings",
    "elementwise",
    "is_mergeable",
    "method_names",
    "parse_method",
    "settings_class",
]
