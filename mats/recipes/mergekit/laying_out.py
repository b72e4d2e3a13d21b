"""Which tensors an output has: the layers that the slices pick, and what stands before and after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mats.errors import InputsMismatch, RecipeError
from mats.recipes.mergekit.assigning import Part
from mats.recipes.mergekit.references import ModelReference
from mats.recipes.mergekit.schema import MergeFile, Module, Slice
from mats.recipes.mergekit.structure import Structure, comes_after, resized
from mats.yaml_reader import dotted


def whole_parts(file: MergeFile, structure: Structure) -> Iterator[Part]:
    """Every tensor of `models:`, by the names of the base, or of the first model."""
    module = file.modules[0]
    part = module.slices[0]
    everywhere = len(part.sources)
    for name in structure.outside:
        yield Part(name, module, part, 0.0, (name,) * everywhere)
    for stack, layers in structure.stacks.items():
        length = structure.length(stack)
        for number, layer in layers.items():
            for name in layer.values():
                yield Part(name, module, part, _position(number, length), (name,) * everywhere)


def _position(number: int, length: int) -> float:
    """t of a layer among `length`."""
    return 1.0 if length <= 1 else number / (length - 1)


class Layout:
    """The tensors of an output put together from slices.

    Args:
        file: the merge file.
        structures: of every model named in it.
        configs: of every model.

    Raises:
        RecipeError: a stack of layers that no module stands for, or a module without a stack.
    """

    def __init__(
        self,
        file: MergeFile,
        structures: Mapping[ModelReference, Structure],
        configs: Mapping[ModelReference, Mapping[str, Any]],
    ) -> None:
        self.file, self.structures, self.configs = file, structures, configs
        self.donor = file.base or file.modules[0].slices[0].sources[0].model
        stacks = list(structures[self.donor].stacks)
        self.stacks = {stack: self._module_for(stack, len(stacks)) for stack in stacks}
        for module in file.modules:
            if module not in self.stacks.values():
                raise self._fault(
                    f"modules.{module.name}: no layers are called so; one of {', '.join(stacks)} would be"
                )

    def _module_for(self, stack: str, count: int) -> Module:
        modules = self.file.modules
        if count == 1 and len(modules) == 1:
            return modules[0]
        if modules[0].name is None:
            raise self._fault(f"the models have {count} stacks of layers; modules:, with slices of each, would be")
        for module in modules:
            if module.name == stack or module.name in stack.split("."):
                return module
        raise self._fault(f"modules: the layers {stack} are in none; one called {stack.split('.')[0]} would be")

    def _fault(self, text: str) -> RecipeError:
        return RecipeError([f"{self.file.file.path}: {text} right"])

    def parts(self) -> Iterator[Part]:
        """Every tensor of the output."""
        first, last = self.file.modules[0], self.file.modules[-1]
        yield from self._outside(first, first.slices[0], after=False)
        yield from self._outside(last, last.slices[-1], after=True)
        for stack, module in self.stacks.items():
            number = 0
            for part in module.slices:
                length = self._slice_length(part, stack)
                for step in range(length):
                    yield from self._layer(stack, number + step, module, part, step, length)
                number += length

    def _slice_length(self, part: Slice, stack: str) -> int:
        return len(self._range(part, 0, stack)) if part.length is None else part.length

    def _range(self, part: Slice, index: int, stack: str) -> range:
        """The layers of a source."""
        source = part.sources[index]
        structure = self.structures[source.model]
        if stack not in structure.stacks:
            raise InputsMismatch(
                f"{dotted(source.at)}: {source.model} has no layers {stack}; its layers are "
                f"{', '.join(structure.stacks) or 'none'}"
            )
        available = structure.length(stack)
        if source.layers is None:
            return range(available)
        if source.layers[1] > available:
            raise InputsMismatch(
                f"{dotted(source.at)}: layer_range {list(source.layers)}: {source.model} has {available} layers {stack}"
            )
        return range(*source.layers)

    def _layer(self, stack: str, number: int, module: Module, part: Slice, step: int, length: int) -> Iterator[Part]:
        """The tensors of one layer of the output: all that any source has in its own layer."""
        layers = []
        for index, source in enumerate(part.sources):
            picked = self._range(part, index, stack)
            if step >= len(picked):
                raise InputsMismatch(
                    f"{dotted(source.at)}: {source.model} has {len(picked)} layers {stack}, the first source {length}"
                )
            layers.append(self.structures[source.model].stacks[stack].get(picked[step], {}))
        rests = dict.fromkeys(rest for layer in layers for rest in layer)
        for rest in rests:
            names = tuple(layer.get(rest) for layer in layers)
            yield Part(f"{stack}.{number}.{rest}", module, part, _position(step, length), names)

    def _outside(self, module: Module, part: Slice, *, after: bool) -> Iterator[Part]:
        """The tensors before the layers, from the first slice, or behind them, from the last.

        In a model of several stacks each stack's own (`encoder.final_layer_norm`) follow the slices of that stack.
        """
        owners = {stack.split(".")[0]: own for stack, own in self.stacks.items() if len(self.stacks) > 1}
        names = dict.fromkeys(name for source in self._sources() for name in self.structures[source].outside)
        for name in names:
            if comes_after(name) is not after:
                continue
            owner = owners.get(name.split(".")[0])
            here = (owner, owner.slices[-1 if after else 0]) if owner is not None else (module, part)
            have = [name in self._outside_of(source.model) for source in here[1].sources]
            if any(have):
                yield Part(name, *here, 0.0, tuple(name if has else None for has in have))

    def _sources(self) -> Sequence[ModelReference]:
        found = [source.model for module in self.file.modules for part in module.slices for source in part.sources]
        return list(dict.fromkeys([self.donor, *found]))

    def _outside_of(self, reference: ModelReference) -> frozenset[str]:
        if not hasattr(self, "_outside_names"):
            self._outside_names = {key: frozenset(each.outside) for key, each in self.structures.items()}
        return self._outside_names[reference]

    def config(self) -> dict[str, Any]:
        """What changes in the donor's config."""
        changes: dict[str, Any] = {}
        config = self.configs[self.donor]
        for stack, module in self.stacks.items():
            picked = [layer for part in module.slices for layer in self._range(part, 0, stack)]
            before = self.structures[self.donor].length(stack)
            changes |= resized({**config, **changes}, stack, picked, before)
        return changes
