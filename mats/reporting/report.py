"""What a merge tells about itself: the types of `report.json` and `run.json`.

`report.json` holds nothing that differs from run to run, so that the same merge gives the same bytes; times, memory and
versions are in `run.json`. The engine fills these structures, everything else in this room only reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from mats.errors import RequestError

SCHEMA_VERSION = 1


class ModelEntry(TypedDict):
    """One model that was merged."""

    name: str
    path: str
    weight: float
    fingerprint: NotRequired[str | None]
    metadata: NotRequired[str | None]  # the store used, None: data-free
    examples: NotRequired[int | None]  # how many examples the store was measured on
    position: NotRequired[float]  # where it was measured, from the base (0) to the model (1); none: at the model
    proxy: NotRequired[str]  # what the store is instead: a stand-in for curvature, made without data
    measured_on: NotRequired[str]  # the checkpoint measured, where that is not the model itself
    measured_fingerprint: NotRequired[str]  # its content


class ParameterCounts(TypedDict):
    """Numbers of scalar parameters."""

    total: int
    by_rule: dict[
        str, int
    ]  # "kfac", "input_gram", "block", "diagonal", a method's name, "init", "base", "not_floating"


class LayerEntry(TypedDict):
    """The certificate of one layer, or of a parameter solved alone; None where a quantity does not exist."""

    name: str  # the weight's name in the checkpoint
    rule: str
    shape: list[int]  # [out, in] as solved: conv unfolded, one more column for a bias solved along
    bias: NotRequired[str | None]  # the bias solved along with the weight
    iterations: NotRequired[int | None]
    relative_residual: NotRequired[float | None]  # recomputed, not the recurrence
    tolerance: NotRequired[float | None]  # the relative residual that was asked for
    converged: NotRequired[bool | None]
    stop_reason: NotRequired[str | None]
    anchor: NotRequired[float | None]  # μ
    movement: NotRequired[float | None]  # ‖Δ‖ / max_i ‖W_i − x0‖
    null_share: NotRequired[float | None]  # share of ‖Δ‖² in the numerical null space of ΣC
    pull_share: NotRequired[float | None]  # share of ⟨Δ, HΔ⟩ that is damping and anchor
    bound: NotRequired[str | None]  # what the bounds rest on: "proven", "retained", "estimated", "none"
    eigenvalue_bound: NotRequired[float | None]  # ν: no eigenvalue of H is smaller, 0 if none is known
    error_bound: NotRequired[float | None]  # of ‖Δ − Δ*‖
    energy_decrease: NotRequired[float | None]  # from the start to the solution
    energy_gap_bound: NotRequired[float | None]  # at most so much more could be gained
    remaining_share: NotRequired[float | None]  # the same as a share of all that can be gained over the start
    loss_before: NotRequired[dict[str, float] | None]  # each model's quadratic at x0, by model name
    loss_after: NotRequired[dict[str, float] | None]  # the same at the solution
    made_do: NotRequired[dict[str, Any]]  # batch, planned batch, device, on_disk: where memory ran out while solving
    rounding_loss: NotRequired[float | None]  # ‖round(W) − W‖ / ‖W − W_base‖; None without a base
    fallback_reason: NotRequired[str | None]  # why not the first rule of `fallback`
    rank: NotRequired[int]  # of a LoRA module
    truncation_error: NotRequired[float]  # ‖ΔW − B A‖ / ‖ΔW‖ of an update cut to that rank
    truncation_error_in_metric: NotRequired[float | None]  # the same, weighed by curvature
    metric: NotRequired[str]  # what the truncation kept closest: "frobenius" or "curvature"
    difference_from_sum: NotRequired[float | None]  # ‖B* A* − Σ κ_i ΔW_i‖ / ‖Σ κ_i ΔW_i‖ of a sum of factors
    cosine_with_sum: NotRequired[float | None]  # between the two


HeadsEntry = TypedDict(
    "HeadsEntry",
    {
        "from": str,  # own, average, base, or the name of a model
        "owner": str,  # the model (or "base") whose head the folder itself has
        "kept": bool,  # whether every model's own head lies in heads/
        "models": dict[str, list[str]],  # model → the parameters of its head
    },
)
"""Heads that were kept out of the merge."""


class VocabularyEntry(TypedDict):
    """Where the rows of the output's vocabulary come from."""

    source: str  # base, union, or the name of a model
    rows: int
    padding: int  # rows without a token
    shared: int  # rows whose token base and all models have
    from_base: int  # rows that at least one model takes from the base
    added: int  # tokens that the source does not have
    added_tokens: list[str]  # the first of them
    models: dict[str, dict[str, Any]]  # model → its rows by where they come from, and its tokens left out
    line: str  # the whole in one line


class Report(TypedDict):
    """`report.json`."""

    schema_version: int
    mats_version: str
    method: str
    base: str | None
    base_fingerprint: NotRequired[str | None]
    models: list[ModelEntry]
    settings: dict[str, Any]
    recipe: NotRequired[dict[str, Any]]  # as resolved
    dtype: NotRequired[str | None]  # of the output
    parameters: ParameterCounts
    layers: list[LayerEntry]
    missing: dict[str, list[str]]  # model → names the base has and the model lacks
    extra: dict[str, list[str]]  # model → names the model has and the base lacks
    tied: NotRequired[list[list[str]]]  # names that share one tensor
    heads: NotRequired[HeadsEntry]
    vocabulary: NotRequired[VocabularyEntry]
    not_floating: NotRequired[list[str]]  # names taken from the base because they are not floating point
    scales: NotRequired[dict[str, Any]]  # automatic task-vector scales: {minimise, overall, layers}
    adapters: NotRequired[dict[str, Any]]  # how LoRA updates were put together: `combine`, `rank`, `metric` …
    balance: NotRequired[dict[str, dict[str, float]]]  # what curvatures measure → model → its factor
    cross_validation: NotRequired[dict[str, Any]]  # {setting, chosen, values, risks, tasks, start}
    notes: NotRequired[list[str]]  # what a user should know, one sentence each


class RunInfo(TypedDict, total=False):
    """`run.json`: what differs from run to run."""

    seconds: float
    peak_memory_bytes: int | None
    device: str
    started: str
    versions: dict[str, str]


_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


def validate_report(value: Any, *, source: str = "report") -> Report:
    """`value` as a `Report`, for reports read from disk.

    Raises:
        RequestError: it is not one, or of a newer schema; `source` says where it came from.
    """
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    if version != SCHEMA_VERSION:
        raise RequestError(f"{source}: schema_version is {version!r}, this version of mats reads {SCHEMA_VERSION}")
    try:
        return _REPORT.validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise RequestError(f"{source}: {where}: {fault['msg']} (received {fault['input']!r})") from error


def without_non_finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, which is what JSON has for "no number"."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): without_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_non_finite(item) for item in value]
    return value
