"""The reference of training recipes, from the schema: `python -m mats.recipes.training_reference` prints it for
docs/training.md.
"""

from __future__ import annotations

from pydantic import BaseModel

from mats.recipes.reference import table
from mats.recipes.training import TrainingRecipe, TrainingRun
from mats.training.settings import TrainingSettings
from mats.training.tuning import Ia3Tuning, LoraTuning

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The training recipe", TrainingRecipe),
    ("`runs`: one entry", TrainingRun),
    ("`train`", TrainingSettings),
    ("`train.tuning: {method: lora}`", LoraTuning),
    ("`train.tuning: {method: ia3}`", Ia3Tuning),
)


def training_tables() -> str:
    """All tables in Markdown."""
    return "\n".join(table(title, model) for title, model in SECTIONS)


if __name__ == "__main__":
    print(training_tables())
