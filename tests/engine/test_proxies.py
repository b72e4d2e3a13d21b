from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from engine_families import draw_store, make_model, nudge, write_raw
from engine_families import save as save_bare
from safetensors.torch import load_file
from scipy.linalg import sqrtm

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, ModelInput, merge, plan_merge, predict
from mats.engine.proxies import root_gram, write_proxy
from mats.engine.skeletons import skeleton_of
from mats.errors import InputsMismatch, OutputExists, RequestError
from mats.methods.fisher import FisherSettings
from mats.methods.mats import MatsSettings
from mats.methods.regmean import RegMeanSettings
from mats.store import open_store, verify_store


def save(model, folder):
    """As `save_pretrained` does, the class named in the config."""
    model.config.architectures = [type(model).__name__]
    save_bare(model, folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny BERT and two specialists of it."""
    root = tmp_path_factory.mktemp("proxies")
    base = make_model("bert", 0)
    save(base, root / "base")
    for seed in (1, 2):
        save(nudge(make_model("bert", 0), seed), root / f"task{seed}")
    return root


def change_of(root, layer, task="task1"):
    """[τ_W | τ_b] in float64, read by safetensors alone."""
    states = [load_file(root / name / "model.safetensors") for name in (task, "base")]
    weight, bias = (states[0][f"{layer}.{x}"].double() - states[1][f"{layer}.{x}"].double() for x in ("weight", "bias"))
    return np.concatenate([weight.numpy(), bias.numpy()[:, None]], axis=1)


LAYER = "bert.encoder.layer.1.output.dense"


@pytest.mark.parametrize("kind", ["task_vector_gram", "task_vector_root"])
def test_grams_are_those_of_the_task_vector(pair, tmp_path, kind):
    store = open_store(write_proxy(str(pair / "base"), str(pair / "task1"), tmp_path / "store", kind))
    change = change_of(pair, LAYER)
    for statistic, gram in (("input_gram", change.T @ change), ("output_gram", change @ change.T)):
        if kind == "task_vector_root":
            gram = np.real(sqrtm(gram))
        expected = gram * len(gram) / np.trace(gram)
        np.testing.assert_allclose(store.sum(f"{statistic}/{LAYER}").numpy(), expected, rtol=1e-3, atol=2e-4)
    assert store.proxy == kind
    assert verify_store(store.path) == []
    assert len(store.manifest.layers) == 14
    assert "bert.embeddings.word_embeddings.weight" in store.manifest.uncovered
    assert store.manifest.model.base == str(pair / "base")


def test_squares_have_mean_one_and_cover_all(pair, tmp_path):
    store = open_store(write_proxy(str(pair / "base"), str(pair / "task1"), tmp_path / "store", "task_vector_square"))
    change = change_of(pair, LAYER)[:, :-1]
    expected = change**2 / (change**2).mean()
    np.testing.assert_allclose(store.sum(f"diagonal/{LAYER}.weight").numpy(), expected, rtol=1e-5)
    assert store.manifest.uncovered == {}


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (4, 1)])
def test_the_root_from_either_side(shape):
    change = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = root_gram(change)
    torch.testing.assert_close(root @ root, change.T @ change)
    assert torch.linalg.eigvalsh(root).min() > -1e-9
    assert torch.equal(root_gram(torch.zeros(shape, dtype=torch.float64)), torch.zeros(shape[1], shape[1]).double())


def test_layers_of_other_families(tmp_path):
    for family, kinds in (("gpt2", {"conv1d"}), ("vit", {"conv2d", "linear"}), ("t5", {"linear"})):
        save(make_model(family, 0), tmp_path / family)
        with open_checkpoint(str(tmp_path / family)) as checkpoint:
            layers = list(skeleton_of(checkpoint).layers())
        assert kinds <= {layer.kind for layer in layers}, family
        assert all(layer.weight in checkpoint.tensors for layer in layers)


def test_a_transposed_layer_has_its_inputs_first(tmp_path):
    for name, seed in (("base", None), ("task", 3)):
        model = make_model("gpt2", 0)
        save(model if seed is None else nudge(model, seed), tmp_path / name)
    store = open_store(write_proxy(str(tmp_path / "base"), str(tmp_path / "task"), tmp_path / "s", "task_vector_gram"))
    layer = "transformer.h.0.mlp.c_fc"
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("task", "base")]
    weight, bias = (states[0][f"{layer}.{x}"].double() - states[1][f"{layer}.{x}"].double() for x in ("weight", "bias"))
    change = torch.cat([weight.T, bias[:, None]], dim=1)
    gram = change.T @ change
    assert store.sum(f"input_gram/{layer}").shape == (17, 17)
    torch.testing.assert_close(
        store.sum(f"input_gram/{layer}").double(), gram * 17 / gram.trace(), rtol=1e-4, atol=1e-5
    )


METHODS = {
    "task_vector_gram": (MatsSettings(), "kfac"),
    "task_vector_root": (RegMeanSettings(anchor=0.01), "input_gram"),
    "task_vector_square": (FisherSettings(), "diagonal"),
}


@pytest.mark.parametrize("kind", METHODS)
def test_every_quadratic_method_runs_without_data_and_says_so(pair, tmp_path, kind):
    method, rule = METHODS[kind]
    models = []
    for task in ("task1", "task2"):
        write_proxy(str(pair / "base"), str(pair / task), tmp_path / task, kind)
        models.append(ModelInput(task, str(pair / task), 1.0, tmp_path / task))
    request = MergeRequest(tuple(models), method, tmp_path / "out", base=str(pair / "base"))
    assert f"the metadata of task1 are a proxy ({kind}), not measured on data" in plan_merge(request).notes
    merge(request)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["parameters"]["by_rule"][rule] > 0
    assert report["models"][0]["proxy"] == kind
    assert report["models"][0]["examples"] is None
    assert f"proxy ({kind}), no data" in (tmp_path / "out" / "README.md").read_text()
    if kind == "task_vector_root":
        return
    changes = [change_of(pair, LAYER, task) for task in ("task1", "task2")]
    if kind == "task_vector_square":
        changes = [change[:, :-1] for change in changes]
        weights = [change**2 / (change**2).mean() for change in changes]
        start = sum(changes) / 2
        anchor = 1e-6 * 2.0
        expected = (sum(w * c for w, c in zip(weights, changes, strict=True)) + anchor * start) / (
            sum(weights) + anchor
        )
        merged = load_file(tmp_path / "out" / "model.safetensors")[f"{LAYER}.weight"].double()
        base = load_file(pair / "base" / "model.safetensors")[f"{LAYER}.weight"].double()
        np.testing.assert_allclose((merged - base).numpy(), expected, rtol=0, atol=2e-5)
    with pytest.raises(RequestError, match=rf"predict: the metadata of task1 are a proxy \({kind}\)"):
        predict(request, {})


def test_what_cannot_have_a_proxy_is_told(pair, tmp_path):
    base, task = str(pair / "base"), str(pair / "task1")
    with pytest.raises(RequestError, match=r"kind 'gram': one of task_vector_gram, task_vector_root, "):
        write_proxy(base, task, tmp_path / "x", "gram")
    with pytest.raises(InputsMismatch, match="there is no task vector"):
        write_proxy(base, base, tmp_path / "x", "task_vector_gram")
    write_proxy(base, task, tmp_path / "x", "task_vector_square")
    with pytest.raises(OutputExists, match="exists already"):  # said before the weights are looked for
        write_proxy(base, str(pair / "nothing"), tmp_path / "x", "task_vector_square")
    save(make_model("bert", 0), tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    for architectures, message in ((["BertForNothing"], "no class BertForNothing"), (None, "names no class")):
        (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
        with pytest.raises(RequestError, match=message):
            write_proxy(base, str(tmp_path / "odd"), tmp_path / "y", "task_vector_gram")
    assert not (tmp_path / "y").exists()


def test_a_proxy_never_replaces_its_model(pair):
    before = (pair / "task1" / "model.safetensors").read_bytes()
    with pytest.raises(RequestError, match="task1: is an input, which would be lost"):
        write_proxy(str(pair / "base"), str(pair / "task1"), pair / "task1", "task_vector_gram", overwrite=True)
    assert (pair / "task1" / "model.safetensors").read_bytes() == before


def test_a_store_whose_layers_share_sites_merges_with_one_whose_layers_do_not(pair, tmp_path):
    """Collection keeps one input Gram for queries, keys and values; a proxy has one for each of them."""
    task1, task2 = (str(pair / name) for name in ("task1", "task2"))
    base = str(pair / "base")
    write_proxy(base, task2, tmp_path / "proxy", "task_vector_gram")
    attention = "bert.encoder.layer.1.attention.self"
    shared = {f"{attention}.{part}": f"{attention}.query" for part in ("key", "value")}
    raw, vectors, _ = draw_store(make_model("bert", 0), 5, shared=shared)
    write_raw(tmp_path / "drawn", raw, pair / "task1", vectors)
    values = []
    for first in (0, 1):
        models = (
            ModelInput("task1", task1, 1.0, tmp_path / "drawn"),
            ModelInput("task2", task2, 1.0, tmp_path / "proxy"),
        )
        ordered = models if first == 0 else models[::-1]
        output = tmp_path / f"out{first}"
        merge(MergeRequest(ordered, MatsSettings(), output, base=base))
        values.append(load_file(output / "model.safetensors"))
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name], rtol=1e-4, atol=1e-5, msg=name)
