"""What training is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mats.data import DatasetSpec
from mats.errors import RequestError
from mats.training.settings import TrainingSettings
from mats.training.tuning import FullTuning

ROOT = Path("exp_out/train")


@dataclass(frozen=True)
class TrainingRequest:
    """One model to fine-tune.

    Attributes:
        base: Folder or hub id of the model to start from; its head may be missing or of another size.
        datasets: What it learns: one dataset, or several as a mixture.
        settings: How.
        output: Folder of the result. Default: `exp_out/train/<task>/<base>-<digest of the settings>`.
        name: How reports call the result. Default: the dataset's name, or those of the mixture joined by `+`.
        heads: `one` model with one head for all datasets; or a head `per_dataset` on a body that all train together.
        device: `auto` (cuda where there is one), `cpu`, `cuda`. Under `accelerate launch` each process has its own.
        overwrite: Replace a result that was made with other settings.
        trust_remote_code: Whether code that comes with the base may run.
    """

    base: str | Path
    datasets: tuple[DatasetSpec, ...]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    output: Path | None = None
    name: str | None = None
    heads: Literal["one", "per_dataset"] = "one"
    device: str = "auto"
    overwrite: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check what needs no file.

        Raises:
            RequestError: no dataset, or two of one name.
        """
        names = [spec.name for spec in self.datasets]
        if not names:
            raise RequestError("datasets: none given; one or more would be right")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RequestError(f"datasets: the name {twice[0]!r} is given twice; names must differ")

    @property
    def task_name(self) -> str:
        """What the result is called."""
        return self.name or "+".join(spec.name for spec in self.datasets)

    def check_heads(self) -> None:
        """Refuse one head for datasets that need several, and several for adapters.

        Raises:
            RequestError: naming the datasets that differ.
        """
        if self.heads == "per_dataset":
            if not isinstance(self.settings.tuning, FullTuning):
                raise RequestError("heads per dataset: adapters have one head; tuning full would be right")
            return
        first = self.datasets[0]
        for spec in self.datasets[1:]:
            same_labels = spec.num_labels == first.num_labels or spec.task in ("text_to_text", "language_modeling")
            if spec.task != first.task or not same_labels:
                raise RequestError(
                    f"datasets: {first.name} is {first.task} with {first.num_labels} labels, {spec.name} is {spec.task}"
                    f" with {spec.num_labels}; one head cannot serve both, one per dataset would be right"
                )
