"""What a merge's plan is made of: tensors merged one by one, systems, and the groups in which systems are solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mats.engine.coverage import Term
from mats.engine.layout import Layout, from_canonical
from mats.methods.quadratic import Curvature, QuadraticSettings
from mats.methods.settings import ElementwiseSettings


@dataclass(frozen=True)
class Streamed:
    """A tensor merged entry by entry, or taken from the base (`settings` None).

    `rule` is the method's name, "init" (a quadratic method without curvature here), "base", "head" (one model's own) or
    "not_floating".
    """

    name: str
    rule: str
    settings: ElementwiseSettings | None
    reason: str | None = None


@dataclass(frozen=True)
class System:
    """One linear system: a weight, with its bias where that rides along, in canonical shape (out, in)."""

    weight: str
    bias: str | None
    layout: Layout
    shape: tuple[int, int]
    rule: Curvature
    terms: tuple[Term, ...]
    settings: QuadraticSettings
    reason: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the output that it decides."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def swaps(self, term: Term) -> bool:
        """Whether a layer sees this weight transposed, as the tied twin of an embedding does."""
        return (term.layout == "in_out") != (self.layout == "in_out")

    def sides_of(self, term: Term) -> tuple[int, int]:
        """(out, in) as that layer sees the weight."""
        return self.shape[::-1] if self.swaps(term) else self.shape

    def stored(self, matrix: Tensor, shape_of: Callable[[str], tuple[int, ...]]) -> dict[str, Tensor]:
        """Those tensors as files hold them, in the order of `names`, from X [out, in] with the bias as last column.

        Args:
            matrix: X.
            shape_of: shape of a tensor of the output, by its name.
        """
        weight, bias = from_canonical(matrix, shape_of(self.weight), self.layout, bias=self.bias is not None)
        found = {self.weight: weight}
        if self.bias is not None and bias is not None:
            found[self.bias] = bias.reshape(shape_of(self.bias))
        return found


@dataclass(frozen=True)
class Group:
    """Systems of one shape, curvature and settings, solved as one batch.

    Attributes:
        systems: at least one.
        bytes: what loading and solving them takes at most.
        loaded_bytes: what they take of that before their solve begins: targets, start, and factors.
        value_bytes: what their results take until they are written.
        work: floating-point operations of their solve, roughly: to share groups out, and to tell progress.
        on_disk: their factors stay on disk and are read model by model in every application.
        overlaps: while they are solved, the group before is written and the next one is read.
    """

    systems: tuple[System, ...]
    bytes: int
    loaded_bytes: int = 0
    value_bytes: int = 0
    work: float = 1.0
    on_disk: bool = False
    overlaps: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the output that it decides."""
        return tuple(name for system in self.systems for name in system.names)
