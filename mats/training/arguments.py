"""Trainer's own arguments for a plan: everything that it would log, send, print or decide by itself is off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mats.training.plan import TrainingPlan

DAY = 24 * 3600  # seconds that processes wait for the first one, which scores alone


def trainer_arguments(plan: TrainingPlan, runs: Path) -> Any:
    """`TrainingArguments` for this run; checkpoints go below `runs`."""
    from transformers import TrainingArguments

    settings = plan.request.settings
    arguments = TrainingArguments(
        output_dir=str(runs),
        max_steps=plan.shape.updates,
        per_device_train_batch_size=plan.shape.micro,
        gradient_accumulation_steps=plan.shape.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=math.ceil(settings.warmup * plan.shape.updates),
        max_grad_norm=settings.clip or 0.0,
        seed=settings.seed,
        bf16=settings.bf16,
        use_cpu=plan.device == "cpu",
        ddp_backend="gloo" if plan.device == "cpu" and plan.shape.processes > 1 else None,
        ddp_timeout=DAY,
        ddp_find_unused_parameters=plan.request.heads == "per_dataset",
        report_to="none",
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for `accelerate launch`; never nn.DataParallel
    return arguments
