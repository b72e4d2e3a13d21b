"""Merges of dense weights whose output is a LoRA adapter: each merged weight, less the base's, cut to a rank.

For everything that is no linear combination of updates: TIES, RegMean, K-FAC … of adapters laid onto their base, DoRA,
sparsified updates. Only what some adapter changes is merged; one weight at a time becomes two factors and is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from mats.checkpoints import Checkpoint, CheckpointWriter
from mats.checkpoints.legacy import PEFT_PREFIX
from mats.checkpoints.lora import factors
from mats.checkpoints.lora_places import Places, orientation
from mats.checkpoints.lora_writing import ONE_FILE, saved_name
from mats.engine.adapter_inputs import AdapterInputs
from mats.engine.adapter_metric import LayerMetrics
from mats.engine.adapter_plan import AdapterPlan, ModulePlan, plan_cuts
from mats.engine.adapter_sums import padded, truncation_entry
from mats.engine.adapter_writing import write_adapter_configuration
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.plan import MergePlan, store_indexes
from mats.engine.snapshots import iterations_of
from mats.engine.threads import one_thread
from mats.errors import InputsMismatch, RequestError
from mats.methods.low_rank import truncated

Entry = dict[str, Any]
COPIES = 4  # of a weight and its Grams, held while it is cut
DOUBLE = 8


class AdapterOutput:
    """How the dense tensors of a merge become an adapter; use as a context manager.

    Args:
        inputs: the merge's, in which adapters are laid onto the base and only what they change is shown.
        plan: the merge's.

    Attributes:
        plan: the adapter's modules and tensors.
        targets: tensor of the merge → the module whose weight or bias of B it decides.

    Raises:
        InputsMismatch: a module that the base stores under no name of its own.
        RequestError: settings that make no sense here, or a head that no choice is made for.
    """

    def __init__(self, inputs: MergeInputs, plan: MergePlan) -> None:
        settings = inputs.request.adapters
        if iterations_of(plan):
            raise RequestError("solver.snapshots: an adapter has none; adapters: output: dense keeps them")
        assert settings is not None, "the request asks for an adapter"
        assert inputs.given_base is not None, "adapters are laid onto a base"
        self.settings = settings
        self.base: Checkpoint = inputs.given_base
        self._merge = inputs
        self._exit = ExitStack()
        self.adapters = self._exit.enter_context(AdapterInputs(inputs.request))
        try:
            self.plan: AdapterPlan = plan_cuts(self.adapters, settings, self._shown)
            self.targets = self._targets()
            self.metrics = LayerMetrics(*self._stores(inputs), settings.damping)
        except BaseException:
            self._exit.close()
            raise

    @cached_property
    def _shown(self) -> dict[str, str]:
        """What an adapter calls a weight or a saved tensor → tensor of the merge, where it is one."""
        places = Places.of(self.base, self.adapters.modules)
        names = [f"{name}.{leaf}" for name in self.adapters.modules for leaf in ("weight", "bias")]
        names += [name for adapter in self.adapters.adapters for name in adapter.other]
        found = {}
        for name in dict.fromkeys(names):
            stored = places.stored(name)
            shown = next((each for each in (stored, f"{places.prefix}{stored}") if each in self._merge.infos), None)
            if stored is not None and shown is not None:
                found[name] = shown
        return found

    def _targets(self) -> dict[str, tuple[ModulePlan, Literal["weight", "bias"]]]:
        shown = self._shown
        targets: dict[str, tuple[ModulePlan, Literal["weight", "bias"]]] = {}
        for part in self.plan.modules:
            if f"{part.name}.weight" not in shown:
                raise InputsMismatch(
                    f"{part.weight}: the base {self.base.name} ties it to another tensor and stores it under no name "
                    "of its own; adapters: output: dense keeps both"
                )
            targets[shown[f"{part.name}.weight"]] = (part, "weight")
            if self.plan.skeleton[part.name].bias is not None:
                targets[shown[f"{part.name}.bias"]] = (part, "bias")
        return targets

    def _stores(self, inputs: MergeInputs) -> tuple[Sequence[Any], list[float]]:
        metric = self.settings.metric
        if metric == "frobenius" or (metric == "auto" and not inputs.opened_stores):
            return (), []
        return store_indexes(inputs), [abs(model.weight) for model in inputs.request.models]

    @cached_property
    def whole(self) -> dict[str, str]:
        """Tensor of the merge that is stored whole → what the adapter's file calls it."""
        shown = {dense: name for name, dense in self._shown.items()}
        kept = [name for name in self._merge.infos if name not in self.targets]
        return {name: saved_name(shown.get(name, name), self.plan.skeleton) for name in kept}

    def sized(self, plan: MergePlan) -> MergePlan:
        """The merge's plan with the bytes that are really written, and with the memory that cutting a weight takes."""
        largest = max((rows * columns + rows**2 + columns**2 for rows, columns in self._sizes), default=0)
        written = sum(info.nbytes for info in self.plan.tensors)
        return replace(plan, output_bytes=written, peak_bytes=max(plan.peak_bytes, COPIES * DOUBLE * largest))

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return [part.shape for part in self.plan.modules]

    def write_configuration(self, folder: Path) -> None:
        """`adapter_config.json`, tokenizer and licences of the first adapter."""
        write_adapter_configuration(self.adapters, self.plan, folder)

    def told(self) -> dict[str, Any]:
        """What report.json says beside the merge itself."""
        return {"adapters": self.settings.model_dump(mode="json") | {"combine": "svd"}}

    def close(self) -> None:
        """Close the adapters' files."""
        self._exit.close()

    def __enter__(self) -> AdapterOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sized_plan(inputs: MergeInputs, plan: MergePlan) -> MergePlan:
    """A merge's plan with the bytes that its adapter will take; raises as `AdapterOutput`."""
    with AdapterOutput(inputs, plan) as output:
        return output.sized(plan)


class LowRankWriter(CheckpointWriter):
    """A writer that takes dense merged tensors by their names and keeps the factors of their change.

    To its callers everything has dense names; in the file are factors, and whole tensors as PEFT names them.
    """

    def __init__(self, output: AdapterOutput, inputs: MergeInputs, identity: str, part: int = 0) -> None:
        request = inputs.request
        self._adapter, self._inputs = output, inputs
        self._device = resolve_device(request.device)
        super().__init__(
            request.output,
            output.plan.tensors,
            identity=identity,
            max_shard_bytes=ONE_FILE,
            overwrite=request.overwrite,
            weights_name="adapter_model",
            part=part,
        )

    @property
    def done(self) -> Set[str]:
        """Dense names of what is finished."""
        return _DoneByDenseNames(self)

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes by dense names; those of heads by the names in the file."""
        dense = {name: self._notes[self._files(name)[-1]] for name in self.done if self._files(name)[-1] in self._notes}
        own = {self._files(name)[-1] for name in dense}
        return MappingProxyType({**{name: note for name, note in self._notes.items() if name not in own}, **dense})

    def write(self, name: str, tensor: Tensor, *, note: Any = None) -> None:
        """Write what a dense tensor becomes; a report entry gets what the truncation lost."""
        target = self._adapter.targets.get(name)
        if target is None:
            self.write_as(self._adapter.whole[name], tensor, note)
            return
        part, leaf = target
        change = tensor.detach().double().to(self._device) - self._inputs.read_base(name).to(self._device).double()
        if leaf == "bias":
            self.write_as(self._files(name)[0], change, note)
            return
        update, entry = self._cut(name, part, change)
        down, up = self._files(name)
        blank = self._adapter.plan.skeleton[part.name]
        self.write_as(down, update[0].reshape(blank.down.shape), None)
        self.write_as(up, update[1].reshape(blank.up.shape), {**(note or {"name": name}), **entry})

    @property
    def dense_names(self) -> Set[str]:
        """The names of everything that is merged."""
        return self._inputs.infos.keys()

    def is_done(self, name: str) -> bool:
        """Whether everything that a dense tensor becomes is finished."""
        return name in self._inputs.infos and all(each in self._finished for each in self._files(name))

    def rewrite(self, name: str, tensor: Tensor, *, note: Any = None) -> None:
        """Replace what was written for a dense tensor."""
        self.write(name, tensor, note=note)

    def write_heads(self) -> None:
        """What the base does not have comes from the adapters as `heads` says."""
        for part in self._adapter.plan.saved:
            if part.parts:
                entry = {"name": part.name, "rule": "head", "shape": list(part.placeholder.shape)}
                self.write_as(saved_name(part.name, self._adapter.plan.skeleton), part.merged(None), entry)

    def write_as(self, name: str, tensor: Tensor, note: Any) -> None:
        """Write, or write again, a tensor under its name in the file."""
        put = super().rewrite if name in self._finished else super().write
        put(name, tensor, note=note)

    def _cut(self, name: str, part: ModulePlan, change: Tensor) -> tuple[tuple[Tensor, Tensor], Entry]:
        blank = self._adapter.plan.skeleton[part.name]
        turned = blank.layer == "embedding"
        if blank.layer == "linear":
            shape = self._inputs.infos[name].shape
            turned = orientation(self._adapter.base, part.name, shape, part.shape, blank.fan_in_fan_out) == "in_out"
        matrix = change.T if turned else change.reshape(part.shape)
        metric, reason = self._adapter.metrics.of(name, part.shape)
        with one_thread():  # the same bytes whatever the thread that writes
            cut = truncated(matrix, part.rank, None if metric is None else metric.to(self._device))
        entry = {"rank": part.rank, **truncation_entry(cut.error, cut.metric_error, curvature=metric is not None)}
        if reason is not None:
            entry["fallback_reason"] = f"truncation by curvature: {reason}"
        update = padded(cut.update, part.rank)
        return (update.A, update.B), entry

    def _files(self, name: str) -> tuple[str, ...]:
        """The names in the file of what a dense tensor becomes."""
        target = self._adapter.targets.get(name)
        if target is None:
            return (self._adapter.whole[name],)
        part, leaf = target
        if leaf == "bias":
            return (f"{PEFT_PREFIX}{part.name}.lora_B.bias",)
        down, up = list(factors({part.name: self._adapter.plan.skeleton[part.name]}))[:2]
        return down[0], up[0]


class _DoneByDenseNames(Set[str]):
    """The dense names of what a writer has finished: a live view, in which one name costs no look at the others."""

    def __init__(self, writer: LowRankWriter) -> None:
        self._writer = writer

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._writer.is_done(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._writer.dense_names if self._writer.is_done(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)
