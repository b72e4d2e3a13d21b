"""Step two: base + checkpoints + metadata → one merged checkpoint with its report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mats.checkpoints import CheckpointWriter, copy_companions
from mats.checkpoints.companions import adapter_configuration, has_tokenizer
from mats.checkpoints.heads import configuration_of, write_heads
from mats.checkpoints.ia3_targets import common_targets
from mats.checkpoints.vocabulary_chat import chosen_template, write_template
from mats.engine.adapter_output import AdapterOutput, LowRankWriter
from mats.engine.adapters import merge_sums
from mats.engine.auto_scale import AutoScales, scales_for
from mats.engine.balance import Balance, balance_of
from mats.engine.belonging import check_fingerprints
from mats.engine.coverage import StoreIndex
from mats.engine.cross_validation import StrengthCurve, choose_strength
from mats.engine.describing import build_report, build_run_info, describe_plan, write_recipe
from mats.engine.devices import device_of_process, resolve_device
from mats.engine.discarding import HOPELESS as HOPELESS
from mats.engine.discarding import discarded_if_hopeless
from mats.engine.fitting import made_do_notes
from mats.engine.identity import merge_identity
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.plan import MergePlan, make_plan, read_indexes
from mats.engine.processes import Processes, together
from mats.engine.request import MergeRequest
from mats.engine.shares import share_of, written_together
from mats.engine.snapshots import Snapshots
from mats.engine.solving import solve_groups, unconverged
from mats.engine.streaming import ElementwisePool, stream_tensors
from mats.engine.threads import one_thread
from mats.errors import NotConverged
from mats.files import refuse_existing, refuse_replacing_inputs, write_json_atomically
from mats.progress import Progress, Silent
from mats.reporting import write_report

LONGEST_SHARE = 7 * 24 * 3600.0  # seconds that a process waits for the share of another


@dataclass(frozen=True)
class MergeResult:
    """A finished merge: where it lies, and what `report.json` there says."""

    path: Path
    report: dict[str, Any]


def merge(request: MergeRequest, progress: Progress | None = None) -> MergeResult:
    """Merge as `request` says; the output folder appears when everything in it is complete.

    Interrupted or killed, the same request takes up where it stopped and gives the same bytes (run.json aside). The
    processes that `accelerate launch` or `torchrun` started together share the work, and change no byte either.

    Raises:
        OutputExists: the output is there already, or another run is writing it.
        RequestError: it is, or holds, what is merged.
        FingerprintMismatch: a store was measured on other weights.
        NotConverged: after publishing, with `strict`, when a solve missed its tolerance.
        WorkFailed: another of the processes failed.
        MatsError: whatever `plan_merge` raises, and what reading, solving or writing meets.
    """
    started = time.time()
    refuse_existing(request.output, overwrite=request.overwrite)
    refuse_replacing_inputs(request.output, request.sources)
    with together(resolve_device(request.device), wait_seconds=LONGEST_SHARE) as processes:
        progress = processes.progress(progress or Silent())
        sums = processes.first_says(lambda: merge_sums(request, progress)) if request.makes_adapter else None
        path, report = sums or _merge(request, progress, processes, started)
    missed = unconverged(report["layers"]) if sums is None else []
    if missed and request.strict:
        raise NotConverged(
            f"{path}: written, but {len(missed)} of {len(report['layers'])} solves missed their tolerance (first: "
            f"{missed[0]}); raise solver.max_iterations, the damping or the anchor"
        )
    return MergeResult(path, report)


def _merge(
    request: MergeRequest, progress: Progress, processes: Processes, started: float
) -> tuple[Path, dict[str, Any]]:
    """Plan, work, and in the first process publish; the output's path and its report, in all of them."""
    request = replace(request, device=str(device_of_process(request.device, processes, in_turn=True)))
    chosen, curve = processes.first_says(lambda: choose_strength(request, progress))
    request = replace(chosen, device=request.device)
    with MergeInputs(request) as inputs, ExitStack() as stack:
        plan = make_plan(inputs)
        adapter = stack.enter_context(AdapterOutput(inputs, plan)) if request.makes_adapter else None
        plan = plan if adapter is None else adapter.sized(plan)
        for line in describe_plan(plan, request):
            progress.note(line)
        fingerprints = processes.first_says(lambda: check_fingerprints(inputs, progress))
        scales = processes.first_says(lambda: scales_for(inputs, plan, progress))
        stores = read_indexes(inputs)
        balance = processes.first_says(lambda: balance_of(stores, plan.groups))
        report: dict[str, Any] = {}
        path = request.output
        with (
            written_together(processes, partial(open_writer, inputs, plan, adapter)) as writer,
            _open_snapshots(inputs, plan, writer, processes) as snapshots,
        ):
            with discarded_if_hopeless(writer, also=snapshots.discard):
                _do(inputs, plan, stores, scales, balance, writer, snapshots, progress, processes)
                processes.barrier()
                if processes.is_first:
                    _join(writer, snapshots, processes)
                    report = build_report(inputs, plan, dict(writer.notes), fingerprints)
                    report |= _told(inputs, report["notes"], scales, curve, balance, adapter)
                    report["notes"] = [
                        *report["notes"],
                        *balance.notes(inputs.model_names),
                        *made_do_notes(report["layers"]),
                    ]
                    write_companions(inputs, writer.folder, report, build_run_info(request, started), adapter)
                    snapshots.finish(report)
            if processes.is_first:
                path = writer.publish()
    result: tuple[Path, dict[str, Any]] = processes.first_says(lambda: (path, report))
    return result


def _join(writer: CheckpointWriter, snapshots: Snapshots, processes: Processes) -> None:
    """Take in what the other processes wrote, and what no process did."""
    writer.join(processes.count)
    snapshots.join(processes.count)
    if isinstance(writer, LowRankWriter):
        writer.write_heads()


def _told(
    inputs: MergeInputs,
    notes: list[str],
    scales: AutoScales | None,
    curve: StrengthCurve | None,
    balance: Balance,
    adapter: AdapterOutput | None,
) -> dict[str, Any]:
    """What the report says beside tensors: what was found for this merge, and how an adapter was made."""
    return {
        **({} if scales is None else scales.told(notes, list(inputs.model_names))),
        **({} if curve is None else {"cross_validation": curve.told()}),
        **balance.told(inputs.model_names),
        **({} if adapter is None else adapter.told()),
    }


def open_writer(inputs: MergeInputs, plan: MergePlan, adapter: AdapterOutput | None, part: int = 0) -> CheckpointWriter:
    """The writer of the output, or of the adapter that the merge becomes; it takes up partial work of this request."""
    request = inputs.request
    if adapter is not None:
        return LowRankWriter(adapter, inputs, merge_identity(inputs, plan), part)
    return CheckpointWriter(
        request.output,
        plan.tensors,
        identity=merge_identity(inputs, plan),
        max_shard_bytes=request.max_shard_bytes,
        overwrite=request.overwrite,
        weights_name="adapter_model" if inputs.kind == "ia3" else "model",
        part=part,
    )


def _open_snapshots(inputs: MergeInputs, plan: MergePlan, writer: CheckpointWriter, processes: Processes) -> Snapshots:
    return Snapshots(inputs, plan, writer, merge_identity(inputs, plan), processes)


def _do(
    inputs: MergeInputs,
    plan: MergePlan,
    stores: Sequence[StoreIndex],
    scales: AutoScales | None,
    balance: Balance,
    writer: CheckpointWriter,
    snapshots: Snapshots,
    progress: Progress,
    processes: Processes,
) -> None:
    """This process's share of the work."""
    share = share_of(inputs, plan.streamed, plan.groups, processes)
    pool = ElementwisePool(inputs, plan, progress, None if scales is None else scales.for_plan(plan))
    with one_thread():
        stream_tensors(inputs, share.streamed, pool, writer, progress, processes)
    loader = GroupLoader(inputs, stores, pool.for_start, resolve_device(inputs.request.device), balance)
    solve_groups(inputs, share.groups, loader, writer, snapshots, progress, processes=processes)


def write_companions(
    inputs: MergeInputs,
    folder: Path,
    report: dict[str, Any],
    run_info: dict[str, Any],
    adapter: AdapterOutput | None,
) -> None:
    """Write into `folder` what belongs beside the weights: configuration, tokenizer, recipe, report."""
    if adapter is not None:
        adapter.write_configuration(folder)
    else:
        _write_configuration(inputs, folder)
        _write_scaled_modules(inputs, folder)
        _write_layers(inputs, folder)
        _write_vocabulary(inputs, folder)
    write_recipe(inputs.request, folder)
    write_report(report, folder, run=run_info)


def _write_scaled_modules(inputs: MergeInputs, folder: Path) -> None:
    """What adapter_config.json says about modules, where the first (IA)³ adapter does not scale all of the output's."""
    file = folder / "adapter_config.json"
    if inputs.kind == "ia3" and file.is_file() and (targets := common_targets(inputs.checkpoints)):
        write_json_atomically(file, {**json.loads(file.read_text(encoding="utf-8")), **targets})


def _write_layers(inputs: MergeInputs, folder: Path) -> None:
    """What config.json says about layers, where the output is put together from layers of its inputs."""
    file, arrangement = folder / "config.json", inputs.request.arrangement
    if arrangement is not None and file.is_file():
        write_json_atomically(file, {**json.loads(file.read_text(encoding="utf-8")), **arrangement.config})


def _write_configuration(inputs: MergeInputs, folder: Path) -> None:
    """Configuration, tokenizer and licences; and beside a merged body the heads of its models."""
    separated, choice = inputs.separated, inputs.request.heads
    if separated is None or choice is None:
        if inputs.kind == "model":
            copy_companions(inputs.reference, folder)
            _write_configuration_under(inputs, folder)
        else:
            copy_companions(inputs.models[0], folder, base=inputs.given_base)
        return
    copy_companions(separated.owner, folder, base=inputs.given_base if inputs.kind == "ia3" else None)
    owner_home = separated.owner.path if separated.owner.path.is_dir() else separated.owner.path.parent
    has_own = separated.owner.config is not None and (owner_home / "config.json").is_file()
    if inputs.kind == "model" and inputs.given_base is not None and not (has_own and has_tokenizer(folder)):
        copy_companions(inputs.given_base, folder, replace=False)
    if (
        inputs.kind == "model" and inputs.given_base is not None and not has_own
    ):  # a lone file, or an adapter laid on it
        write_json_atomically(folder / "config.json", configuration_of(separated.head, inputs.given_base))
    if choice.kept:
        names = [model.name for model in inputs.request.models]
        heads = dict(zip(names, separated.heads, strict=True))
        configure = configuration_of if inputs.kind == "model" else adapter_configuration
        configs = {name: configure(head, inputs.given_base) for name, head in heads.items()}
        if (files := inputs.vocabulary.files) is not None:
            configs = {name: files.configuration(config) for name, config in configs.items()}
        write_heads(folder, heads, configs, separated.owner_name)


def _write_configuration_under(inputs: MergeInputs, folder: Path) -> None:
    """Without a base, and if the first model is an adapter on a model: what lies beside that, and their config.json."""
    under = inputs.opened[0].under
    if inputs.given_base is None and under is not None:
        copy_companions(under, folder, replace=False)
        if inputs.reference.config is not None:
            write_json_atomically(folder / "config.json", inputs.reference.config)


def _write_vocabulary(inputs: MergeInputs, folder: Path) -> None:
    """The chosen vocabulary's tokenizer and sizes, and the chosen chat template, over what was copied."""
    if inputs.vocabulary.files is not None:
        inputs.vocabulary.files.write(folder)
    if inputs.request.chat_template is not None:
        given = [*([] if inputs.given_base is None else [inputs.given_base]), *inputs.vocabulary.models]
        homes = [checkpoint.path for checkpoint in given if checkpoint.path.is_dir()]
        template = chosen_template(inputs.request.chat_template, homes)
        if template is not None:
            write_template(folder, template)
