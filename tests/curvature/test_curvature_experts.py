"""Fused experts: each has its own Grams, from the tokens routed to it, equal to those seen expert by expert."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from curvature_oracle import relative_error, written_out_loss
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tried_architectures import BY_NAME

from mats.curvature import CollectionSettings, collect
from mats.curvature.experts import unfused_experts
from mats.curvature.rules import Routing
from mats.data.batch import Batch
from mats.errors import WorkFailed

MIXTURES = ["Mixtral", "Qwen2-MoE", "OLMoE", "gpt-oss"]
PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}


class SeenExperts(TorchFunctionMode):
    """Notes (fused parameter, expert, input, output) wherever one expert's matrix is multiplied with rows."""

    def __init__(self, fused: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.fused = {name: parameter.detach().clone() for name, parameter in fused.items()}
        self.calls: list[tuple[str, Tensor, Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("linear", "matmul", "__matmul__"):
            for name, stack in self.fused.items():
                for expert, matrix in enumerate(stack):
                    if matrix.shape == args[1].shape and torch.equal(matrix, args[1]):
                        self.calls.append((f"{name}[{expert}]", args[0], output))
        return output


def grams_alone(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, int]]:
    """Σ a aᵀ, Σ δ δᵀ and rows of every expert's matrix; each example runs alone, without padding."""
    model.config._experts_implementation = "eager"
    fused = {name: p for name, p in model.named_parameters() if p.dim() == 3}
    inputs, outputs, rows = {}, {}, defaultdict(int)
    for number in range(batch.size):
        with SeenExperts(fused) as seen:
            single = unpadded(batch.select([number]))
            logits = model.requires_grad_(True)(**single.inputs).logits
        deltas = torch.autograd.grad(written_out_loss(single, logits), [output for *_, output in seen.calls])
        for (name, read, _), delta in zip(seen.calls, deltas, strict=True):
            inputs[name] = inputs.get(name, 0) + read.detach().T @ read.detach()
            outputs[name] = outputs.get(name, 0) + delta.T @ delta
            rows[name] += len(read)
    model.requires_grad_(False)
    return inputs, outputs, rows


def unpadded(batch: Batch) -> Batch:
    length = int(batch.input_mask.sum())
    inputs = {name: tensor[:, :length] for name, tensor in batch.inputs.items()}
    return Batch(inputs, batch.example_ids, batch.task, batch.input_mask[:, :length], None, batch.labels[:, :length])


def worst_errors(name: str) -> tuple[float, float]:
    """Of the Grams of all experts of a family: the worst relative errors of inputs and outputs."""
    model, batch = BY_NAME[name].build(), BY_NAME[name].batch(5)
    true_inputs, true_outputs, rows = grams_alone(model, batch)
    plan, sums = collect(model, [batch], CollectionSettings(accumulate_dtype="float64", homogeneous=False))
    layers = {layer.weight: layer for layer in plan.layers}
    assert set(true_inputs) <= set(layers)
    for weight, layer in layers.items():
        if "[" in weight:
            assert sums.tokens[f"layer:{layer.name}"] == sums.tokens[f"site:{layer.site}"] == rows[weight]
    return (
        max(relative_error(sums.tensors[f"input_gram/{layers[w].site}"], g) for w, g in true_inputs.items()),
        max(relative_error(sums.tensors[f"output_gram/{layers[w].name}"], g) for w, g in true_outputs.items()),
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_grams_of_experts_equal_those_seen_alone(name: str) -> None:
    assert max(worst_errors(name)) < 1e-10


def test_a_router_s_rows_under_the_wrong_mask_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Routing, "mask", lambda self, mask: None)
    model, batch = BY_NAME["Mixtral"].build(), BY_NAME["Mixtral"].batch(5)
    true_inputs, _, _ = grams_alone(model, batch)
    plan, sums = collect(model, [batch], CollectionSettings(accumulate_dtype="float64"))
    errors = [
        relative_error(sums.tensors[f"input_gram/{layer.site}"], true_inputs[layer.weight])
        for layer in plan.layers
        if layer.weight in true_inputs
    ]
    assert max(errors) > 1e-2


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_apart_compute_what_they_compute_together(name: str) -> None:
    model, batch = BY_NAME[name].build(), BY_NAME[name].batch(4)
    model.config._experts_implementation = "eager"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(**batch.inputs).logits
    with unfused_experts(model, None):
        apart = model(**batch.inputs).logits
        assert not any(p.dim() == 3 for p in model.parameters())
    assert relative_error(apart, expected) < 1e-12
    assert relative_error(model(**batch.inputs).logits, expected) == 0
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_experts_are_put_together_again_after_an_error() -> None:
    model = BY_NAME["Mixtral"].build()
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(WorkFailed, match="on purpose"), unfused_experts(model, None):
        raise WorkFailed("on purpose")
    assert [name for name, _ in model.named_parameters()] == names
    assert "forward" not in model.model.layers[0].mlp.experts.__dict__


def test_an_expert_without_tokens_keeps_grams_of_zero_and_a_site_of_its_own() -> None:
    model, batch = BY_NAME["Mixtral"].build(), BY_NAME["Mixtral"].batch(2)
    for layer in model.model.layers:
        layer.mlp.gate.top_k = 1
        layer.mlp.gate.weight.data.zero_()  # a tie, which the first expert wins
    plan, sums = collect(model, [batch], CollectionSettings(accumulate_dtype="float64"))
    tokens = {layer.weight: sums.tokens[f"layer:{layer.name}"] for layer in plan.layers if "[" in layer.weight}
    assert {weight[-3:] for weight, rows in tokens.items() if rows == 0} == {"[1]", "[2]"}
    sites = [layer.site for layer in plan.layers if "[" in layer.weight]
    assert len(set(sites)) == len(sites)  # gate and up are one matrix here


def test_per_example_gradients_of_experts_equal_autograd() -> None:
    model, batch = BY_NAME["gpt-oss"].build(), BY_NAME["gpt-oss"].batch(3)
    settings = CollectionSettings(statistics=("diagonal",), accumulate_dtype="float64", parameters=("*experts*",))
    plan, sums = collect(model, [batch], settings)
    assert set(plan.parameters) == plan.tapped  # none is run example by example
    model.config._experts_implementation = "eager"
    fused = {name: p.requires_grad_(True) for name, p in model.named_parameters() if ".experts." in name}
    squares: dict[str, Tensor] = {}
    for number in range(batch.size):
        single = batch.select([number])
        loss = written_out_loss(single, model(**single.inputs).logits)
        for name, gradient in zip(fused, torch.autograd.grad(loss, list(fused.values())), strict=True):
            squares[name] = squares.get(name, 0) + gradient**2
    for name, expected in squares.items():
        found = torch.stack([sums.tensors[f"diagonal/{name}[{expert}]"] for expert in range(3)])
        assert relative_error(found, expected) < 1e-10, name


def test_weights_of_examples_reach_the_rows_that_were_routed() -> None:
    routing = Routing(torch.tensor([0, 3, 4, 5, 11]), total=12)
    weights = routing.weights(torch.tensor([1.0, 2.0, 3.0]))
    assert weights is not None
    assert weights.tolist() == [1, 1, 2, 2, 3]
