"""The cut of each model's changes over the whole model, found by streaming: which of its entries count.

A threshold is found exactly, in one pass where a sample brackets it and in two where not; what needs another look at
the whole (ties to be shared out, norms of what is kept) takes one pass more. Memory does not grow with the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mats.errors import ShapeMismatch
from mats.methods.elementwise import BaseReader, ModelReader, Sampler, is_mergeable
from mats.methods.magnitude import BracketSelection, EnergySelection, RadixSelection, Selected
from mats.methods.ties_trim import EVERYTHING, NOTHING, Cut, Moments, TrimRule, cut_from, kept_changes, task_vector
from mats.progress import Progress

SAMPLE_SHARE = 256  # one entry in so many is looked at before the pass, within the next two bounds
SMALLEST_SAMPLE, LARGEST_SAMPLE = 1 << 20, 1 << 23  # of a million, 1 % of all entries lie inside the bracket

Taker = Callable[[Tensor], None]


class WholeModels:
    """The changes of all models over `names`, one tensor of one model at a time."""

    def __init__(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        models: int,
        progress: Progress,
        sampler: Sampler | None = None,
    ) -> None:
        self.reader, self.base_reader, self.names, self.models = reader, base_reader, sorted(names), models
        self.progress, self.sampler = progress, sampler

    def cuts(self, rule: TrimRule) -> tuple[Cut, ...]:
        """Each model's cut by `rule` over all names together."""
        if rule.word == "none":
            return (EVERYTHING,) * self.models
        if rule.word == "std":
            moments = {model: Moments() for model in range(self.models)}
            self._show("ties: means and deviations", {model: each.add for model, each in moments.items()})
            return tuple(each.cut(rule.amount) for each in moments.values())
        found = self._by_rank(rule) if rule.word == "top_k" else self._by_energy(rule.amount)
        return self._shared_out([each if isinstance(each, Cut) else cut_from(each, exact=rule.exact) for each in found])

    def squared_norms(self, cuts: Sequence[Cut]) -> tuple[float, ...]:
        """Σ τ² of what each model keeps, in float64."""
        totals = [0.0] * self.models

        def add(model: int, name: str, tensor: Tensor, base: Tensor) -> None:
            for _, kept, _ in kept_changes(tensor, base, cuts[model].within(name)):
                totals[model] += float(kept.double().square().sum())

        self._visit("ties: norms", range(self.models), add)
        return tuple(totals)

    def _shared_out(self, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
        """Quotas of a whole model shared out among its tensors, by name; a pass over the models that have one."""
        counts: dict[int, dict[str, int]] = {model: {} for model, cut in enumerate(cuts) if cut.quota > 0}

        def count(model: int, name: str, tensor: Tensor, base: Tensor) -> None:
            pieces = task_vector(tensor, base)
            counts[model][name] = sum(int((change.abs_() == cuts[model].tied).sum()) for _, change in pieces)

        if counts:
            self._visit("ties: equal magnitudes", counts, count)
        shared = list(cuts)
        for model, by_name in counts.items():
            left, quotas = cuts[model].quota, {}
            for name in sorted(by_name):
                quotas[name] = min(left, by_name[name])
                left -= quotas[name]
            shared[model] = replace(cuts[model], quota=0, quotas=quotas)
        return tuple(shared)

    def _by_rank(self, rule: TrimRule) -> list[Selected | Cut]:
        """The magnitude at the rank that `rule` asks for; with a sampler from one pass, if its bracket holds."""
        found: dict[int, Selected | Cut] = {}
        if self.sampler is not None:
            found |= self._by_bracket(rule, self.sampler)
        missing = [model for model in range(self.models) if model not in found]
        if missing:
            found |= self._by_radix(missing, rule)
        return [found[model] for model in range(self.models)]

    def _by_bracket(self, rule: TrimRule, sampler: Sampler) -> dict[int, Selected | Cut]:
        """What the models keep whose sample bracketed the answer."""
        samples = self._samples(sampler)
        selections = {model: BracketSelection.from_sample(sample, rule.amount) for model, sample in enumerate(samples)}
        total = self._show("ties: thresholds", {model: each.add for model, each in selections.items()}, sizes=True)
        rank = rule.rank(total)
        if not 0 < rank <= total:
            return dict.fromkeys(selections, _trivial(rank))
        results = {model: selection.result(rank) for model, selection in selections.items()}
        return {model: value for model, value in results.items() if value is not None}

    def _by_radix(self, models: Sequence[int], rule: TrimRule) -> dict[int, Selected | Cut]:
        """The same for `models`, whatever the values are, in two passes."""
        selections = {model: RadixSelection() for model in models}
        takers = {model: each.add for model, each in selections.items()}
        total = self._show("ties: thresholds (1 of 2)", takers, sizes=True)
        rank = rule.rank(total)
        if not 0 < rank <= total:
            return dict.fromkeys(models, _trivial(rank))
        for selection in selections.values():
            selection.next_pass(rank)
        self._show("ties: thresholds (2 of 2)", takers, sizes=True)
        return {model: selection.result() for model, selection in selections.items()}

    def _by_energy(self, share: float) -> list[Selected | Cut]:
        selections = {model: EnergySelection(share) for model in range(self.models)}
        takers = {model: each.add for model, each in selections.items()}
        self._show("ties: shares of the norm (1 of 2)", takers, sizes=True)
        for selection in selections.values():
            selection.next_pass()
        self._show("ties: shares of the norm (2 of 2)", takers, sizes=True)
        return [selection.result() for selection in selections.values()]

    def _show(self, description: str, takers: Mapping[int, Taker], *, sizes: bool = False) -> int:
        """Show every change (`sizes`: its magnitude) to its model's taker; returns how many entries a model has."""

        def show(model: int, name: str, tensor: Tensor, base: Tensor) -> None:  # noqa: ARG001
            for _, change in task_vector(tensor, base):
                takers[model](change.abs_() if sizes else change)

        return self._visit(description, takers, show)

    def _visit(
        self, description: str, models: Sequence[int] | Mapping[int, object] | range, see: Callable[..., None]
    ) -> int:
        """Call `see(model, name, tensor, base)`, both flat, for every tensor that is merged."""
        total = 0
        self.progress.start(description, len(self.names))
        for name in self.names:
            base = self.base_reader(name)
            if is_mergeable(base.dtype):
                total += base.numel()
                for model in models:
                    see(model, name, _flat(name, self.reader(model, name), base), base.reshape(-1))
            self.progress.advance()
        return total

    def _samples(self, sampler: Sampler) -> list[Tensor]:
        """Magnitudes of one entry in `SAMPLE_SHARE` of each model's changes, in proportion from every tensor."""
        total = sum(sampler.numel(name) for name in self.names)
        wanted = min(max(total // SAMPLE_SHARE, SMALLEST_SAMPLE), LARGEST_SAMPLE)
        pieces: list[list[Tensor]] = [[torch.empty(0)] for _ in range(self.models)]
        for name in self.names:
            count = round(wanted * sampler.numel(name) / max(total, 1)) + 1
            base = sampler.sample(None, name, count)
            if is_mergeable(base.dtype):
                for model in range(self.models):
                    tensor = _flat(name, sampler.sample(model, name, count), base)
                    pieces[model].extend(change.abs_() for _, change in task_vector(tensor, base.reshape(-1)))
        return [torch.cat(parts) for parts in pieces]


def _trivial(rank: int) -> Cut:
    """A rank outside the entries there are: everything is kept, or (rank above them all) nothing."""
    return EVERYTHING if rank <= 0 else NOTHING


def _flat(name: str, tensor: Tensor, base: Tensor) -> Tensor:
    if tensor.shape != base.shape:
        raise ShapeMismatch(f"{name}: a model's tensor has shape {tuple(tensor.shape)}, the base's {tuple(base.shape)}")
    return tensor.reshape(-1)
