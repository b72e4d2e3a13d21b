"""Runs batches through a model and adds up its curvature.

Input Grams are formed inside the forward hook and output Grams inside the hook of the output's gradient, so nothing is
kept alive for them. All weights are frozen; the first activations are made to require gradients, so the backward pass
computes activation gradients only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn

from mats.curvature.accumulators import BesideTheLayer, Home
from mats.curvature.experts import unfused_experts
from mats.curvature.fallback import add_example_gradients
from mats.curvature.gram import CountSum, GramSum
from mats.curvature.hooks import BatchHooks
from mats.curvature.names import ParameterNames
from mats.curvature.per_example import ParameterSum
from mats.curvature.plan import CollectionPlan, plan_collection
from mats.curvature.settings import CollectionSettings
from mats.curvature.state import frozen_evaluation, full_precision_products
from mats.data.batch import Batch
from mats.errors import NonFiniteStatistic, WorkFailed
from mats.store.records import Sums


class Collector:
    """Adds up one partition of a plan, batch by batch. A context manager: the model leaves as it came.

    Example:
        >>> with Collector(model, plan) as collector:  # doctest: +SKIP
        ...     for batch in batches:
        ...         collector.add(batch)
        ...     sums = collector.sums()
    """

    def __init__(self, model: nn.Module, plan: CollectionPlan, partition: int = 0, home: Home | None = None) -> None:
        """Prepare the accumulators of `plan.partitions[partition]`, in `home` (None: beside their layers)."""
        self.model = model
        self.plan = plan
        self.device = entry_device(model)
        self._batches = 0
        self.parameters = ParameterNames(model, plan.names).by_name
        self._stack = ExitStack()
        self._failed = False
        self._entered = False
        self._example_ids: list[str] = []
        self._scalars: dict[str, tuple[float, float]] = {}
        keys = set(plan.partitions[partition])
        dtype, home = plan.settings.dtype, home or BesideTheLayer()
        self.inputs: dict[str, GramSum | CountSum] = {
            site.name: CountSum(site.size)
            if site.kind == "counts"
            else GramSum(site.size, site.homogeneous, dtype, home)
            for site in plan.sites
            if f"input_gram/{site.name}" in keys
        }
        self.outputs: dict[str, GramSum] = {
            layer.name: GramSum(layer.out_size, False, dtype, home)
            for layer in plan.layers
            if f"output_gram/{layer.name}" in keys
        }
        self.per_example: dict[str, ParameterSum] = {}
        for name in plan.parameters:
            statistics = frozenset(s for s in ("diagonal", "block") if f"{s}/{name}" in keys)
            if statistics:
                parameter = self.parameters[name]
                self.per_example[name] = ParameterSum(parameter.shape, dtype, parameter.device, statistics, home)
        self._hooks = BatchHooks(model, plan, self.inputs, self.outputs, self.per_example, self.parameters)
        self._untapped = {name: self.parameters[name] for name in self.per_example if name not in plan.tapped}

    def __enter__(self) -> Collector:
        """Freeze the model, put it in eval mode and attach the hooks."""
        with ExitStack() as stack:
            stack.enter_context(frozen_evaluation(self.model))
            stack.enter_context(full_precision_products())
            stack.callback(self._hooks.remove)
            self._hooks.install()
            self._stack = stack.pop_all()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the model, whatever happened."""
        self._entered = False
        self._stack.close()

    def add(self, batch: Batch, number: int | None = None) -> None:
        """Run one batch and add what it shows.

        Args:
            batch: The batch.
            number: Which batch of the whole work it is, from 1, for messages; None: counted here.

        Raises:
            NonFiniteStatistic: An activation or gradient is NaN or infinite; names site, batch and examples.
                What was added cannot be taken back, so this collector is of no further use.
            WorkFailed: The collector is not entered, or an earlier batch failed.
        """
        if not self._entered or self._failed:
            state = "an earlier batch failed" if self._failed else "the collector is not entered"
            raise WorkFailed(f"batch of {_listed(batch.example_ids)}: {state}; start again with a new collector")
        self._failed = True  # until the batch is through
        self._batches += 1
        batch = batch.to(self.device)
        measured = self._hooks.run(batch)
        if self._untapped:
            measured += add_example_gradients(self.model, batch, self.plan.settings, self._untapped, self.per_example)
        self._count(measured, batch, self._batches if number is None else number)
        self._example_ids += batch.example_ids
        self._failed = False

    def _count(self, measured: list[tuple[str, Tensor]], batch: Batch, number: int) -> None:
        """Bring the batch's scalars to the host, all at once: the only wait for the device in a batch."""
        if not measured:
            return
        values = torch.stack([value.to(self.device, torch.float64) for _, value in measured]).tolist()
        for (key, _), (tokens, fourth) in zip(measured, values, strict=True):
            if not (_finite(tokens) and _finite(fourth)):
                raise NonFiniteStatistic(
                    f"{_described(key)} NaN or infinite in batch {number} of {_listed(batch.example_ids)}"
                )
            if not key.startswith("check:"):
                before = self._scalars.get(key, (0.0, 0.0))
                self._scalars[key] = (before[0] + tokens, before[1] + fourth)

    def sums(self) -> Sums:
        """The sums so far, on the CPU. On a CPU model these are the live accumulators: clone what must not change.

        Raises:
            NonFiniteStatistic: A sum overflowed the accumulators' dtype.
            WorkFailed: A batch failed half way.
        """
        return self._sums(with_waiting=True)

    def partial(self) -> Sums:
        """As `sums`, but rows that wait for more go on waiting, and stand beside the sums as `waiting/<key>`.

        Saved and loaded again, they let a run go on to the bytes that it would have come to uninterrupted.

        Raises:
            NonFiniteStatistic: A sum overflowed the accumulators' dtype.
            WorkFailed: A batch failed half way.
        """
        partial = self._sums(with_waiting=False)
        for key, total in self._grams():
            if (rows := total.waiting) is not None:
                partial.tensors[f"waiting/{key}"] = rows.cpu()
        return partial

    def _grams(self) -> Iterator[tuple[str, GramSum]]:
        """The accumulators of matrices, by the key of their sum."""
        for name, total in self.inputs.items():
            if isinstance(total, GramSum):
                yield f"input_gram/{name}", total
        for name, output in self.outputs.items():
            yield f"output_gram/{name}", output

    def _sums(self, *, with_waiting: bool) -> Sums:
        if self._failed:
            raise WorkFailed("these sums hold part of a batch that failed; start again with a new collector")
        tensors = {f"input_gram/{n}": total.dense() for n, total in self.inputs.items() if isinstance(total, CountSum)}
        tensors |= {key: total.dense(with_waiting=with_waiting) for key, total in self._grams()}
        for name, total in self.per_example.items():
            if total.diagonal is not None:
                tensors[f"diagonal/{name}"] = total.diagonal.cpu()
            if total.block is not None:
                tensors[f"block/{name}"] = total.block.cpu()
        for key, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteStatistic(f"{key}: the sum is NaN or infinite; accumulate_dtype float64 may hold it")
        return Sums(
            tensors=tensors,
            tokens={key: value[0] for key, value in self._scalars.items()},
            fourth_moments={key: value[1] for key, value in self._scalars.items()},
            example_ids=list(self._example_ids),
        )

    def load(self, sums: Sums) -> None:
        """Continue from what `partial` or `sums` of an earlier collector of the same plan and partition gave."""
        for name, total in self.inputs.items():
            if isinstance(total, CountSum):
                total.counts = sums.tensors[f"input_gram/{name}"].clone().to(self.device).double()
        for key, gram in self._grams():
            gram.start_from(sums.tensors[key], self.device, sums.tensors.get(f"waiting/{key}"))
        for name, parameter in self.per_example.items():
            if parameter.diagonal is not None:
                parameter.diagonal.copy_(sums.tensors[f"diagonal/{name}"])
            if parameter.block is not None:
                parameter.block.copy_(sums.tensors[f"block/{name}"])
        self._scalars = {key: (tokens, sums.fourth_moments[key]) for key, tokens in sums.tokens.items()}
        self._example_ids = list(sums.example_ids)


def collect(
    model: nn.Module, batches: Iterable[Batch], settings: CollectionSettings, names: Mapping[str, str] | None = None
) -> tuple[CollectionPlan, Sums]:
    """Plan and run a whole collection in memory.

    Args:
        model: The model; it leaves as it came.
        batches: Run once for each partition of the plan.
        settings: What to measure.
        names: Parameter name in the model → name in the checkpoint (None: the same).

    Returns:
        The plan and the sums of all partitions.

    Raises:
        WorkFailed: There are no batches.
    """
    listed: Sequence[Batch] = batches if isinstance(batches, Sequence) else list(batches)
    if len(listed) == 0:
        raise WorkFailed("no batches: curvature needs at least one example")
    with unfused_experts(model, names) as known:
        plan = plan_collection(model, listed[0], settings, known)
        total = Sums()
        for partition in range(len(plan.partitions)):
            with Collector(model, plan, partition) as collector:
                for batch in listed:
                    collector.add(batch)
                join_partition_(total, collector.sums())
    return plan, total


def join_partition_(total: Sums, part: Sums) -> None:
    """Put the sums of one more partition, over the same examples, beside those in `total`."""
    total.tensors |= part.tensors
    total.tokens |= part.tokens
    total.fourth_moments |= part.fourth_moments
    total.example_ids = part.example_ids


def entry_device(model: nn.Module) -> torch.device:
    """Where a batch enters the model: where its hooks of accelerate compute, else where its first parameter lies."""
    hook = getattr(model, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.device(device)
    return next(model.parameters()).device


def _finite(value: float) -> bool:
    return value - value == 0.0


def _described(key: str) -> str:
    """What a scalar's key says about where a value went wrong."""
    kind, _, name = key.partition(":")
    if kind == "site":
        return f"site {name}: activations are"
    if kind == "layer":
        return f"layer {name}: gradients at its output are"
    return f"{name} is"


def _listed(example_ids: Sequence[str], shown: int = 8) -> str:
    """Example ids for a message."""
    more = f" and {len(example_ids) - shown} more" if len(example_ids) > shown else ""
    return f"examples {', '.join(example_ids[:shown])}{more}"
