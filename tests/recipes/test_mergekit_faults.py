"""What is wrong with a merge file is told by file, line and key, before any model is opened."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mats.errors import InputsMismatch, RecipeError
from mats.recipes.mergekit import Options, merge_file_request, read_merge_file, with_overrides
from mats.yaml_reader import read_yaml

MODELS = [{"model": "one", "parameters": {"weight": 1.0}}, {"model": "two", "parameters": {"weight": 1.0}}]
TIES: dict[str, Any] = {"merge_method": "ties", "base_model": "base", "models": MODELS}
SLERP: dict[str, Any] = {"merge_method": "slerp", "base_model": "one", "models": [{"model": "one"}, {"model": "two"}]}


def told(file: dict[str, Any], root: Path) -> str:
    """The faults of a file."""
    path = root / "merge.yaml"
    path.write_text(yaml.safe_dump(file, sort_keys=False))
    with pytest.raises(RecipeError, match=r"merge\.yaml") as caught:
        read_merge_file(read_yaml(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_method": "dare-ties"}, "merge_method: received 'dare-ties'; did you mean 'dare_ties'?"),
        ({"merge_method": "karcher"}, "merge_method: 'karcher' is not supported"),
        ({"paramters": {"lambda": 1}}, "paramters: unknown key; did you mean 'parameters'?"),
        ({"parameters": {"lamda": 1}}, "parameters.lamda: unknown key; did you mean 'lambda'?"),
        ({"parameters": {"t": 1}}, "parameters.t: unknown key"),
        ({"parameters": {"epsilon": 0.1}}, "parameters.epsilon: unknown key"),
        ({"models": [{"model": "one", "weight": 1}]}, "models.0.weight: stands beside parameters"),
        (
            {"models": [{"model": "one", "parameters": {"lambda": 1, "weight": 1}}]},
            "models.0.parameters.lambda: is one for all models",
        ),
        ({"models": []}, "models: received []; a list would be right"),
        ({"slices": []}, "exactly one of models, slices, modules must be given, not models and slices"),
        ({"models": None}, "exactly one of models, slices, modules must be given, not none of them"),
        ({"base_model": None}, "merge_method ties needs a base_model"),
        ({"base_model": "base+adapter"}, "base_model: received base+adapter; an adapter on the base itself"),
        ({"dtype": "int64"}, "dtype: received 'int64'; one of float32, float16, bfloat16"),
        ({"name": "part"}, "name: names belong to mergekit-multi"),
        ({"input_model_parameters": {}}, "input_model_parameters: read by no version of mergekit"),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "base"}, "tokenizer_source: stands beside tokenizer"),
        ({"parameters": {"density": 1.5}}, r"parameters.density: received 1.5; a number in [0, 1] would be right"),
        ({"parameters": {"density": "half"}}, "parameters.density: received 'half'; a number would be right"),
        ({"parameters": {"normalize": "yes"}}, "parameters.normalize: received 'yes'; true or false would be right"),
        ({"parameters": {"weight": []}}, "parameters.weight: an empty list"),
        (
            {"parameters": {"weight": [{"filter": "mlp", "vaule": 1}]}},
            "parameters.weight.0.vaule: unknown key; did you mean 'value'?",
        ),
        ({"base_model": {"model": "one", "override_architecture": "X"}}, "base_model.override_architecture: "),
        ({"unmatched": "copy"}, "unmatched: received 'copy'; error or base would be right"),
        ({"modules": {"decoder": {}}, "models": None}, "modules.decoder: a mapping with either models or slices"),
    ],
)
def test_r14_unknown_keys_and_wrong_values_are_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = {key: value for key, value in {**TIES, **change}.items() if value is not None}
    assert message in told(file, tmp_path)


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = told({**TIES, "parameters": {"lamda": 1, "normalise": 2}, "dtpye": "x"}, tmp_path).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["parameters.lamda", "parameters.normalise", "dtpye"]
    assert len({line.split(":")[1] for line in lines}) == 3  # each with its own line


def test_slices_of_unequal_lengths_and_other_bases_are_refused(tmp_path: Path) -> None:
    sources = [{"model": "one", "layer_range": [0, 2]}, {"model": "two", "layer_range": [0, 3]}]
    file = {"merge_method": "linear", "parameters": {"weight": 1}, "slices": [{"sources": sources}]}
    assert "slices.0.sources: layer ranges of lengths [2, 3]; one length would be right" in told(file, tmp_path)
    equal = {"sources": sources[:1], "base_model": "other", "residual_weight": 1.0}
    received = told({**file, "slices": [equal]}, tmp_path)
    assert "slices.0.base_model: another base than the file's is not supported" in received
    assert "slices.0.residual_weight: of no effect in mergekit" in received
    backwards = {"sources": [{"model": "one", "layer_range": [3, 2]}]}
    assert "layer_range: received [3, 2]" in told({**file, "slices": [backwards]}, tmp_path)


def test_r14_a_misspelt_key_fails_within_a_second_and_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump({**TIES, "merge_method": "dare-ties"}))
    code = (
        "import sys, time; started = time.time(); from mats.cli.main import main; "
        f"status = main(['merge', {str(path)!r}, {str(tmp_path / 'out')!r}]); "
        "print(time.process_time(), 'torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_was_imported, status = done.stdout.split()[-3:]
    assert (torch_was_imported, status) == ("False", "2")
    assert float(seconds) < 1.5  # of processor time; the machine may be busy
    assert "did you mean 'dare_ties'?" in done.stderr


def test_overrides_reach_into_a_merge_file_and_say_when_they_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(TIES))
    changed = with_overrides(read_yaml(path), ["parameters.lambda=0.5", "models.1.parameters.weight=[0, 1]"])
    assert changed.data["parameters"] == {"lambda": 0.5}
    assert changed.data["models"][1]["parameters"] == {"weight": [0, 1]}
    with pytest.raises(RecipeError, match=r"models\.7\.model=x: leads nowhere"):
        with_overrides(read_yaml(path), ["models.7.model=x"])


def test_a_parameter_without_a_value_somewhere_is_told_by_tensor(tmp_path: Path) -> None:
    from mergekit_models import family

    paths = family(tmp_path / "family", layers=2)
    filtered = {"weight": [{"filter": "mlp", "value": 0.4}]}
    file = {"merge_method": "linear", "models": [{"model": str(paths["m1"]), "parameters": filtered}]}
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(RecipeError, match=r"models.0 .*weight: no value for .*unmatched: base"):
        merge_file_request(read_yaml(path), Options(tmp_path / "out"))


@pytest.mark.parametrize(
    ("sources", "method", "message"),
    [
        ([("m1", [0, 5])], "passthrough", r"layer_range \[0, 5\]: .*m1 has 2 layers model.layers"),
        ([("m1", [0, 2]), ("m2", [0, 2])], "passthrough", "passthrough takes 1 models, and 2 have this tensor"),
        ([("m1", [0, 2])], "ties", "ties needs the base's layers; the base_model among the sources"),
        ([("m1", [0, 2]), ("base", [0, 2])], "model_stock", "takes at least 2 models beside the base, and 1 have"),
    ],
)
def test_sources_that_do_not_fit_a_method_are_told(
    sources: list[tuple[str, list[int]]], method: str, message: str, tmp_path: Path
) -> None:
    from mergekit_models import family

    paths = family(tmp_path / "family", layers=2)
    entries = [{"model": str(paths[name]), "layer_range": layers} for name, layers in sources]
    file: dict[str, Any] = {"merge_method": method, "slices": [{"sources": entries}]}
    if method == "ties":
        file["parameters"] = {"weight": 1}
    if method != "passthrough":
        file["base_model"] = str(paths["base"])
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(InputsMismatch, match=message):
        merge_file_request(read_yaml(path), Options(tmp_path / "out"))


def test_planning_is_linear_in_the_number_of_tensors() -> None:
    from mats.recipes.mergekit.assigning import Assigner
    from mats.recipes.mergekit.laying_out import whole_parts
    from mats.recipes.mergekit.structure import structure_of
    from mats.yaml_reader import YamlFile

    weight = [{"filter": "up", "value": [0.1, 0.9, 0.2]}, {"value": 1.0}]
    models = [{"model": name, "parameters": {"weight": weight, "density": [0.1, 0.5]}} for name in ("a", "b", "c")]
    file = read_merge_file(YamlFile(Path("x.yaml"), {**TIES, "models": models}))
    names = [f"model.layers.{layer}.expert.{part}.up.weight" for layer in range(100) for part in range(500)]
    started = time.process_time()
    assigned = Assigner(file, 0).assign(whole_parts(file, structure_of(names, {"num_hidden_layers": 100})))
    assert len(assigned) == 50_000
    assert len({id(settings) for settings in assigned.values()}) == 100
    assert time.process_time() - started < 5


def test_a_file_of_our_own_method_takes_the_seed_and_refuses_what_is_about_filters(tmp_path: Path) -> None:
    own = {"merge_method": "sparse_task_arithmetic", "base_model": "base", "models": [{"model": "one"}]}
    thinned = own | {"parameters": {"sparsify": "random", "density": 0.5}}
    assert "unmatched: merge_method sparse_task_arithmetic has one value" in told(own | {"unmatched": "base"}, tmp_path)
    for file, expected in ((thinned, 7), (own | {"parameters": thinned["parameters"] | {"seed": 3}}, 3), (own, 0)):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(file))
        method = merge_file_request(read_yaml(path), Options(tmp_path / "out", seed=7)).method
        assert method.model_dump()["seed"] == expected
