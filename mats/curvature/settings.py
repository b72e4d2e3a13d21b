"""What to measure: the settings of one collection."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch

from mats.errors import RequestError

Labels = Literal["empirical", "sampled", "exact"]
Loss = Literal["mean", "sum"]

STATISTICS = ("input_gram", "output_gram", "diagonal", "block")
GRAM_STATISTICS = ("input_gram", "output_gram")


@dataclass(frozen=True)
class CollectionSettings:
    """What is measured, from which labels, and within which memory.

    Attributes:
        statistics: Any of `input_gram`, `output_gram`, `diagonal`, `block`.
        labels: `empirical` (the data's own), `sampled` (drawn from the model) or `exact` (expectation over the model's
            distribution; only where there are few classes or answer choices).
        loss: Per-example negative log-likelihood, as the `mean` over the example's target tokens or their `sum`.
        seed: Seed of the sampled labels.
        draws: How often labels are drawn for each example; the mean over the draws is measured, each costs a backward.
        homogeneous: Append a 1 to the inputs of layers with a bias, so that the bias rides along.
        accumulate_dtype: `float32` or `float64`, of every matrix that is summed. Counts are always float64.
        output_gram_limit: No output Gram for layers with more outputs than this.
        block_limit: No block for vectors longer than this.
        exact_limit: `exact` labels are refused above this many classes or choices (each costs a backward pass).
        memory_budget: Bytes that the sums of one pass over the data may take; None for no limit.
        parameters: Patterns (as in shell globs) of the checkpoint names to measure.
        block_parameters: Of these, the ones to measure a `block` of; a block takes the square of a vector's length.
        diagonal_parameters: Of these, the ones to measure a `diagonal` of.
    """

    statistics: tuple[str, ...] = GRAM_STATISTICS
    labels: Labels = "empirical"
    loss: Loss = "mean"
    seed: int = 0
    draws: int = 1
    homogeneous: bool = True
    accumulate_dtype: Literal["float32", "float64"] = "float32"
    output_gram_limit: int = 8192
    block_limit: int = 4096
    exact_limit: int = 64
    memory_budget: int | None = None
    parameters: tuple[str, ...] = ("*",)
    block_parameters: tuple[str, ...] = ("*",)
    diagonal_parameters: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            RequestError: A field is outside its range; the message names field, value and range.
        """
        object.__setattr__(self, "statistics", tuple(self.statistics))
        for name in ("parameters", "block_parameters", "diagonal_parameters"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        unknown = [name for name in self.statistics if name not in STATISTICS]
        if unknown or not self.statistics:
            raise RequestError(f"statistics: got {list(self.statistics)}; choose from {', '.join(STATISTICS)}")
        _check("labels", self.labels, ("empirical", "sampled", "exact"))
        _check("loss", self.loss, ("mean", "sum"))
        _check("accumulate_dtype", self.accumulate_dtype, ("float32", "float64"))
        for name in ("output_gram_limit", "block_limit", "exact_limit"):
            if getattr(self, name) < 0:
                raise RequestError(f"{name}: got {getattr(self, name)}; must be 0 or more")
        if self.draws < 1:
            raise RequestError(f"draws: got {self.draws}; must be 1 or more")
        if self.draws > 1 and self.labels != "sampled":
            raise RequestError(f"draws: got {self.draws} with labels {self.labels!r}; only 'sampled' labels are drawn")
        if self.memory_budget is not None and self.memory_budget <= 0:
            raise RequestError(
                f"memory_budget: got {self.memory_budget} bytes; must be more than 0, or None for no limit"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The accumulators' torch dtype."""
        return torch.float64 if self.accumulate_dtype == "float64" else torch.float32

    def wants(self, *statistics: str) -> bool:
        """Whether any of `statistics` is asked for."""
        return any(name in self.statistics for name in statistics)

    def selects(self, parameter: str) -> bool:
        """Whether the patterns choose the checkpoint name `parameter`."""
        return _matches(parameter, self.parameters)

    def selects_for(self, statistic: str, parameter: str) -> bool:
        """Whether `statistic` (`block` or `diagonal`) is asked for of the checkpoint name `parameter`."""
        patterns = self.block_parameters if statistic == "block" else self.diagonal_parameters
        return self.wants(statistic) and self.selects(parameter) and _matches(parameter, patterns)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RequestError(f"{field}: got {value!r}; choose from {', '.join(allowed)}")
