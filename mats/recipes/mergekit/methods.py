"""The methods of merge files: what parameters each takes, and which settings of ours a tensor's values amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mats.methods.linear import LinearSettings
from mats.methods.model_stock import ModelStockSettings
from mats.methods.nuslerp import NuslerpSettings
from mats.methods.passthrough import PassthroughSettings
from mats.methods.sce import SceSettings
from mats.methods.settings import ElementwiseSettings
from mats.methods.slerp import SlerpSettings
from mats.methods.sparse_task_arithmetic import SparseTaskArithmeticSettings
from mats.recipes.mergekit.parameters import Parameter, Scalar

BaseRole = Literal["donor", "model", "required", "optional"]
Values = Mapping[str, Scalar]
PerModel = Mapping[str, tuple[Scalar, ...]]
Maker = Callable[[Values, PerModel, int, bool], ElementwiseSettings]
"""(values, values by model, seed, whether there is a base) → settings."""


@dataclass(frozen=True)
class Form:
    """A method of merge files.

    Attributes:
        parameters: by name.
        base: what the base model is: no part of the merge ("donor" of names and configuration), one of the models
            ("model"), what task vectors are taken against ("required", or "optional").
        models: how many models take part beside the base, at least and at most.
        make: settings of ours.
        random: its result depends on the seed.
    """

    parameters: Mapping[str, Parameter]
    base: BaseRole
    make: Maker
    models: tuple[int, int | None] = (1, None)
    random: bool = False


WEIGHT = Parameter(by_model=True)
SHARE = Parameter(by_model=True, default=1.0, lowest=0.0, highest=1.0)
IDLE = {"int8_mask": Parameter(kind=bool, default=False, idle=True)}
Sparsity = Literal["none", "magnitude", "random", "della", "breadcrumbs"]


def _flag(default: bool) -> Parameter:
    return Parameter(kind=bool, default=default)


def _task_vectors(sparsify: Sparsity, *, election: bool, normalize: bool, rescale: bool) -> Form:
    """One of the methods that sum thinned task vectors."""
    parameters = {
        "weight": WEIGHT,
        "density": Parameter(by_model=True, default=1.0, lowest=0.0, highest=1.0, idle=sparsify == "none"),
        "lambda": Parameter(default=1.0),
        "normalize": _flag(normalize),
        "rescale": Parameter(kind=bool, default=rescale, idle=sparsify == "none"),
        **IDLE,
    }
    if sparsify == "breadcrumbs":
        parameters["gamma"] = Parameter(by_model=True, default=0.01, lowest=0.0, highest=1.0)
    if sparsify == "della":
        parameters["epsilon"] = Parameter(by_model=True, default=0.15, lowest=0.0, highest=1.0)

    def make(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
        del has_base
        shares: dict[str, Any] = {key: by_model[key] for key in ("density", "gamma", "epsilon") if key in by_model}
        return SparseTaskArithmeticSettings(
            sparsify=sparsify,
            **({} if sparsify == "none" else shares),
            rescale="norm" if values.get("rescale") else "none",
            election=election,
            normalize=bool(values["normalize"]),
            scale=values["lambda"],
            seed=seed if sparsify in ("random", "della") else 0,
        )

    return Form(parameters, "required", make, random=sparsify in ("random", "della"))


def _linear(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del by_model, seed, has_base
    return LinearSettings(normalize=bool(values["normalize"]))


def _slerp(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del by_model, seed, has_base
    return SlerpSettings(t=values["t"])


def _nuslerp(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del by_model, seed
    along: Literal["tensor", "row", "column"] = (
        "tensor" if values["nuslerp_flatten"] else "column" if values["nuslerp_row_wise"] else "row"
    )
    return NuslerpSettings(along=along, task_vectors=has_base)


def _passthrough(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del values, seed, has_base
    return PassthroughSettings(scale=by_model["scale"][0])


def _model_stock(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del by_model, seed, has_base
    return ModelStockSettings(filter_wise=bool(values["filter_wise"]))


def _sce(values: Values, by_model: PerModel, seed: int, has_base: bool) -> ElementwiseSettings:
    del by_model, seed, has_base
    return SceSettings(select_topk=values["select_topk"])


FORMS: Mapping[str, Form] = {
    "linear": Form({"weight": WEIGHT, "normalize": _flag(True), **IDLE}, "model", _linear),
    "slerp": Form({"t": Parameter(), **IDLE}, "model", _slerp, (2, 2)),
    "nuslerp": Form(
        {"weight": WEIGHT, "nuslerp_flatten": _flag(True), "nuslerp_row_wise": _flag(False), **IDLE},
        "optional",
        _nuslerp,
        (2, 2),
    ),
    "passthrough": Form({"scale": Parameter(by_model=True, default=1.0), **IDLE}, "donor", _passthrough, (1, 1)),
    "task_arithmetic": _task_vectors("none", election=False, normalize=False, rescale=False),
    "ties": _task_vectors("magnitude", election=True, normalize=True, rescale=False),
    "dare_linear": _task_vectors("random", election=False, normalize=False, rescale=True),
    "dare_ties": _task_vectors("random", election=True, normalize=False, rescale=True),
    "della_linear": _task_vectors("della", election=False, normalize=False, rescale=True),
    "della": _task_vectors("della", election=True, normalize=True, rescale=True),
    "breadcrumbs": _task_vectors("breadcrumbs", election=False, normalize=False, rescale=False),
    "breadcrumbs_ties": _task_vectors("breadcrumbs", election=True, normalize=False, rescale=False),
    "model_stock": Form({"filter_wise": _flag(False), **IDLE}, "required", _model_stock, (2, None)),
    "sce": Form(
        {"select_topk": Parameter(default=1.0, lowest=0.0, highest=1.0, above_lowest=True), **IDLE}, "required", _sce
    ),
}
"""What each `merge_method` of mergekit means here, with mergekit's defaults."""

NOT_SUPPORTED: Sequence[str] = ("arcee_fusion", "karcher", "multislerp", "nearswap", "ram", "ramplus_tl")
"""Methods that mergekit has and this program has not."""
