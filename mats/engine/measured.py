"""The quadratics as they were measured: every parameter that the metadata cover as a system, nothing regularised.

Predictions and closed-form scales weigh weights by these, whatever method a merge uses: C_i is a mean over examples,
neither shrunk, damped nor floored, so that ½ ⟨W − W_i, C_i (W − W_i)⟩ is in nats per example where C_i is a Fisher
information (K-FAC, block, diagonal). An input Gram alone gives another number, the output error, and the two are never
added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.plan import MergePlan, make_plan, store_indexes
from mats.engine.request import MergeRequest
from mats.engine.streaming import ElementwisePool
from mats.errors import RequestError
from mats.methods.average import AverageSettings
from mats.methods.mats import MatsSettings
from mats.methods.quadratic import LOSS_RULES, Curvature
from mats.progress import Silent

Quantity = Literal["loss", "output_error"]

CURVATURES: dict[Quantity, tuple[Curvature, ...]] = {
    "loss": (*LOSS_RULES, "init"),
    "output_error": ("input_gram", "init"),
}
"""What each quantity is made of; what none of them covers is left out."""


@contextmanager
def measured(request: MergeRequest, quantity: Quantity | None) -> Iterator[tuple[MergeInputs, MergePlan, Quantity]]:
    """The open inputs, and the plan in which every parameter with the curvature of `quantity` is a system.

    Args:
        request: models with their metadata; its method and rules have no say.
        quantity: None: the loss, or the output error where the stores hold input Grams alone.

    Raises:
        RequestError: no parameter has such curvature in every store, or a model has no store.
        InputsMismatch, ShapeMismatch: models and stores do not fit together.
    """
    for chosen in ("loss", "output_error") if quantity is None else (quantity,):
        with MergeInputs(replace(request, method=as_measured(chosen), rules=())) as inputs:
            plan = make_plan(inputs)
            if plan.groups:
                yield inputs, plan, chosen
                return
    needed = {"loss": "output_gram with input_gram, block or diagonal", "output_error": "input_gram"}[chosen]
    raise RequestError(
        f"no parameter has the curvature of a {chosen.replace('_', ' ')} in the metadata of every model "
        f"({_first_reason(plan)}); measure {needed}"
    )


def as_measured(quantity: Quantity = "loss") -> MatsSettings:
    """Settings under which curvatures are read as they were measured."""
    return MatsSettings(
        init=AverageSettings(),
        fallback=CURVATURES[quantity],
        scaling="examples",
        shrinkage=None,
        off_diagonal=1.0,
        floor=0.0,
    )


def _first_reason(plan: MergePlan) -> str:
    return next((f"{name}: {reason}" for name, reason in plan.fallbacks.items()), "nothing was measured")


def measured_loader(inputs: MergeInputs, plan: MergePlan) -> GroupLoader:
    """Loads targets and curvatures of the plan's groups; no start is needed."""
    pool = ElementwisePool(inputs, plan, Silent())
    return GroupLoader(inputs, store_indexes(inputs), pool.for_start, resolve_device(inputs.request.device))
