"""Fine-tuning one model: from a request to a folder that appears whole, whatever interrupts the run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mats.checkpoints.partial import flush_tree
from mats.data import load_processor
from mats.files import exclusive, publish_folder, write_json_atomically
from mats.progress import Progress, Silent
from mats.training.building import Built, build
from mats.training.checkpoints import (
    checkpoint_folder,
    complete_checkpoints,
    load_weights,
    prune,
    read_progress,
)
from mats.training.examples import Collator
from mats.training.history import Evaluation, best_of, out_of_patience
from mats.training.learner import Learner
from mats.training.order import UpdateOrder
from mats.training.output import finished, kept_folder, write_models, write_report
from mats.training.plan import TrainingPlan, plan_training
from mats.training.processes import connect, is_first, wait_for_all
from mats.training.request import TrainingRequest
from mats.training.validation import Validation

IDENTITY, CONTENT, RUNS = "identity.json", "content", "checkpoints"


def fine_tune(request: TrainingRequest, progress: Progress | None = None) -> Path:
    """Fine-tune a model; see `TrainingRequest` for what can be asked.

    A finished run of the same settings, base and data is not repeated. An unfinished one goes on where its last
    checkpoint is, and ends with the weights of a run that was never interrupted. The result appears whole, or not at
    all: config, weights, tokenizer and `training.json`.

    Args:
        request: What to train, on what, and how.
        progress: One stage, a step for each update, a note for each evaluation.

    Returns:
        The folder of the result.

    Raises:
        RequestError: a setting or path is wrong; found before a model is loaded.
        DataError: the data are.
        OutputExists: the folder is taken by something else, or another run is writing it.
        InputsMismatch: the base does not fit the task.
        NonFiniteStatistic: the loss is NaN or infinite.
    """
    progress = progress or Silent()
    plan = plan_training(request)
    run(plan, progress)
    return plan.output


def fine_tune_jointly(request: TrainingRequest, progress: Progress | None = None) -> dict[str, Path]:
    """Fine-tune one body on several datasets at once, with a head for each: the joint training that merging is
    compared with.

    Every update holds examples of all datasets, in proportion to their sizes (`settings.cap` bounds the largest).

    Args:
        request: Several datasets; their labels may differ. `heads` is set here.
        progress: As for `fine_tune`.

    Returns:
        Dataset → folder of a whole model, below the request's output: the common body with the dataset's own head.

    Raises:
        As `fine_tune`; RequestError also where the base has no head apart from its body.
    """
    output = fine_tune(replace(request, heads="per_dataset"), progress)
    return {spec.name: output / spec.name for spec in request.datasets}


def run(plan: TrainingPlan, progress: Progress) -> None:
    """Carry out a plan: see `fine_tune`."""
    connect(cpu=plan.device == "cpu")
    if finished(plan):
        return
    with ExitStack() as open_until_done:
        if is_first():
            open_until_done.enter_context(exclusive(plan.partial / "lock"))
            _prepare(plan)
        wait_for_all()
        open_until_done.enter_context(_quiet_and_restored())
        open_until_done.enter_context(_nothing_left_of_nothing(plan))
        _train_and_publish(plan, progress)
        wait_for_all()


def _prepare(plan: TrainingPlan) -> None:
    """Keep the work of an earlier run with the same identity, and nothing else."""
    stamp = plan.partial / IDENTITY
    same = stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == plan.identity
    if not same:
        shutil.rmtree(plan.partial / RUNS, ignore_errors=True)
        write_json_atomically(stamp, plan.identity)
    shutil.rmtree(plan.partial / CONTENT, ignore_errors=True)
    prune(plan.partial / RUNS, complete_checkpoints(plan.partial / RUNS))


def _train_and_publish(plan: TrainingPlan, progress: Progress) -> None:
    """Build, train, and give the result its name."""
    built = build(plan.request)
    runs = plan.partial / RUNS
    history, seconds = _run(plan, built, runs, progress)
    if not is_first():
        return
    content = plan.partial / CONTENT
    if plan.request.settings.keep == "all":
        for evaluation in history:
            load_weights(built.learner, checkpoint_folder(runs, evaluation.updates))
            write_models(content / kept_folder(evaluation.updates), plan, built.models)
    chosen = _choose(plan, history)
    load_weights(built.learner, checkpoint_folder(runs, chosen))
    write_models(content, plan, built.models)
    facts = {"fresh": list(built.fresh), "unused": list(built.unused), **_counts(built.learner)}
    write_report(content, plan, history, chosen, seconds=seconds, facts=facts)
    flush_tree(content)
    publish_folder(content, plan.output, overwrite=plan.request.overwrite)
    shutil.rmtree(plan.partial, ignore_errors=True)


def _run(plan: TrainingPlan, built: Built, runs: Path, progress: Progress) -> tuple[list[Evaluation], float]:
    """Train until the end, or from the newest checkpoint to the end; the evaluations and the wall time."""
    settings = plan.request.settings
    newest = next(iter(reversed(complete_checkpoints(runs))), 0)
    past: dict[str, Any] = read_progress(checkpoint_folder(runs, newest)) if newest else {"history": [], "seconds": 0.0}
    history = [Evaluation(**entry) for entry in past["history"]]
    progress.start(f"training {plan.request.task_name}", plan.shape.updates)
    progress.advance(newest)
    if newest >= plan.shape.updates or out_of_patience(history, settings.patience):
        return history, past["seconds"]
    trainer = _trainer(plan, built, runs, progress, history, past["seconds"])
    trainer.train(resume_from_checkpoint=str(checkpoint_folder(runs, newest)) if newest else None)
    return trainer.history, trainer.seconds


def _trainer(
    plan: TrainingPlan, built: Built, runs: Path, progress: Progress, history: list[Evaluation], seconds: float
) -> Any:
    """The Trainer of this run."""
    from mats.training.arguments import trainer_arguments
    from mats.training.trainer import LearnerTrainer

    request, settings, data = plan.request, plan.request.settings, plan.data
    processors = [load_processor(request.base, spec) for spec in request.datasets]
    groups = [position for position, _ in data.items]
    order = UpdateOrder(data.lengths, plan.shape, settings.seed, by_length=settings.group_by_length, groups=groups)
    scores = is_first() and bool(data.validation)
    return LearnerTrainer(
        built,
        trainer_arguments(plan, runs),
        settings,
        items=data.items,
        collator=Collator(request.datasets, processors),
        order=order,
        evaluate_every=plan.evaluate_every,
        score=Validation(request.datasets, data.validation, processors, 2 * plan.shape.micro) if scores else None,
        progress=progress,
        history=history,
        seconds=seconds,
    )


def _choose(plan: TrainingPlan, history: list[Evaluation]) -> int:
    """After how many updates the weights of the result are."""
    best = best_of(history)
    if plan.request.settings.keep == "last" or best is None:
        return history[-1].updates
    return best.updates


def _counts(learner: Learner) -> dict[str, int]:
    parameters = list(learner.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


@contextmanager
def _nothing_left_of_nothing(plan: TrainingPlan) -> Iterator[None]:
    """A run that ends before its first checkpoint leaves no partial folder: there is nothing to go on from."""
    try:
        yield
    except BaseException:
        if is_first() and not complete_checkpoints(plan.partial / RUNS):
            shutil.rmtree(plan.partial, ignore_errors=True)
        raise


@contextmanager
def _quiet_and_restored() -> Iterator[None]:
    """transformers silent, and afterwards its settings and all random generators as they were."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    states: tuple[Any, Any] = random.getstate(), np.random.get_state()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
