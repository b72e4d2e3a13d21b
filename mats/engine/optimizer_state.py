"""Adam's second moments as a diagonal store: curvature that training has left behind (Squisher, arXiv 2507.18807).

Adam keeps v, a moving average of g² with g the gradient of a *batch's mean* loss; v̂ = v ÷ (1 − β₂^steps) is its
unbiased form. It differs from the diagonal Fisher information, a mean of squared gradients of *single* examples, in
three ways: it averages over the weights of the last 1 ÷ (1 − β₂) steps, not the final ones; training labels and dropout
were in it; and a batch of B examples averages before squaring, so where the mean gradient is small v̂ is about F ÷ B.
`batch_size` multiplies by B, which matters between models trained with different ones. The store says `proxy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from mats.checkpoints import Checkpoint, open_checkpoint
from mats.checkpoints.heads import is_head
from mats.checkpoints.pickled_file import load_weights_only
from mats.engine.proxies import proxy_manifest
from mats.engine.skeletons import skeleton_of
from mats.errors import CheckpointCorrupt, InputsMismatch, RequestError
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.progress import Progress, Silent
from mats.store import Manifest, ModelIdentity, write_store
from mats.store.tensor_file import Encoded

ORDERS = ("named", "trainer", "mats")
KIND = "adam_second_moment"


@dataclass(frozen=True)
class _Group:
    """Parameters of one group by number, and by name where the optimizer was given names."""

    numbers: tuple[int, ...]
    names: Sequence[str] | None


@dataclass(frozen=True)
class _Moment:
    """One parameter's state: v after so many steps."""

    average: Tensor
    steps: float
    beta: float

    def corrected(self) -> Tensor:
        """v̂ in float64: v without its start at 0 (Kingma and Ba 2015, section 3)."""
        return self.average.double() / (1 - self.beta**self.steps)


def write_optimizer_store(
    state: str | Path,
    model: str,
    output: str | Path,
    *,
    name: str | None = None,
    batch_size: int = 1,
    order: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write Adam's bias-corrected second moments of a model as a store with the statistic `diagonal`.

    Args:
        state: `optimizer.pt`, as Trainer and `torch.save(optimizer.state_dict())` write it; no code in it can run.
        model: The model folder whose training left it.
        output: Folder of the store.
        name: What the store calls the model; default: the last part of its path.
        batch_size: Examples in one update; v̂ is multiplied by it.
        order: How the optimizer numbered the parameters: `named` (one group, the model's order), `trainer` (those with
            weight decay first), `mats` (body before head, without weight decay first); None: the one that fits.
        overwrite: Replace an existing `output`.
        progress: Hears of the shards.

    Raises:
        RequestError: no such file, a bad batch size or order, or a class that transformers does not have.
        CheckpointCorrupt: the file cannot be read, asks for code, or is no optimizer's state.
        OutputExists: `output` exists and `overwrite` is false.
        InputsMismatch: it holds no second moments, or its shapes fit the model in no order, or in several.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size: {batch_size}; 1 or more would be right")
    if order is not None and order not in ORDERS:
        raise RequestError(f"order {order!r}: one of {', '.join(ORDERS)} would be right")
    refuse_existing(Path(output), overwrite=overwrite)
    refuse_replacing_inputs(Path(output), (state, model))
    groups, moments = _read_state(Path(state))
    with open_checkpoint(model) as checkpoint:
        if checkpoint.kind != "model":
            raise RequestError(f"{model}: an adapter; a whole model would be right, whose optimizer knew all weights")
        skeleton = skeleton_of(checkpoint)
        found = _assigned(Path(state), skeleton.module, groups, moments, order)
        stored = {skeleton.names[own]: moment for own, moment in found.items() if own in skeleton.names}
        manifest = _manifest(checkpoint, model, name, stored, batch_size)
        source = _Source(stored, batch_size)
        write_store(
            Path(output), manifest, source, {"proxy": "adam"}, overwrite=overwrite, progress=progress or Silent()
        )
    return Path(output)


def _read_state(path: Path) -> tuple[list[_Group], dict[int, _Moment]]:
    """The optimizer's groups of parameters, and the moments by the parameters' numbers."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file; the optimizer.pt of a training checkpoint would be right")
    content = load_weights_only(path)
    try:
        groups = [_Group(tuple(group["params"]), group.get("param_names")) for group in content["param_groups"]]
        betas = {number: group.get("betas") for group in content["param_groups"] for number in group["params"]}
        states = dict(content["state"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path}: not an optimizer's state_dict (no state and param_groups in it)") from error
    if not states:
        raise InputsMismatch(f"{path}: holds no state of any parameter; was a step taken before it was saved?")
    moments = {number: _moment(path, number, state, betas.get(number)) for number, state in states.items()}
    return [group for group in groups if group.numbers], moments


def _moment(path: Path, number: int, state: Mapping[str, Any], betas: Sequence[float] | None) -> _Moment:
    if "exp_avg_sq" not in state or "step" not in state or betas is None:
        raise InputsMismatch(
            f"{path}: parameter {number} has {', '.join(map(str, state)) or 'nothing'}, no exp_avg_sq with step and "
            "betas; the state of Adam or AdamW would be right"
        )
    steps = float(state["step"])
    if steps < 1:
        raise InputsMismatch(f"{path}: parameter {number} took {steps:g} steps; 1 or more would be right")
    return _Moment(state["exp_avg_sq"], steps, float(betas[1]))


def _orders(module: nn.Module, groups: Sequence[_Group], order: str | None) -> Iterator[tuple[str, list[list[str]]]]:
    """Ways to number the model's parameters, in groups; the names alone where the optimizer has recorded them."""
    if order is None and all(group.names is not None for group in groups):
        yield "recorded", [list(group.names or ()) for group in groups]
        return
    names = [name for name, _ in module.named_parameters()]
    decayed = _decayed(module)
    with_decay = [name for name in names if name in decayed]
    without = [name for name in names if name not in decayed]
    ours = [
        [name for name in part if is_head(name) == head] for head in (False, True) for part in (without, with_decay)
    ]
    for word, known in {"named": [names], "trainer": [with_decay, without], "mats": ours}.items():
        if order in (None, word):
            yield word, [group for group in known if group]


def _decayed(module: nn.Module) -> set[str]:
    """What transformers' Trainer applies weight decay to: all but biases and the parameters of norms."""
    from transformers import Trainer

    return set(Trainer.get_decay_parameter_names(cast(Any, None), module))  # it reads nothing of a trainer


def _assigned(
    path: Path, module: nn.Module, groups: Sequence[_Group], moments: Mapping[int, _Moment], order: str | None
) -> dict[str, _Moment]:
    """Parameter name → its moment, by the one order in which the sizes of groups and all shapes fit.

    Raises:
        InputsMismatch: none fits, or several that differ do.
    """
    fitting: dict[str, dict[str, int]] = {}
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for word, names in _orders(module, groups, order):
        if [len(part) for part in names] != [len(group.numbers) for group in groups]:
            continue
        pairs = [
            (own, n)
            for part, group in zip(names, groups, strict=True)
            for own, n in zip(part, group.numbers, strict=True)
        ]
        if all(n not in moments or shapes.get(own) == tuple(moments[n].average.shape) for own, n in pairs):
            fitting[word] = {own: number for own, number in pairs if number in moments}
    if not fitting:
        raise InputsMismatch(
            f"{path}: its {sum(len(group.numbers) for group in groups)} parameters, in groups of "
            f"{[len(group.numbers) for group in groups]}, do not fit the model's {len(shapes)} in "
            f"{'the order ' + order if order else 'any known order'}; the state of this model's own training, with "
            "all weights trained, would be right"
        )
    if any(found != next(iter(fitting.values())) for found in fitting.values()):
        raise InputsMismatch(f"{path}: fits the model in the orders {', '.join(fitting)}; --order says which is right")
    return {name: moments[number] for name, number in next(iter(fitting.values())).items()}


class _Source:
    """v̂ · batch size of each parameter, by its name in the checkpoint."""

    def __init__(self, moments: Mapping[str, _Moment], batch_size: int) -> None:
        self._moments = moments
        self._batch_size = batch_size
        self.entries = {
            f"diagonal/{name}": Encoded("dense", tuple(moment.average.shape), "float32")
            for name, moment in moments.items()
        }

    def read(self, key: str) -> Tensor:
        """The sum over the one "example"."""
        return self._moments[key.partition("/")[2]].corrected().mul_(self._batch_size).float()


def _manifest(
    checkpoint: Checkpoint, model: str, name: str | None, moments: Mapping[str, _Moment], batch_size: int
) -> Manifest:
    identity = ModelIdentity(name or Path(model).name, model, None, checkpoint.fingerprint())
    estimator = {
        "proxy": KIND,
        "of": "arXiv:2507.18807",
        "statistics": ["diagonal"],
        "steps": max(moment.steps for moment in moments.values()),
        "batch_size": batch_size,
    }
    return proxy_manifest(identity, checkpoint, estimator, set(moments), "the optimizer had no state of it")
