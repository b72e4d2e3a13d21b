"""Where an adapter's modules lie in a base's files: names, the orientation of weights, and ties that it breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.companions import HEADS
from mats.checkpoints.lora_skeleton import Skeleton, skeleton_of
from mats.errors import InputsMismatch

Orientation = Literal["out_in", "in_out"]
TRANSPOSED_LAYERS = frozenset({"c_attn", "c_fc", "c_proj", "q_attn"})
TRANSPOSED_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp_decoder"})
"""Model types whose layers of these names are transformers' Conv1D: weight [in, out]. Needed for square weights alone;
any other shows its orientation by its shape."""


@dataclass
class Places:
    """A base under the names that an adapter's modules have.

    Attributes:
        base: the base.
        prefix: first part that the adapter's names have and the base's lack (`transformer.`; a body saved alone).
        untied: name that the base does not store → the stored name, under `prefix`, that it is tied to there, and
            that the adapter makes differ.
    """

    base: Checkpoint
    prefix: str = ""
    untied: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Checkpoint, modules: Collection[str]) -> Places:
        """Under the first part of the modules' names with which the base has most of their weights."""
        firsts = dict.fromkeys(f"{module.partition('.')[0]}." for module in modules if "." in module)

        def count(prefix: str) -> int:
            inside = (module.removeprefix(prefix) for module in modules if module.startswith(prefix))
            return sum(f"{module}.weight" in base.tensors for module in inside)

        best = max(("", *firsts), key=count)
        return cls(base, best)

    def names(self) -> dict[str, str]:
        """Name under the prefix → name in the base, for all of the base."""
        return {self.prefix + name: name for name in self.base.tensors}

    @cached_property
    def skeleton(self) -> Skeleton:
        """Of the base's class; under the names of its files."""
        return skeleton_of(self.base.config)

    def stored(self, name: str) -> str | None:
        """What the base calls the tensor `name` of an adapter's model; None where it stores no such tensor.

        Besides the prefix, a first part that the base has and the adapter lacks (an adapter on a bare body), and the
        names that transformers gives parameters on loading are seen through.
        """
        renamed = self.skeleton.stored.get(name, name) if name not in self._known else name
        return self._known.get(renamed)

    @cached_property
    def _known(self) -> Mapping[str, str]:
        bare = [name.partition(".")[2] for name in self.base.tensors]
        counts = Counter(bare)
        once = {name: full for name, full in zip(bare, self.base.tensors, strict=True) if counts[name] == 1}
        return {**once, **self.names()}

    def weight(self, module: str, who: str) -> str:
        """The base's weight of a module; noted in `untied` where it is stored only under the name of its twin.

        Raises:
            InputsMismatch: there is no such module.
        """
        name = f"{module}.weight"
        found = self.stored(name)
        if found is None:
            twin = self.twin(name)
            found = None if twin is None else twin.removeprefix(self.prefix)
        if found is None:
            nearest = get_close_matches(name, self.names(), n=1)
            hint = f"; nearest: {nearest[0]}" if nearest else ""
            raise InputsMismatch(f"{who}: adapts {module}, which the base {self.base.name} does not have{hint}")
        return found

    def shown(self, name: str) -> str:
        """Under which name the adapted checkpoint shows the base's tensor that an adapter calls `name`."""
        found = self.stored(name)
        return name if found is None else self.prefix + found

    def twin(self, name: str) -> str | None:
        """The stored tensor that the class ties `name` to; `name` itself is stored nowhere. Noted in `untied`."""
        for other in self.skeleton.twins(name):
            found = self.stored(other)
            if found is not None:
                self.untied[name] = self.prefix + found
                return self.untied[name]
        return None

    def keep_twins(self, name: str, who: str, *, embedding: bool) -> None:
        """Note as untied what the base's class ties to the stored tensor `name`, and that its files do not store.

        An output head is kept as it was. Several embeddings that are one (T5's `shared`) cannot be told apart.

        Args:
            name: of a tensor that an adapter changes, and it alone.
            who: the adapter, for messages.
            embedding: whether it is an embedding, not an output head.

        Raises:
            InputsMismatch: an embedding that is shared by others, or by a class unknown here perhaps is.
        """
        may_tie = (self.base.config or {}).get("tie_word_embeddings") is not False
        if not self.skeleton.known and may_tie and not any(self.stored(head) for head in HEADS):
            raise InputsMismatch(
                f"{who}: adapts {name}, and whether the base {self.base.name} ties an output head to it cannot be told:"
                " its config.json names no class of transformers; tie_word_embeddings: false there says no"
            )
        twins = self.skeleton.twins(name)
        if not embedding and any(self.stored(other) for other in twins):
            return  # an embedding is stored too, and names that are not follow it
        for other in twins:
            if self.stored(other) is not None:
                continue
            if embedding and other not in HEADS:
                raise InputsMismatch(
                    f"{who}: adapts {name} alone, which the base {self.base.name} shares with {other}; an adapter on "
                    "the layers between, or a base that stores its embeddings apart, would be right"
                )
            self.untied.setdefault(other, self.shown(name))


def orientation(
    base: Checkpoint, module: str, weight: tuple[int, ...], expected: tuple[int, int], flag: bool
) -> Orientation:
    """How a module's weight is stored: [out, in] as `expected`, or [in, out] as Conv1D does.

    The shape decides; for a square one the model's family and the layer's name do, and where the family is unknown
    the adapter's own `fan_in_fan_out`. (PEFT corrects that flag by the layer's type on loading, and one flag stands for
    all modules, so it proves little.)

    Raises:
        InputsMismatch: neither fits.
    """
    out, inside = expected
    if tuple(weight) not in ((out, inside), (inside, out)):
        raise InputsMismatch(
            f"{base.name}: weight of {module} has shape {list(weight)}, its adapter is made for [{out}, {inside}]"
        )
    if out != inside:
        return "out_in" if tuple(weight) == (out, inside) else "in_out"
    family = (base.config or {}).get("model_type")
    if family is None or (base.config or {}).get("auto_map"):
        return "in_out" if flag else "out_in"
    transposed = family in TRANSPOSED_FAMILIES and module.rpartition(".")[2] in TRANSPOSED_LAYERS
    return "in_out" if transposed else "out_in"
