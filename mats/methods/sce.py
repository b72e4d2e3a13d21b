"""SCE (FuseChat, arXiv 2402.16107v4 section 3.3): select what varies, weigh models by energy, erase the minority.

With τ_i = θ_i − θ0 of one tensor:

    select     keep the ⌊top · d⌋ of the d entries whose variance over the models is largest; 0 elsewhere
    calculate  w_i = mean τ_i² / Σ_j mean τ_j²                               (over the selected entries)
    erase      drop the entries of sign other than sign Σ_i τ_i              (0 counts as +)
    merge      θ0 + Σ_i w_i τ_i / Σ_i w_i                                    (over the models not erased at the entry)

The division by the weights that are left is mergekit's reading; the paper leaves open how erased entries count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class SceSettings(ElementwiseSettings):
    """Select, calculate, erase: models weigh by the energy of their changes; weights of the request do not count."""

    allowed_weights: ClassVar[AllowedWeights] = "one"
    method: Literal["sce"] = "sce"
    select_topk: float = Field(
        default=1.0, gt=0, le=1, description="Share of each tensor's entries that is merged, in (0, 1]; default 1."
    )

    @property
    def copies_per_model(self) -> int:
        """The variance over models needs all of them."""
        return 1

    def build(self, model_weights: Sequence[float]) -> SceMerge:
        """The merge of so many models."""
        return SceMerge(len(model_weights), self.select_topk)


class SceMerge(SinglePass):
    """One SCE merge; the changes of all models to a tensor are in memory together."""

    def __init__(self, count: int, top: float) -> None:
        self.count, self.top = count, top

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        import torch

        base = require_base("sce", name, base)
        if not is_mergeable(base.dtype):
            return base
        shape = base.shape
        base = base.to(working_dtype(base.dtype)).reshape(-1)
        changes = base.new_empty((self.count, base.numel()))
        for index, tensor in numbered(name, shape, models, self.count):
            torch.sub(tensor.to(base.dtype).reshape(-1), base, out=changes[index])
            del tensor
        return merged_change(changes, self.top).add_(base).reshape(shape)


def merged_change(changes: Tensor, top: float) -> Tensor:
    """The merged task vector [d] of `changes` [models, d], which are overwritten."""
    import torch

    from mats.methods.sparsify_masks import largest_mask

    count, size = changes.shape
    if top < 1.0:
        variance = changes.var(dim=0) if count > 1 else torch.zeros_like(changes[0])
        selected = largest_mask(variance.cpu().numpy(), int(top * size))
        changes *= torch.from_numpy(selected).to(changes)
    energy = changes.square().sum(dim=1, dtype=torch.float64)
    weights = (energy / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)).to(changes.dtype)
    sign = torch.where(changes.sum(dim=0) >= 0, 1.0, -1.0).to(changes.dtype)
    total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for change, weight in zip(changes, weights, strict=True):
        agrees = (change.sign() == sign).to(change.dtype).mul_(weight)
        total.addcmul_(change, agrees)
        divisor += agrees
    return total.div_(torch.where(divisor > 0, divisor, torch.ones_like(divisor)))
