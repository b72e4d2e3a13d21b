"""Task arithmetic: θ0 + scale · Σ w_i (θ_i − θ0) (arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Union

from pydantic import Field

from mats.methods.elementwise import SinglePass, differences, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class TaskArithmeticSettings(ElementwiseSettings):
    """The base plus the scaled sum of the task vectors, each times its model's weight; weights are not normalised."""

    method: Literal["task_arithmetic"] = "task_arithmetic"
    scale: Union[float, Literal["auto"]] = Field(  # noqa: UP007 (pydantic reads it at run time)
        default=0.3,
        description=(
            "Factor of the summed task vectors, any real number; or auto: one for each model, those that minimise the "
            "loss predicted by the metadata, in which the models' weights count as λ; default 0.3."
        ),
    )
    scale_scope: Literal["global", "layer"] = Field(
        default="global", description="Automatic scales for the whole model, or for each layer; default global."
    )

    @property
    def reads_metadata(self) -> bool:
        """Automatic scales come from the metadata."""
        return self.scale == "auto"

    @property
    def runs_anywhere(self) -> bool:
        """Sums run on any device."""
        return True

    def build(self, model_weights: Sequence[float]) -> TaskArithmeticMerge:
        """Task arithmetic on models with these weights (a negative weight subtracts a task).

        With `scale: auto` the merge must be given its `scales` before it can merge.
        """
        if self.scale == "auto":
            return TaskArithmeticMerge(None)
        return TaskArithmeticMerge(TaskVectorScales(tuple(self.scale * weight for weight in model_weights)))


@dataclass(frozen=True)
class TaskVectorScales:
    """What each model's task vector is multiplied by.

    Attributes:
        overall: one factor per model.
        layers: parameter → its own factors, where they differ.
    """

    overall: tuple[float, ...]
    layers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class TaskArithmeticMerge(SinglePass):
    """θ0 + Σ s_i · (θ_i − θ0), one model at a time.

    Attributes:
        scales: s_i; None until they are known.
    """

    def __init__(self, scales: TaskVectorScales | None) -> None:
        self.scales = scales

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`. The small differences are summed first and meet the base once, at the end."""
        import torch

        base = require_base("task_arithmetic", name, base)
        if not is_mergeable(base.dtype):
            return base
        if self.scales is None:
            raise RuntimeError("TaskArithmeticMerge.merge was called before its automatic scales were known")
        factors = self.scales.layers.get(name, self.scales.overall)
        base = base.to(working_dtype(base.dtype)).contiguous()
        flat = base.reshape(-1)
        change = torch.zeros_like(flat)
        for index, tensor in numbered(name, base.shape, models, len(factors)):
            change = change.to(torch.promote_types(change.dtype, tensor.dtype))
            # In pieces that stay in cache, and never in the tensor itself: it may be a file mapped copy-on-write.
            for piece, task_vector in differences(tensor.reshape(-1), flat):
                change[piece].add_(task_vector, alpha=factors[index])
            del tensor
        return change.add_(flat).reshape(base.shape)
