"""What every method's settings have in common: frozen, strict, and registered under the word users write.

A method is added by writing one file that subclasses `MethodSettingsBase` with a `method: Literal["name"] = "name"`
field, and by naming the class in the union of `mats.methods.start`, or of `mats.methods.registry` if it reads metadata.
"""

from __future__ import annotations

import math
import typing
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mats.methods.elementwise import ElementwiseMerge

AllowedWeights: TypeAlias = Literal["any", "not_zero", "positive", "one"]
"""Which weights a method takes: every finite number, all but 0 (which would leave a model out), those above 0, or none
but 1, where weights do not count."""

_REGISTERED: dict[str, type[MethodSettingsBase]] = {}


class MethodSettingsBase(BaseModel):
    """Settings of one merge method. Subclasses with a `method: Literal[...]` field register under that word."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs_base: ClassVar[bool] = True
    """Whether the method cannot work without a base model."""
    allowed_weights: ClassVar[AllowedWeights] = "not_zero"
    """Which models' weights the method takes; with metadata read, they must be above 0 in any case."""
    models_taken: ClassVar[tuple[int, int | None]] = (0, None)
    """How many models the method takes, at least and at most; None: any number."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """The statistics of the metadata store that the method can use; empty for data-free methods."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass; two classes under one word are a fault of the program, found at import."""
        super().__pydantic_init_subclass__(**kwargs)
        field = cls.model_fields.get("method")
        if field is None or typing.get_origin(field.annotation) is not typing.Literal:
            return  # an intermediate base class
        (word,) = typing.get_args(field.annotation)
        known = _REGISTERED.setdefault(word, cls)
        if known.__qualname__ != cls.__qualname__:
            raise TypeError(
                f"method {word!r} is registered by {known.__qualname__} already; {cls.__qualname__} needs another name"
            )

    @property
    def reads_metadata(self) -> bool:
        """Whether these settings need the metadata of every model."""
        return False

    def weight_fault(self, weight: float) -> str | None:
        """What would be right instead of a model's `weight`; None where the method takes it.

        >>> from mats.methods import AverageSettings
        >>> AverageSettings().weight_fault(0.0)
        'a number other than 0 would be right; leave the model out if it should not count'
        """
        if not math.isfinite(weight):
            return "a finite number would be right"
        if weight <= 0 and (self.reads_metadata or self.allowed_weights == "positive"):
            return "a number in (0, ∞) would be right where a quadratic is minimised"
        if weight != 1 and self.allowed_weights == "one":
            return f"method {self.name} has no weights; leave it out"
        if weight == 0 and self.allowed_weights == "not_zero":
            return "a number other than 0 would be right; leave the model out if it should not count"
        return None

    def models_fault(self, model_names: Sequence[str]) -> str | None:
        """What is wrong with merging models of these names; None where nothing is."""
        return self.count_fault(len(model_names))

    def count_fault(self, given: int) -> str | None:
        """What is wrong with so many models; None where `models_taken` allows them.

        >>> from mats.methods.slerp import SlerpSettings
        >>> SlerpSettings().count_fault(3)
        'method slerp: 3 models given; two would be right'
        """
        least, most = self.models_taken
        if given >= least and (most is None or given <= most):
            return None
        wanted = {1: "one", 2: "two"}.get(least, str(least))
        return (
            f"method {self.name}: {given} models given; {'' if most == least else 'at least '}{wanted} would be right"
        )

    def notes(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[str, ...]:  # noqa: ARG002
        """What the plan and the report say about these settings, a sentence each."""
        return ()

    @property
    def name(self) -> str:
        """The word users write: `average`, `ties`, …"""
        return str(self.method)  # type: ignore[attr-defined]


class ElementwiseSettings(MethodSettingsBase):
    """Settings of a method that works entry by entry and streams tensor by tensor, model by model, without data."""

    def copies_held(self, name: str, shape: Sequence[int]) -> int:  # noqa: ARG002
        """Upper estimate of what merging one tensor holds at once, in fp32 copies of it, all models together.

        Usually an accumulator, one model's tensor, the base and the cast result.
        """
        return 5

    def reads_base(self, model_names: Sequence[str]) -> bool:  # noqa: ARG002
        """Whether the base's tensors are wanted for merging models of these names."""
        return self.needs_base

    def models_read(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[int, ...]:  # noqa: ARG002
        """Indices of the models whose tensors the merge wants, in the order in which it wants them; usually all."""
        return tuple(range(len(model_names)))

    def build_for(self, model_names: Sequence[str], model_weights: Sequence[float]) -> ElementwiseMerge:  # noqa: ARG002
        """The merge of the models that `models_read` lists, in its order."""
        return self.build(model_weights)

    @property
    def copies_per_model(self) -> int:
        """The same for each model, beside what `copies_held` says: above 0 where one tensor of all models is held."""
        return 0

    @property
    def runs_anywhere(self) -> bool:
        """Whether the merge computes on the device on which its tensors lie; others are given tensors on the CPU."""
        return False

    @property
    def extra_checkpoints(self) -> tuple[str, ...]:
        """Checkpoints that the method reads beside the models: a multitask model that knows the signs (TIES)."""
        return ()

    @abstractmethod
    def build(self, model_weights: Sequence[float]) -> ElementwiseMerge:
        """The merge with these settings for models of these weights, in the order in which models will be given."""


def vanishes(weights: Sequence[float]) -> bool:
    """Whether weights sum to 0, up to the rounding of their sum, so that nothing can be divided by it."""
    return not abs(sum(weights)) > 1e-12 * sum(abs(weight) for weight in weights)


def registered_settings() -> dict[str, type[MethodSettingsBase]]:
    """Every settings class by its word, in the order of registration."""
    return dict(_REGISTERED)
