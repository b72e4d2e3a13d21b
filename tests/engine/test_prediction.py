"""Predicted losses against dense float64 quadratics, and against the true loss where the quadratic is exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import engine_oracle
import numpy as np
import pytest
import torch
from engine_families import Family, RawStore, make_model, nudge, save
from linear_cases import linear_gaussian, solution, write_linear
from safetensors.torch import save_file

from mats.engine import MergeRequest, merge
from mats.engine.prediction import predict
from mats.errors import FingerprintMismatch, RequestError
from mats.methods import TaskArithmeticSettings, TiesSettings

WEIGHTS = (1.0, 2.5, 0.5)
LAYER = "bert.encoder.layer.1.intermediate.dense"


def request(family: Family, **options: object) -> MergeRequest:
    weights = WEIGHTS[: len(family.models)]
    models = family.inputs(weights=weights)
    return MergeRequest(models, TiesSettings(), Path("unused"), base=str(family.base), device="cpu", **options)


def joined(state: dict[str, torch.Tensor], layer: str) -> np.ndarray:
    return np.concatenate([state[f"{layer}.weight"].double().numpy(), state[f"{layer}.bias"].double()[:, None]], axis=1)


def quadratic(difference: np.ndarray, curvature: np.ndarray) -> float:
    return 0.5 * float(difference.ravel() @ curvature @ difference.ravel())


def kfac(raw: RawStore, layer: str) -> np.ndarray:
    site = raw.layers[layer].site
    grams = (raw.sums.tensors[key].numpy() for key in (f"input_gram/{site}", f"output_gram/{layer}"))
    return engine_oracle.kfac(*grams, raw.examples, raw.sums.tokens[f"site:{site}"])


def test_layers_and_blocks_are_the_dense_quadratics(bert: Family, tmp_path: Path) -> None:
    save(nudge(make_model("bert", 0), 999), tmp_path / "other")
    state = dict(nudge(make_model("bert", 0), 999).state_dict())
    found = predict(request(bert), {"other": str(tmp_path / "other")})
    by_name = {candidate.name: candidate for candidate in found.candidates}
    assert list(by_name) == ["base", "task0", "task1", "task2", "other"]
    states = {"base": bert.base_state, "other": state} | {f"task{i}": s for i, s in enumerate(bert.states)}
    norm = "bert.encoder.layer.0.output.LayerNorm.weight"
    for name, weights in states.items():
        for index, raw in enumerate(bert.raw):
            own = bert.states[index]
            expected = quadratic(joined(weights, LAYER) - joined(own, LAYER), kfac(raw, LAYER))
            layer = by_name[name].layers[f"{LAYER}.weight"][f"task{index}"]
            assert layer == pytest.approx(expected, rel=1e-5, abs=1e-12)
            block = raw.sums.tensors[f"block/{norm}"].numpy() / raw.examples
            expected = quadratic((weights[norm].double() - own[norm].double()).numpy(), block)
            assert by_name[name].layers[norm][f"task{index}"] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    for index in range(3):  # a model's own weights cost its own task nothing, and the others something
        assert by_name[f"task{index}"].tasks[f"task{index}"] == 0
        assert by_name[f"task{index}"].tasks[f"task{(index + 1) % 3}"] > 0
    tasks = by_name["other"].tasks
    assert by_name["other"].mean(found.weights) == pytest.approx(np.average(list(tasks.values()), weights=WEIGHTS))
    assert tasks["task0"] == pytest.approx(sum(parts["task0"] for parts in by_name["other"].layers.values()))


def test_the_report_of_a_merge_and_the_prediction_agree(bert: Family, tmp_path: Path, light_report: None) -> None:
    """The certificate's quadratics are the same, where a solve has the same curvature."""
    from mats.methods import MatsSettings

    result = merge(replace(request(bert), method=MatsSettings(), output=tmp_path / "out"))
    (candidate,) = predict(request(bert), {"out": str(result.path)}, inputs_too=False).candidates
    for layer in result.report["layers"]:
        if layer["rule"] in ("kfac", "block"):
            assert candidate.layers[layer["name"]] == pytest.approx(layer["loss_after"], rel=1e-4, abs=1e-9)


def test_memory_budget_and_order_do_not_matter(bert: Family) -> None:
    whole = predict(request(bert), {})
    pieces = predict(request(bert, memory_budget=400_000), {})
    for one, other in zip(whole.candidates, pieces.candidates, strict=True):
        assert one.tasks == pytest.approx(other.tasks, rel=1e-9)
    assert whole.share == pieces.share


def test_what_is_not_covered_is_counted_and_told(t5: Family) -> None:
    """lm_head is too wide for an output Gram: no part of the loss, but of the output error."""
    loss, error = (predict(request(t5), {}, quantity=quantity) for quantity in ("loss", "output_error"))
    head = "lm_head.weight"
    assert "output_gram" in loss.uncovered[head]
    assert head not in error.uncovered
    sizes = {name: tensor.numel() for name, tensor in t5.base_state.items() if "embed_tokens" not in name}
    assert loss.total == sum(sizes.values())
    assert loss.covered == loss.total - sum(sizes[name] for name in loss.uncovered)
    assert 0 < loss.share < 1
    assert loss.to_json()["unit"] == "nats per example"
    assert "layer outputs" in error.to_json()["unit"]
    json.dumps(loss.to_json(), allow_nan=False)


def test_output_errors_are_regmeans_quadratic(bert: Family) -> None:
    base = predict(request(bert), {}, quantity="output_error").candidates[0]
    for index, raw in enumerate(bert.raw):
        gram = raw.sums.tensors[f"input_gram/{raw.layers[LAYER].site}"].numpy()
        curvature = engine_oracle.regmean(gram, 24, raw.examples)
        expected = quadratic(joined(bert.base_state, LAYER) - joined(bert.states[index], LAYER), curvature)
        assert base.layers[f"{LAYER}.weight"][f"task{index}"] == pytest.approx(expected, rel=1e-5)


def test_for_a_linear_gaussian_model_the_prediction_is_the_true_rise(tmp_path: Path) -> None:
    """There the loss is the quadratic: −log p(y | x) = ½‖y − W x‖² + constant, with optimum W_i."""
    models, data = linear_gaussian(tmp_path)
    matrix = np.random.default_rng(5).standard_normal((3, 5))
    (tmp_path / "any").mkdir()
    write_linear(tmp_path / "any", matrix)
    asked = MergeRequest(tuple(models), TiesSettings(), Path("unused"), device="cpu")
    found = predict(asked, {"any": str(tmp_path / "any")})
    assert found.share == 1.0
    assert [candidate.name for candidate in found.candidates] == ["task0", "task1", "any"]

    def loss(weights: np.ndarray, task: int) -> float:
        inputs, outputs = data[task]
        return 0.5 * float(np.square(outputs - inputs @ weights.T).sum(axis=1).mean())

    solutions = [solution(*task) for task in data]
    for candidate, weights in zip(found.candidates, [*solutions, matrix], strict=True):
        for task in range(2):
            rise = loss(weights, task) - loss(solutions[task], task)
            assert candidate.tasks[f"task{task}"] == pytest.approx(rise, rel=1e-5, abs=1e-9)
    assert found.candidates[2].tasks["task0"] > 1  # control: the numbers are not all near 0


def test_candidates_with_fewer_tensors_shrink_the_cover(bert: Family, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in bert.states[0].items() if not name.startswith("classifier")}
    (tmp_path / "body").mkdir()
    save_file(state, tmp_path / "body" / "model.safetensors", {"format": "pt"})
    (tmp_path / "body" / "config.json").write_text((bert.base / "config.json").read_text())
    whole, body = predict(request(bert), {}), predict(request(bert), {"body": str(tmp_path / "body")})
    assert body.uncovered["classifier.weight"] == "not in every candidate"
    assert body.covered == whole.covered - 3 * 16 - 3
    assert "classifier.weight" not in body.candidates[0].layers


def test_what_cannot_be_predicted_is_refused(bert: Family) -> None:
    with pytest.raises(RequestError, match="nothing to predict for"):
        predict(request(bert), {}, inputs_too=False)
    with pytest.raises(RequestError, match=r"the name 'task1' of .* is taken"):
        predict(request(bert), {"task1": str(bert.models[1])})
    with pytest.raises(RequestError, match="needs metadata"):
        predict(replace(request(bert), models=bert.inputs(metadata=False)), {})
    swapped = [replace(model, metadata=store) for model, store in zip(bert.inputs(), bert.stores[::-1], strict=True)]
    with pytest.raises(FingerprintMismatch, match="measured on"):
        predict(replace(request(bert), models=tuple(swapped)), {})


def test_better_merges_are_predicted_to_be_better(bert: Family, tmp_path: Path, light_report: None) -> None:
    """The minimiser of the quadratic has the least, and a task vector at ten times its scale far more."""
    from mats.methods import MatsSettings, SolverChoice

    methods = {
        "mats": MatsSettings(anchor=0.0, solver=SolverChoice(name="cg", max_iterations=2000, precision="float64")),
        "sane": TaskArithmeticSettings(scale=0.3),
        "wild": TaskArithmeticSettings(scale=3.0),
    }
    paths = {
        name: str(merge(replace(request(bert), method=method, output=tmp_path / name)).path)
        for name, method in methods.items()
    }
    found = predict(request(bert), paths)
    means = {candidate.name: candidate.mean(found.weights) for candidate in found.candidates}
    assert means["mats"] == min(means.values())
    assert means["sane"] < means["wild"] / 5


def test_heads_that_are_kept_apart_have_no_part(bert: Family) -> None:
    from mats.engine import Heads

    whole, bodies = predict(request(bert), {}), predict(request(bert, heads=Heads()), {})
    assert not [name for name in bodies.candidates[0].layers if name.startswith("classifier")]
    assert "classifier.weight" not in bodies.uncovered
    assert (bodies.total, bodies.covered) == (whole.total - 3 * 17, whole.covered - 3 * 17)
