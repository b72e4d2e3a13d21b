"""Automatic task-vector scales against a dense least-squares problem, and against every other choice of scales."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import engine_oracle
import numpy as np
import pytest
import torch
from engine_families import Family
from safetensors.torch import load_file

from mats.engine import MergeRequest, merge, plan_merge
from mats.engine.auto_scale import find_scales, solve_scales
from mats.engine.inputs import MergeInputs
from mats.engine.prediction import predict
from mats.errors import RequestError
from mats.methods import MatsSettings, TaskArithmeticSettings

pytestmark = pytest.mark.usefixtures("light_report")
WEIGHTS = (1.0, 2.5, 0.5)
AUTO = TaskArithmeticSettings(scale="auto")
BY_LAYER = TaskArithmeticSettings(scale="auto", scale_scope="layer")


def request(family: Family, output: Path, method: object = AUTO, **options: object) -> MergeRequest:
    weights = WEIGHTS[: len(family.models)]
    models = family.inputs(weights=weights)
    return MergeRequest(models, method, output, base=str(family.base), device="cpu", **options)  # type: ignore[arg-type]


def square_root(matrix: np.ndarray) -> np.ndarray:
    """R with Rᵀ R = matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.sqrt(values.clip(0))[:, None] * vectors.T


def rows(family: Family, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One parameter's part of the least-squares problem min ‖R s − b‖²: all tasks stacked, weighted by √λ."""
    left, right = [], []

    def flat(state: dict[str, torch.Tensor]) -> np.ndarray:
        weight = state[name].double().numpy()
        bias = name.removesuffix("weight") + "bias"
        if weight.ndim > 1 and bias in state:
            weight = np.concatenate([weight, state[bias].double().numpy()[:, None]], axis=1)
        return weight.ravel()

    vectors = np.stack([flat(state) - flat(family.base_state) for state in family.states], axis=1)
    for index, raw in enumerate(family.raw):
        layer = raw.layers.get(name.removesuffix(".weight"))
        if layer is None:
            curvature = raw.sums.tensors[f"block/{name}"].numpy() / raw.examples
        else:
            grams = (raw.sums.tensors[f"input_gram/{layer.site}"], raw.sums.tensors[f"output_gram/{layer.name}"])
            sums = (np.diag(gram) if gram.ndim == 1 else gram for gram in (gram.numpy() for gram in grams))
            curvature = engine_oracle.kfac(*sums, raw.examples, raw.sums.tokens[f"site:{layer.site}"])
        root = np.sqrt(WEIGHTS[index]) * square_root(curvature)
        left.append(root @ vectors)
        right.append(root @ vectors[:, index])
    return np.concatenate(left), np.concatenate(right)


def covered(family: Family) -> list[str]:
    """Weights of layers with two Grams, and vectors with a block that no layer's bias is."""
    raw = family.raw[0]
    biases = {layer.bias for layer in raw.layers.values()}
    vectors = [key.removeprefix("block/") for key in raw.sums.tensors if key.startswith("block/")]
    layers = [layer.weight for layer in raw.layers.values() if layer.kind != "embedding"]
    return [*layers, *(name for name in vectors if name not in biases)]


def test_scales_are_the_dense_least_squares(bert: Family, tmp_path: Path) -> None:
    """Embeddings aside: their rows of the dense problem would not fit a test."""
    with MergeInputs(request(bert, tmp_path / "out")) as inputs:
        from mats.progress import Silent

        found = find_scales(inputs, Silent())
    assert found.quantity == "loss"
    for name in covered(bert):
        expected = np.linalg.lstsq(*rows(bert, name), rcond=1e-10)[0]
        np.testing.assert_allclose(found.layers[name], expected, rtol=1e-4, atol=1e-7, err_msg=name)
    classifier = found.layers["classifier.weight"]
    assert found.layers["classifier.bias"] == classifier
    assert np.abs(np.subtract(classifier, found.overall)).max() > 0.01  # layers do differ


def no_embeddings(family: Family, root: Path) -> Family:
    """The family without what would not fit a dense problem: embeddings carry no Grams."""
    from engine_families import draw_store, make_model, nudge, write_raw

    result = replace(family, stores=[], raw=[])
    for index, path in enumerate(family.models):
        raw, parameters, _ = draw_store(nudge(make_model("bert", 0), 100 + index), 300 + index)
        for layer in [layer for layer in raw.layers.values() if layer.kind == "embedding"]:
            del raw.layers[layer.name], raw.sites[layer.site]
            for key in (f"input_gram/{layer.site}", f"output_gram/{layer.name}"):
                raw.sums.tensors.pop(key, None)
            for key in (f"site:{layer.site}", f"layer:{layer.name}"):
                raw.sums.tokens.pop(key, None)
                raw.sums.fourth_moments.pop(key, None)
        write_raw(root / f"store{index}", raw, path, parameters)
        result.stores.append(root / f"store{index}")
        result.raw.append(raw)
    return result


def test_the_whole_models_scales_and_what_they_make(bert: Family, tmp_path: Path) -> None:
    family = no_embeddings(bert, tmp_path)
    parts = [rows(family, name) for name in covered(family)]
    expected = np.linalg.lstsq(*(np.concatenate(part) for part in zip(*parts, strict=True)), rcond=1e-10)[0]
    result = merge(request(family, tmp_path / "out"))
    scales = result.report["scales"]
    np.testing.assert_allclose(list(scales["overall"].values()), expected, rtol=1e-4)
    assert scales["minimise"] == "loss"
    merged = load_file(result.path / "model.safetensors")
    for name, base in family.base_state.items():
        change = sum(s * (state[name] - base) for s, state in zip(expected, family.states, strict=True))
        torch.testing.assert_close(merged[name], base + change, rtol=1e-4, atol=1e-5)


def test_by_layer_what_is_uncovered_takes_the_whole_models_scales(bert: Family, tmp_path: Path) -> None:
    family = no_embeddings(bert, tmp_path)
    result = merge(request(family, tmp_path / "out", BY_LAYER))
    scales, merged = result.report["scales"], load_file(result.path / "model.safetensors")
    for name, base in family.base_state.items():
        own = scales["layers"].get(name, scales["overall"])
        change = sum(s * (state[name] - base) for s, state in zip(own.values(), family.states, strict=True))
        torch.testing.assert_close(merged[name], base + change, rtol=1e-4, atol=1e-6)
    assert "bert.embeddings.word_embeddings.weight" not in scales["layers"]


def test_no_other_scales_are_predicted_to_do_better(bert: Family, tmp_path: Path) -> None:
    methods = {"auto": AUTO, "by_layer": BY_LAYER}
    methods |= {f"{scale}": TaskArithmeticSettings(scale=scale) for scale in (0.1, 0.3, 0.5, 1.0)}
    paths = {name: str(merge(request(bert, tmp_path / name, method)).path) for name, method in methods.items()}
    found = predict(request(bert, tmp_path), paths, inputs_too=False)
    means = {candidate.name: candidate.mean(found.weights) for candidate in found.candidates}
    assert means["by_layer"] < means["auto"] < min(means[name] for name in ("0.1", "0.3", "0.5", "1.0"))


def test_as_a_start_it_is_that_merge(bert: Family, tmp_path: Path) -> None:
    """With an overwhelming anchor the solve stays at its start."""
    started = MatsSettings(init=BY_LAYER, anchor=1e12)
    solved = load_file(merge(request(bert, tmp_path / "solved", started)).path / "model.safetensors")
    plain = load_file(merge(request(bert, tmp_path / "plain", BY_LAYER)).path / "model.safetensors")
    other = load_file(merge(request(bert, tmp_path / "other")).path / "model.safetensors")
    for name, tensor in plain.items():
        torch.testing.assert_close(solved[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other["classifier.weight"], plain["classifier.weight"], atol=1e-3)


def test_input_grams_alone_minimise_the_output_error(bert: Family, tmp_path: Path) -> None:
    from engine_families import draw_store, make_model, nudge, write_raw

    family = replace(bert, stores=[])
    for index, path in enumerate(bert.models):
        raw, *_ = draw_store(nudge(make_model("bert", 0), 100 + index), 300 + index, output_gram_limit=0, vectors=())
        write_raw(tmp_path / f"store{index}", raw, path, [])
        family.stores.append(tmp_path / f"store{index}")
    report = merge(request(family, tmp_path / "out")).report
    assert report["scales"]["minimise"] == "output_error"
    assert all(0 < scale < 1.5 for scale in report["scales"]["overall"].values())
    json.dumps(report["scales"], allow_nan=False)


def test_task_vectors_that_depend_on_each_other_have_the_shortest_scales() -> None:
    """Two equal models: any split of the weight fits, each takes half."""
    task_vector, other = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5])
    vectors = np.stack([task_vector, task_vector, other], axis=1)
    curvatures = [np.diag([1.0, 2.0, 0.5]), np.diag([1.0, 2.0, 0.5]), np.diag([3.0, 1.0, 1.0])]
    matrix = sum(vectors.T @ c @ vectors for c in curvatures)
    right = sum(vectors.T @ c @ vectors[:, i] for i, c in enumerate(curvatures))
    scales = solve_scales(torch.from_numpy(np.concatenate([matrix, right[:, None]], axis=1)))
    assert scales[0] == pytest.approx(scales[1])
    np.testing.assert_allclose(matrix @ scales, right)


def test_what_cannot_be_solved_is_refused_before_the_work(bert: Family, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needs metadata"):
        plan_merge(replace(request(bert, tmp_path / "out"), models=bert.inputs(metadata=False)))
    with pytest.raises(RequestError, match="needs a base"):
        plan_merge(replace(request(bert, tmp_path / "out"), base=None))
    subtracted = tuple(replace(model, weight=-1.0) for model in bert.inputs())
    with pytest.raises(RequestError, match=r"weight -1 .*a number in \(0, ∞\) would be right"):
        plan_merge(replace(request(bert, tmp_path / "out"), models=subtracted))
    assert not MatsSettings(fallback=("identity",)).reads_metadata
    assert MatsSettings(fallback=("identity",), init=AUTO).reads_metadata
    with pytest.raises(RuntimeError, match="before its automatic scales were known"):
        AUTO.build([1.0]).merge("w", torch.ones(2), iter([torch.ones(2)]))
