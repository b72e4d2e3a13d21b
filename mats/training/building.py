"""The models of a run: one for all of its datasets, or one for each with a body in common."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from mats.errors import RequestError
from mats.training.adapters import wrap_in_adapter
from mats.training.learner import Learner
from mats.training.loading import Loaded, head_names, load_for_training
from mats.training.request import TrainingRequest
from mats.training.tuning import FullTuning


@dataclass(frozen=True)
class Built:
    """What is trained.

    Attributes:
        learner: All of it.
        models: The models of transformers or PEFT to save: one for all datasets, or one for each.
        head: The head's parameters, which may have a learning rate of their own.
        fresh: Names of parameters that the base did not have.
        unused: Names of the base's tensors that found no place.
    """

    learner: Learner
    models: tuple[nn.Module, ...]
    head: tuple[nn.Parameter, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def build(request: TrainingRequest) -> Built:
    """Load the base and prepare what the settings ask for.

    Raises:
        RequestError, InputsMismatch, CheckpointCorrupt: as `load_for_training` and `wrap_in_adapter`.
    """
    if request.heads == "per_dataset":
        return _with_shared_body(request)
    tuning, spec = request.settings.tuning, request.datasets[0]
    loaded = _load(request, 0)
    head = head_names(loaded.model)
    if isinstance(tuning, FullTuning):
        trained = [loaded.model.get_parameter(name) for name in sorted(head)]
    else:
        wrapped = wrap_in_adapter(loaded.model, tuning, spec.task, head, request.settings.seed)
        trained = [tensor for name, tensor in wrapped.named_parameters() if ".modules_to_save." in name]
        loaded = replace(loaded, model=wrapped)
    learner = Learner([loaded.model] * len(request.datasets))
    return Built(learner, (loaded.model,), tuple(trained), loaded.fresh, loaded.unused)


def _with_shared_body(request: TrainingRequest) -> Built:
    """One model for each dataset, all with the body of the first."""
    all_loaded = [_load(request, position) for position in range(len(request.datasets))]
    first = all_loaded[0].model
    body = str(getattr(first, "base_model_prefix", ""))
    if not head_names(first):
        raise RequestError(
            f"base {request.base}: as {type(first).__name__} it has no head apart from its body; train one model on the"
            " mixture instead"
        )
    for loaded in all_loaded[1:]:
        setattr(loaded.model, body, getattr(first, body))
    models = tuple(loaded.model for loaded in all_loaded)
    head = [model.get_parameter(name) for model in models for name in sorted(head_names(model))]
    fresh = tuple(
        f"{spec.name}: {name}"
        for spec, loaded in zip(request.datasets, all_loaded, strict=True)
        for name in loaded.fresh
    )
    return Built(Learner(models), models, tuple(head), fresh, all_loaded[0].unused)


def _load(request: TrainingRequest, position: int) -> Loaded:
    return load_for_training(
        request.base,
        request.datasets[position],
        seed=request.settings.seed,
        fresh_head=request.settings.fresh_head,
        trust_remote_code=request.trust_remote_code,
    )
