"""transformers' Trainer, fed by `mats.data` and scored by `mats.evaluation`.

Trainer brings the loop: processes, mixed precision, clipping, schedules, checkpoints. What an update is, what its loss
is, when it is scored and what is kept are decided here. The module is imported only when a run starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from mats.checkpoints.partial import flush_tree
from mats.errors import NonFiniteStatistic
from mats.progress import Progress
from mats.training.building import Built
from mats.training.checkpoints import checkpoint_folder, load_weights, mark_complete, prune, save_weights
from mats.training.examples import Collator, Item, Part, scored_positions
from mats.training.history import Evaluation, best_of, evaluation_updates, out_of_patience
from mats.training.learner import Learner
from mats.training.order import MicroBatches, UpdateOrder
from mats.training.processes import first_to_all, is_first, process_count, wait_for_all
from mats.training.settings import TrainingSettings

Score = Callable[[Learner], dict[str, dict[str, Any]]]
"""Scores the learner: dataset → result; called in the first process alone."""


class LearnerTrainer(Trainer):  # type: ignore[misc] # transformers has no types
    """Trains a `Learner`.

    Args:
        built: What is trained, with the parameters to train marked by `requires_grad`.
        arguments: Trainer's own.
        settings: Ours.
        items: The training examples.
        collator: Makes micro-batches of them.
        order: Which examples each update sees.
        evaluate_every: Updates between two evaluations.
        score: Scores the learner; None without a validation split.
        progress: Told about each update.
        history: Evaluations of the part of the run that is done already; grows.
        seconds: Wall time of that part.
    """

    loss_is_scaled_for_ga = True  # by the number of labels in the whole update

    def __init__(
        self,
        built: Built,
        arguments: Any,
        settings: TrainingSettings,
        *,
        items: Sequence[Item],
        collator: Collator,
        order: UpdateOrder,
        evaluate_every: int,
        score: Score | None,
        progress: Progress,
        history: list[Evaluation],
        seconds: float,
    ) -> None:
        self.settings = settings
        self.history = history
        self._head = {id(parameter) for parameter in built.head}
        self._order = order
        self._score = score
        self._progress = progress
        self._started = time.monotonic() - seconds
        super().__init__(built.learner, arguments, data_collator=collator, train_dataset=items)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Pace(self, evaluation_updates(order.shape.updates, evaluate_every), progress))
        self._loss_since = torch.zeros(2, dtype=torch.float64)  # summed loss and labels since the last evaluation

    @property
    def seconds(self) -> float:
        """Wall time so far, interruptions left out."""
        return time.monotonic() - self._started

    # ---- what an update is ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's micro-batches; they are dealt already, so accelerate must not deal them again."""
        batches = MicroBatches(self._order, self.args.process_index)
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def _prepare_inputs(self, inputs: Sequence[Part]) -> tuple[Part, ...]:
        return tuple((position, batch.to(self.args.device)) for position, batch in inputs)

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 - Trainer's signature
        """Not counted."""
        return 0

    # ---- what its loss is ----

    def _get_num_items_in_batch(self, batch_samples: list[Sequence[Part]], device: torch.device) -> Tensor:
        """Labels in all micro-batches of one update, over all processes."""
        count = torch.tensor(sum(scored_positions(parts) for parts in batch_samples), device=device)
        total: Tensor = self.accelerator.reduce(count, "sum") if process_count() > 1 else count
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Sequence[Part],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """A micro-batch's share of the update's mean loss. Data-parallel wrappers average gradients; this sums them."""
        assert num_items_in_batch is not None
        loss: Tensor = model(inputs)
        self._loss_since += torch.tensor([loss.item(), scored_positions(inputs)], dtype=torch.float64)
        if not torch.isfinite(loss):
            raise NonFiniteStatistic(
                f"update {self.state.global_step + 1}: the training loss is {loss.item()}; a lower learning_rate, a"
                " warmup, or float32 would be right"
            )
        return loss * process_count() / num_items_in_batch

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:  # noqa: ARG002
        """AdamW; heads have a rate of their own, and biases, norms and (IA)³ vectors (which rest at 1) do not decay."""
        settings = self.settings
        decayed = {name for name in self.get_decay_parameter_names(self.model) if ".ia3_l." not in name}
        groups = _parameter_groups(self.model, settings, self._head, decayed)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups, betas=settings.betas, eps=settings.epsilon, fused=True
        )
        return self.optimizer

    # ---- what is scored and kept ----

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the validation splits in the first process, and decide for all whether to go on."""
        loss = self._training_loss()
        if is_first():
            results = self._score(self.model) if self._score is not None else {}
            score = sum(result["score"] for result in results.values()) / len(results) if results else None
            evaluation = Evaluation(self.state.global_step, score, results, loss)
        else:
            evaluation = None
        self.history.append(first_to_all(evaluation))
        self.control.should_training_stop |= out_of_patience(self.history, self.settings.patience)
        self._tell(self.history[-1])
        return {}

    def _training_loss(self) -> float:
        """Mean loss per label since the last evaluation, over all processes."""
        summed = self._loss_since.to(self.args.device, torch.float32)
        summed = self.accelerator.reduce(summed, "sum") if process_count() > 1 else summed
        self._loss_since.zero_()
        return float(summed[0] / summed[1].clamp(min=1))

    def _tell(self, evaluation: Evaluation) -> None:
        if is_first() and evaluation.score is not None:
            best = " (best so far)" if best_of(self.history) == evaluation else ""
            shown = ", ".join(f"{name} {result['value']:.4f}" for name, result in evaluation.results.items())
            self._progress.note(f"update {evaluation.updates}: {shown}, loss {evaluation.training_loss:.4f}{best}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        if self.args.should_save:
            save_weights(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(model or self.model, Path(resume_from_checkpoint))

    def finish_checkpoint(self) -> None:
        """Mark the newest checkpoint complete, and delete what it makes superfluous."""
        wait_for_all()  # each process has written its random state
        if is_first():
            home = Path(self.args.output_dir)
            folder = checkpoint_folder(home, self.state.global_step)
            progress = {"seconds": self.seconds, "history": [asdict(evaluation) for evaluation in self.history]}
            flush_tree(folder)
            mark_complete(folder, progress)
            prune(home, kept_weights(self.history, self.settings))
        wait_for_all()


def kept_weights(history: Sequence[Evaluation], settings: TrainingSettings) -> set[int]:
    """After which updates the weights are still wanted, besides the newest."""
    if settings.keep == "all":
        return {evaluation.updates for evaluation in history}
    best = best_of(history) if settings.keep == "best" else None
    return {best.updates} if best is not None else set()


def _parameter_groups(
    learner: Learner, settings: TrainingSettings, heads: set[int], decayed: set[str]
) -> list[dict[str, Any]]:
    """AdamW's groups: body and head, each with and without weight decay; empty ones left out."""
    rates = {False: settings.learning_rate, True: settings.head_learning_rate or settings.learning_rate}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in heads, name in decayed), []).append(parameter)
    return [
        {"params": members, "lr": rates[head], "weight_decay": settings.weight_decay if decay else 0.0}
        for (head, decay), members in sorted(groups.items())
    ]


class _Pace(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Evaluates and saves after the updates given, and moves the progress bar."""

    def __init__(self, trainer: LearnerTrainer, stops: frozenset[int], progress: Progress) -> None:
        self._trainer = trainer
        self._stops = stops
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        """After each update."""
        if is_first():
            self._progress.advance()
        control.should_evaluate = control.should_save = state.global_step in self._stops
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        """After the last update, which has been evaluated and saved already."""
        control.should_evaluate = control.should_save = False
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """After Trainer has written a checkpoint."""
        self._trainer.finish_checkpoint()
