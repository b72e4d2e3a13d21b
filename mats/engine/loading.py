"""One group of systems brought into memory: the weights of all models for these layers alone, and their curvature."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mats.engine.balance import Balance
from mats.engine.coverage import StoreIndex, Term
from mats.engine.inputs import MergeInputs
from mats.engine.layout import to_canonical
from mats.engine.plan import Group, System
from mats.engine.streaming import base_tensor
from mats.engine.vocabulary_statistics import over_tokens, rearranged
from mats.errors import ShapeMismatch
from mats.methods.elementwise import ElementwiseMerge
from mats.methods.grams import GramSums, block_matrix, fisher_diagonal, kronecker_factors, leading_block
from mats.quadratics import (
    DiagonalQuadratic,
    IdentityQuadratic,
    KroneckerQuadratic,
    PerModelQuadratic,
    Quadratic,
    SumQuadratic,
    empty_left_factors,
    empty_right_factors,
)


@dataclass
class GroupProblem:
    """What `solve_quadratic` needs for a group: targets [m, L, out, in], start [L, out, in] and ΣC."""

    targets: Tensor
    start: Tensor
    quadratic: Quadratic


class GroupLoader:
    """Loads groups of one merge.

    Args:
        inputs: the open checkpoints.
        stores: the manifests, in the order of the models; empty where no group reads statistics.
        start_of: a settings' prepared start merge.
        device: where the problem is built.
        balance: by what each model's curvature is multiplied; nothing where it is left out.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        stores: Sequence[StoreIndex],
        start_of: Callable[[System], ElementwiseMerge],
        device: torch.device,
        balance: Balance | None = None,
    ) -> None:
        self.inputs = inputs
        self.stores = stores
        self.start_of = start_of
        self.device = device
        self.balance = balance or Balance()
        self.weights = [model.weight for model in inputs.request.models]

    def on(self, device: torch.device) -> GroupLoader:
        """The same, for another device."""
        other = copy.copy(self)
        other.device = device
        return other

    def prepare(self, groups: Sequence[Group]) -> None:
        """Settle what the starts of these groups need of the whole, so that reading them later tells no progress."""
        for system in {group.systems[0].settings.init: group.systems[0] for group in groups}.values():
            self.start_of(system)

    def load(self, group: Group) -> GroupProblem:
        """Read everything the group needs.

        To a GPU it travels through pinned memory, in the current stream, without waiting for it.

        Raises:
            NonFiniteWeights, CheckpointCorrupt, StoreCorrupt: from the files.
            ShapeMismatch: a statistic does not fit its weight.
        """
        dtype = self.dtype_of(group)
        targets = self._read_targets(group, dtype)
        start = self._staging(targets.shape[1:], dtype)
        for position, system in enumerate(group.systems):
            start[position] = self._start(system, targets[:, position])
        return GroupProblem(self._sent(targets), self._sent(start), self.quadratic(group, dtype))

    @staticmethod
    def dtype_of(group: Group) -> torch.dtype:
        """In which numbers a group is held."""
        return torch.float64 if group.systems[0].settings.solver.precision == "float64" else torch.float32

    def targets(self, group: Group, dtype: torch.dtype) -> Tensor:
        """The models' own weights W_i, [m, L, out, in]."""
        return self._sent(self._read_targets(group, dtype))

    def _read_targets(self, group: Group, dtype: torch.dtype) -> Tensor:
        targets = self._staging((len(self.weights), len(group.systems), *group.systems[0].shape), dtype)
        for index in range(len(self.weights)):
            self._stack(targets[index], group, partial(self.inputs.read, index))
        return targets

    def _staging(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Host memory for what is read; pinned where it is to travel to a GPU."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self.device.type == "cuda")

    def _sent(self, staged: Tensor) -> Tensor:
        return staged.to(self.device, non_blocking=True)

    def _put(self, place: Tensor, content: Tensor) -> None:
        """Copy into its place on the device."""
        if place.device.type == "cuda":  # a copy that also converts would leave pinned memory
            content = content.to(place.dtype).contiguous().pin_memory()
        place.copy_(content, non_blocking=True)

    def stacked(self, group: Group, dtype: torch.dtype, read: Callable[[str], Tensor]) -> Tensor:
        """The weights of one checkpoint for a group, [L, out, in]; `read` finds a tensor by its name in the output."""
        matrices = self._staging((len(group.systems), *group.systems[0].shape), dtype)
        self._stack(matrices, group, read)
        return self._sent(matrices)

    def _stack(self, matrices: Tensor, group: Group, read: Callable[[str], Tensor]) -> None:
        for position, system in enumerate(group.systems):
            bias = None if system.bias is None else read(system.bias)
            matrices[position] = to_canonical(read(system.weight), system.layout, bias)

    def _start(self, system: System, targets: Tensor) -> Tensor:
        """x0 from the targets already read; each is handed to the start's merge as a copy that it may overwrite."""
        merge = self.start_of(system)
        parts = []
        for place, name in enumerate(system.names):
            base = base_tensor(self.inputs, system.settings.init, name)
            wanted = system.settings.init.models_read(self.inputs.model_names, self.weights)
            copies = (self._stored_form(system, targets[index], place).to("cpu", copy=True) for index in wanted)
            parts.append(merge.merge(name, base, copies))
        return to_canonical(parts[0], system.layout, parts[1] if len(parts) > 1 else None)

    def _stored_form(self, system: System, matrix: Tensor, place: int) -> Tensor:
        return system.stored(matrix, lambda name: self.inputs.infos[name].shape)[system.names[place]]

    def quadratic(self, group: Group, dtype: torch.dtype) -> Quadratic:
        """The curvatures C_i of a group and the models' weights λ_i, balanced where the settings say so."""
        if not group.on_disk:
            return self._of_models(group, dtype, range(len(self.weights)))
        return PerModelQuadratic(lambda index: self._of_models(group, dtype, [index]), self._weights_of(group))

    def _of_models(self, group: Group, dtype: torch.dtype, models: Sequence[int]) -> Quadratic:
        """The same of some of the models."""
        first = group.systems[0]
        if first.rule == "identity":
            shape = (len(group.systems), *first.shape)
            return IdentityQuadratic(self._weights_of(group, models), shape, device=self.device, dtype=dtype)
        if first.rule == "diagonal":
            return self._diagonal(group, dtype, models)
        if first.rule == "block":
            return self._block(group, dtype, models)
        terms = [self._term(group, number, dtype, models) for number in range(len(first.terms))]
        return terms[0] if len(terms) == 1 else SumQuadratic(terms)

    def _weights_of(self, group: Group, models: Sequence[int] | None = None) -> list[float]:
        weights = self.balance.weights(group.systems[0], self.weights)
        return weights if models is None else [weights[index] for index in models]

    def _parameter_sum(self, statistic: str, name: str, index: int) -> Tensor:
        store = self.stores[index]
        total = store.store.sum(f"{statistic}/{store.parameters.get(name, name)}")
        own = self.inputs.token_rows(index, name)
        if own is None:
            return total
        if statistic == "block":
            return rearranged(total, own, axes=(0, 1))
        width = self.inputs.infos[name].numel // len(own)
        return rearranged(total.reshape(-1, width), own, axes=(0,))

    def _diagonal(self, group: Group, dtype: torch.dtype, models: Sequence[int]) -> Quadratic:
        shape = (len(models), len(group.systems), *group.systems[0].shape)
        stack = torch.empty(shape, dtype=dtype, device=self.device)
        for position, system in enumerate(group.systems):
            for place, index in enumerate(models):
                store, total = self.stores[index], self._parameter_sum("diagonal", system.weight, index)
                self._check_numel(f"diagonal/{system.weight}", store, total.numel(), system)
                diagonal = fisher_diagonal(total, store.store.examples, system.settings)
                self._put(stack[place, position], diagonal.reshape(system.shape))
        return DiagonalQuadratic(stack, self._weights_of(group, models))

    def _block(self, group: Group, dtype: torch.dtype, models: Sequence[int]) -> Quadratic:
        size = group.systems[0].shape[1]
        systems = len(group.systems)
        stack = empty_right_factors(len(models), systems, size, dtype=dtype, device=self.device)
        for position, system in enumerate(group.systems):
            for place, index in enumerate(models):
                store, total = self.stores[index], self._parameter_sum("block", system.weight, index)
                self._check_numel(f"block/{system.weight}", store, total.shape[-1], system)
                self._put(stack[place, position], block_matrix(total, store.store.examples, system.settings))
        return KroneckerQuadratic(None, stack, self._weights_of(group, models), shape=(systems, 1, size))

    def _check_numel(self, key: str, store: StoreIndex, received: int, system: System) -> None:
        expected = system.shape[0] * system.shape[1]
        if received != expected:
            raise ShapeMismatch(f"{store.model}: {key} covers {received} numbers, the parameter has {expected}")

    def _term(self, group: Group, number: int, dtype: torch.dtype, models: Sequence[int]) -> Quadratic:
        """The group's quadratic of one layer per system; a tied weight adds several of these."""
        first = group.systems[0]
        term = first.terms[number]
        swapped = first.swaps(term)
        systems = len(group.systems)
        outs, ins = first.sides_of(term)
        right = self._empty_right(len(models), systems, ins, term.counts, swapped, dtype)
        left = self._empty_left(len(models), systems, outs, swapped, dtype) if term.output else None
        for position, system in enumerate(group.systems):
            for place, index in enumerate(models):
                right_factor, left_factor = self._factors(system, system.terms[number], index, (outs, ins))
                self._put(right[place, position], right_factor)
                if left is not None and left_factor is not None:
                    self._put(left[place, position], left_factor)
        if swapped:
            left, right = right, left  # type: ignore[assignment]
        return KroneckerQuadratic(left, right, self._weights_of(group, models), shape=(systems, *first.shape))

    def _empty_right(
        self, models: int, systems: int, size: int, diagonal: bool, swapped: bool, dtype: torch.dtype
    ) -> Tensor:
        if diagonal:
            return torch.empty(models, systems, size, dtype=dtype, device=self.device)
        make = empty_left_factors if swapped else empty_right_factors
        return make(models, systems, size, dtype=dtype, device=self.device)

    def _empty_left(self, models: int, systems: int, size: int, swapped: bool, dtype: torch.dtype) -> Tensor:
        make = empty_right_factors if swapped else empty_left_factors
        return make(models, systems, size, dtype=dtype, device=self.device)

    def _factors(self, system: System, term: Term, index: int, sizes: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Read one model's factors of one layer, input side first."""
        store = self.stores[index]
        site = store.site_of[term.layer]
        inputs = leading_block(self._gram(store, "input_gram", "site", site), sizes[1])
        outputs = self._gram(store, "output_gram", "layer", term.layer) if term.output else None
        own = self.inputs.token_rows(index, system.weight)
        if own is not None:
            inputs, outputs = over_tokens(inputs, outputs, own, lookup=term.counts)
        self._check_gram(store, f"input_gram/{site}", inputs.total, sizes[1])
        if outputs is not None:
            self._check_gram(store, f"output_gram/{term.layer}", outputs.total, sizes[0])
        return kronecker_factors(inputs, outputs, store.store.examples, system.settings)

    def _gram(self, store: StoreIndex, statistic: str, kind: Literal["site", "layer"], name: str) -> GramSums:
        return GramSums(
            store.store.sum(f"{statistic}/{name}"),
            store.store.tokens(kind, name),
            store.store.manifest.fourth_moments.get(f"{kind}:{name}"),
        )

    def _check_gram(self, store: StoreIndex, key: str, total: Tensor, size: int) -> None:
        if total.shape[-1] != size:
            raise ShapeMismatch(
                f"{store.model}: {key} has size {total.shape[-1]}, the weight needs {size}; was the store measured on "
                "another architecture?"
            )
