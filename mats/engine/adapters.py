"""LoRA adapters in, one LoRA adapter out: linear combinations of updates, module by module, on factors alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mats.checkpoints import CheckpointWriter
from mats.checkpoints.lora import Lazy, LoraModule, factors
from mats.checkpoints.lora_writing import ONE_FILE, saved_name
from mats.engine.adapter_inputs import AdapterInputs
from mats.engine.adapter_metric import LayerMetrics, open_metrics
from mats.engine.adapter_plan import AdapterPlan, coefficients_by_name, plan_sums
from mats.engine.adapter_report import describe_sums, merge_plan, sums_report
from mats.engine.adapter_saved import saved_names
from mats.engine.adapter_sums import merge_module
from mats.engine.adapter_writing import write_adapter_configuration
from mats.engine.describing import build_run_info, write_recipe
from mats.engine.discarding import discarded_if_hopeless
from mats.engine.identity import digest, file_states, request_content
from mats.engine.plan import MergePlan
from mats.engine.request import MergeRequest
from mats.engine.threads import one_thread
from mats.errors import RequestError
from mats.methods.adapter_settings import AdapterSettings
from mats.progress import Progress
from mats.reporting import write_report


def merge_sums(request: MergeRequest, progress: Progress) -> tuple[Path, dict[str, Any]] | None:
    """Merge the adapters of `request` as a sum of updates, if it asks for one.

    Returns:
        The output and its report; None where the merge is no such sum, and goes through dense updates.

    Raises:
        MatsError: as `plan_sums`, and what reading and writing meets.
    """
    started = time.time()
    with _opened(request) as found:
        if found is None:
            return None
        inputs, plan, settings = found
        for line in describe_sums(inputs, plan):
            progress.note(line)
        metrics = _metrics(inputs, plan, settings)
        with _writer(inputs, plan, metrics) as writer:
            with discarded_if_hopeless(writer):
                with one_thread():
                    _write_modules(inputs, plan, settings, metrics, writer, progress)
                report = sums_report(inputs, plan, settings, dict(writer.notes))
                write_adapter_configuration(inputs, plan, writer.folder)
                write_recipe(request, writer.folder)
                write_report(report, writer.folder, run=build_run_info(request, started), title="Merged adapter")
            return writer.publish(), report


def plan_of_sums(request: MergeRequest) -> MergePlan | None:
    """What `merge_sums` would do; None where it would do nothing."""
    with _opened(request) as found:
        return None if found is None else merge_plan(found[0], found[1])


@contextmanager
def _opened(request: MergeRequest) -> Iterator[tuple[AdapterInputs, AdapterPlan, AdapterSettings] | None]:
    settings = request.adapters
    if settings is None or settings.output == "dense":
        yield None
        return
    with AdapterInputs(request) as inputs:
        own = [*(f"{module}.weight" for module in inputs.modules), *saved_names(inputs)]
        names = [inputs.shown(name) for name in own]
        by_name = coefficients_by_name(request, names)
        dense = _why_dense(inputs, linear=by_name is not None)
        if dense is not None and settings.combine not in ("auto", "svd"):
            raise RequestError(
                f"adapters.combine: {settings.combine} adds s·B·A of every adapter, and {dense}; svd takes it"
            )
        if by_name is None or dense is not None:
            yield None
        else:
            yield inputs, plan_sums(inputs, settings, by_name), settings


def _why_dense(inputs: AdapterInputs, *, linear: bool) -> str | None:
    """Why the factors alone do not decide the result; None where they do."""
    if not linear:
        return f"method {inputs.request.method.name} (or one of its rules) is no linear combination of the updates"
    if inputs.weight_decomposed:
        return f"{', '.join(inputs.weight_decomposed)} has DoRA magnitudes, which depend on the base"
    if any(each is not None and not each.changes_nothing for each in (m.sparsify for m in inputs.request.models)):
        return "sparsify works on the entries of updates"
    return None


def _metrics(inputs: AdapterInputs, plan: AdapterPlan, settings: AdapterSettings) -> LayerMetrics:
    if plan.combine == "svd" and settings.metric == "curvature":
        return open_metrics(inputs, settings.damping)
    return LayerMetrics((), (), settings.damping)


def _writer(inputs: AdapterInputs, plan: AdapterPlan, metrics: LayerMetrics) -> CheckpointWriter:
    request = inputs.request
    return CheckpointWriter(
        request.output,
        plan.tensors,
        identity=_identity(inputs, plan, metrics),
        max_shard_bytes=ONE_FILE,
        overwrite=request.overwrite,
        weights_name="adapter_model",
    )


def _identity(inputs: AdapterInputs, plan: AdapterPlan, metrics: LayerMetrics) -> str:
    """Digest of what decides the bytes; see `mats.engine.identity`."""
    checkpoints = [adapter.checkpoint for adapter in inputs.adapters]
    return digest(
        {
            "request": request_content(inputs.request),
            "modules": [[part.name, part.coefficients, part.rank, part.scaling] for part in plan.modules],
            "files": [file_states(each) for each in (*checkpoints, *filter(None, [inputs.base]))],
            "stores": metrics.fingerprints,
        }
    )


def _write_modules(
    inputs: AdapterInputs,
    plan: AdapterPlan,
    settings: AdapterSettings,
    metrics: LayerMetrics,
    writer: CheckpointWriter,
    progress: Progress,
) -> None:
    """Every module that an earlier, killed run has not finished as a whole; then what is stored whole."""
    progress.start("merging adapters module by module", len(plan.modules) + len(plan.saved))
    for part in plan.modules:
        blank = plan.skeleton[part.name]
        names = [name for name, _ in factors({part.name: blank})]
        if not all(name in writer.done for name in names):
            merged = merge_module(part, plan.combine, settings, metrics)
            filled = _filled(blank, {"down": merged.A, "up": merged.B, "bias": merged.bias})
            for name, content in factors({part.name: filled}):
                put = writer.rewrite if name in writer.done else writer.write
                put(name, content.read(), note=merged.entry if name == names[-1] else None)
        progress.advance()
    for saved in plan.saved:
        name = saved_name(saved.name, plan.skeleton)
        if name not in writer.done:
            rule = "head" if saved.head else inputs.request.method.name
            note = {"name": saved.name, "rule": rule, "shape": list(saved.placeholder.shape)}
            writer.write(name, saved.merged(inputs.base), note=note)
        progress.advance()


def _filled(blank: LoraModule, values: dict[str, Any]) -> LoraModule:
    """A module of the shapes of `blank` with these values; a bias that no adapter has is zero."""
    down = Lazy.of(values["down"].reshape(blank.down.shape))
    up = Lazy.of(values["up"].reshape(blank.up.shape))
    bias = blank.bias if values["bias"] is None else Lazy.of(values["bias"])
    return LoraModule(blank.name, blank.layer, down, up, blank.scaling, blank.fan_in_fan_out, bias=bias)
