"""What a model is shown: dataset files, examples, and tokenised batches (docs/datasets.md)."""

from mats.data.batch import Batch, Task
from mats.data.batches import make_batches
from mats.data.examples import Example, load_examples
from mats.data.generation import GenerationSettings, PerplexitySettings
from mats.data.head_check import check_labels_fit
from mats.data.image_settings import ImageSettings
from mats.data.images import pixel_values
from mats.data.metric_names import MetricName, metrics_for
from mats.data.mixture import Mixture, load_mixture
from mats.data.padding import NOT_SCORED, pad_rows, real_positions, shift_right
from mats.data.processors import Processor, as_processor, load_processor
from mats.data.prompts import JinjaTemplate, Prompts, Template
from mats.data.rows import missing_files
from mats.data.spec import DatasetSpec
from mats.data.spec_file import load_spec, parse_spec
from mats.data.split_rules import SplitRule

__all__ = [
    "NOT_SCORED",
    "Batch",
    "DatasetSpec",
    "Example",
    "GenerationSettings",
    "ImageSettings",
    "JinjaTemplate",
    "MetricName",
    "Mixture",
    "PerplexitySettings",
    "Processor",
    "Prompts",
    "SplitRule",
    "Task",
    "Template",
    "as_processor",
    "check_labels_fit",
    "load_examples",
    "load_mixture",
    "load_processor",
    "load_spec",
    "make_batches",
    "metrics_for",
    "missing_files",
    "pad_rows",
    "parse_spec",
    "pixel_values",
    "real_positions",
    "shift_right",
]
