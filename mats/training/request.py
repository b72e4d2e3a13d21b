"""What training is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mats.data import DatasetSpec
from mats.errors import RequestError
from mats.training.settings import TrainingSettings

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
        device: `auto` (cuda where there is one), `cpu`, `cuda`. Under `accelerate launch` each process has its own.
        overwrite: Replace a result that was made with other settings.
        trust_remote_code: Whether code that comes with the base may run.
    """

    base: str | Path
    datasets: tuple[DatasetSpec, ...]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    output: Path | None = None
    name: str | None = None
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
