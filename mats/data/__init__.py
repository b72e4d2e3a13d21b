"""What a model is shown: dataset files, examples, and tokenised batches (docs/datasets.md)."""

from mats.data.batch import Batch, Task
from mats.data.batches import make_batches
from mats.data.examples import Example, load_examples
from mats.data.images import pixel_values
from mats.data.padding import NOT_SCORED, pad_rows, real_positions, shift_right
from mats.data.processors import Processor, as_processor, load_processor
from mats.data.rows import missing_files
from mats.data.spec import DatasetSpec, ImageSettings, SplitRule, Template
from mats.data.spec_file import load_spec, parse_spec

__all__ = [
    "NOT_SCORED",
    "Batch",
    "DatasetSpec",
    "Example",
    "ImageSettings",
    "Processor",
    "SplitRule",
    "Task",
    "Template",
    "as_processor",
    "load_examples",
    "load_processor",
    "load_spec",
    "make_batches",
    "missing_files",
    "pad_rows",
    "parse_spec",
    "pixel_values",
    "real_positions",
    "shift_right",
]
