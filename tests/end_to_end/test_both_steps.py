"""Both steps, through files, against a dense answer that shares no code and no convention with the product."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from two_layer_world import (
    PADDING,
    Answer,
    TwoLayers,
    anchored_solution,
    augmented,
    dense_fisher,
    factorial_examples,
    indifferent_model,
)

import mats.solvers.iterative
from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings, collect
from mats.data import Batch
from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import MatsSettings
from mats.methods.base import BaseSettings
from mats.methods.quadratic import SolverChoice
from mats.store import DataIdentity, Manifest, MetadataStore, ModelIdentity, write_store

SEQUENCES = {"short": [[0], [1], [2, 0], [1, 1]], "long": [[3, 0], [2, 2, 1]]}
WEIGHTS = {"short": 1.0, "long": 2.5}
ANCHOR = 0.05
SOLVER = SolverChoice(name="pcg", tolerance=1e-10, max_iterations=500, precision="float64")
TOLERANCE = 1e-6  # relative to the longest move; the answers agree to about 1e-9


@pytest.fixture
def models() -> dict[str, TwoLayers]:
    return {"base": indifferent_model(0), "short": indifferent_model(1), "long": indifferent_model(2)}


@pytest.fixture
def answers(models: dict[str, TwoLayers]) -> dict[str, Answer]:
    """The dense solution for each layer."""
    names = list(WEIGHTS)
    fishers = {name: dense_fisher(models[name], factorial_examples(SEQUENCES[name])) for name in names}
    return {
        layer: anchored_solution(
            [fishers[name][layer] for name in names],
            [WEIGHTS[name] for name in names],
            [augmented(models[name], layer) for name in names],
            augmented(models["base"], layer),
            ANCHOR,
        )
        for layer in ("first", "second")
    }


def batches(name: str, size: int, *, count_padding: bool = False) -> list[Batch]:
    """The factorial examples of one model, padded on the right with a loud token."""
    examples = factorial_examples(SEQUENCES[name])
    made = []
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        width = max(len(tokens) for tokens, _ in part)
        tokens = torch.tensor([t + [PADDING] * (width - len(t)) for t, _ in part])
        labels = torch.tensor([y + [-100] * (width - len(y)) for _, y in part])
        mask = torch.ones_like(labels, dtype=torch.bool) if count_padding else labels != -100
        ids = tuple(f"{name}:{start + row}" for row in range(len(part)))
        inputs = {"decoder_input_ids": tokens}
        unread = torch.ones(len(part), width + 1, dtype=torch.bool)  # of an encoder that this world does not have
        made.append(Batch(inputs, ids, "text_to_text", unread, mask, labels))
    return made


def save(model: TwoLayers, folder: Path) -> Path:
    folder.mkdir()
    save_file({k: v.clone() for k, v in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def measured(model: TwoLayers, name: str, checkpoint: Path, folder: Path, **batching: bool) -> Path:
    """Step one by the library's own calls."""
    settings = CollectionSettings(loss="sum", accumulate_dtype="float64")
    plan, sums = collect(model, batches(name, 5, **batching), settings)
    manifest = Manifest(
        model=ModelIdentity(name, str(checkpoint), None, open_checkpoint(checkpoint).fingerprint()),
        data=DataIdentity(name, "all", None),
        estimator={"labels": "empirical", "loss": "sum"},
        examples=len(sums.example_ids),
        example_ids=tuple(sums.example_ids),
        sites=plan.sites,
        layers=plan.layers,
        parameters=plan.parameters,
        uncovered=dict(plan.uncovered),
        tokens=sums.tokens,
        fourth_moments=sums.fourth_moments,
    )
    write_store(folder, manifest, sums, {})
    return folder


def merged(
    models: dict[str, TwoLayers], root: Path, settings: MatsSettings, **batching: bool
) -> dict[str, torch.Tensor]:
    """Both steps through files: layer → merged [W | b]."""
    paths = {name: save(model, root / name) for name, model in models.items()}
    inputs = tuple(
        ModelInput(
            name,
            str(paths[name]),
            weight,
            measured(models[name], name, paths[name], root / f"{name}-store", **batching),
        )
        for name, weight in WEIGHTS.items()
    )
    request = MergeRequest(
        models=inputs, method=settings, output=root / "merged", base=str(paths["base"]), device="cpu"
    )
    tensors = load_file(merge(request).path / "model.safetensors")
    return {
        layer: torch.cat([tensors[f"{layer}.weight"], tensors[f"{layer}.bias"][:, None]], dim=1)
        for layer in ("first", "second")
    }


SETTINGS = MatsSettings(init=BaseSettings(), anchor=ANCHOR, damping=0.0, scaling="examples", solver=SOLVER)


def errors(
    found: dict[str, torch.Tensor], answers: dict[str, Answer], models: dict[str, TwoLayers]
) -> tuple[float, float]:
    """Largest relative error of the move, and of its part in the directions that no example sees."""
    whole, hidden = [], []
    for layer, answer in answers.items():
        start = augmented(models["base"], layer)
        size = (answer.value - start).norm()
        whole.append(float((found[layer] - answer.value).norm() / size))
        hidden.append(float((answer.unseen @ (found[layer] - start).flatten()).norm() / size))
    return max(whole), max(hidden)


def test_both_steps_give_the_dense_answer(models, answers, tmp_path: Path) -> None:
    assert all(answer.unseen.trace() >= 3 for answer in answers.values()), "the test needs unseen directions"
    whole, hidden = errors(merged(models, tmp_path, SETTINGS), answers, models)
    assert whole < TOLERANCE
    assert hidden < TOLERANCE


def test_the_oracle_notices_that_padding_is_counted(models, answers, tmp_path: Path) -> None:
    whole, _ = errors(merged(models, tmp_path, SETTINGS, count_padding=True), answers, models)
    assert whole > 0.05


def test_the_oracle_notices_a_lost_ratio_of_tokens_to_examples(models, answers, tmp_path: Path) -> None:
    published = SETTINGS.model_copy(update={"scaling": "tokens"})
    whole, _ = errors(merged(models, tmp_path, published), answers, models)
    assert whole > 0.01


def test_the_oracle_notices_model_weights_ignored(models, answers, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(WEIGHTS, "long", 1.0)
    whole, _ = errors(merged(models, tmp_path, SETTINGS), answers, models)
    assert whole > 0.01


def test_the_oracle_notices_swapped_factors(models, answers, tmp_path: Path, monkeypatch) -> None:
    """The first layer has as many outputs as inputs and a bias, so A and G can be mistaken for each other."""
    read = MetadataStore.sum
    other = {"input_gram/first": "output_gram/first", "output_gram/first": "input_gram/first"}
    monkeypatch.setattr(MetadataStore, "sum", lambda self, key, *args: read(self, other.get(key, key), *args))
    whole, _ = errors(merged(models, tmp_path, SETTINGS), answers, models)
    assert whole > 0.05


def test_the_oracle_notices_preconditioning_without_an_anchor(models, answers, tmp_path: Path, monkeypatch) -> None:
    """Preconditioned iterations move along directions that no example sees, unless they or the anchor hold them."""
    free = SETTINGS.model_copy(update={"anchor": 0.0})
    for name in ("held", "moved"):
        (tmp_path / name).mkdir()
    _, hidden = errors(merged(models, tmp_path / "held", free), answers, models)
    assert hidden < TOLERANCE
    make = mats.solvers.iterative.make_preconditioner
    monkeypatch.setattr(
        mats.solvers.iterative, "make_preconditioner", lambda basis, shift, cutoff, hidden: make(basis, shift, cutoff)
    )
    _, hidden = errors(merged(models, tmp_path / "moved", free), answers, models)
    assert hidden > 20 * TOLERANCE


def test_the_oracle_notices_a_preconditioner_that_lost_the_anchor(models, answers, tmp_path: Path, monkeypatch) -> None:
    """In as many iterations as the right preconditioner takes to 1e-10, the wrong one has not arrived."""
    briefly = SETTINGS.model_copy(update={"solver": SOLVER.model_copy(update={"max_iterations": 12})})
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    whole, _ = errors(merged(models, tmp_path / "right", briefly), answers, models)
    assert whole < TOLERANCE
    make = mats.solvers.iterative.make_preconditioner
    monkeypatch.setattr(
        mats.solvers.iterative,
        "make_preconditioner",
        lambda basis, shift, *others: make(basis, torch.zeros_like(shift), *others),
    )
    whole, _ = errors(merged(models, tmp_path / "wrong", briefly), answers, models)
    assert whole > 20 * TOLERANCE
