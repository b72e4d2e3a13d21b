"""The plan: which rule each parameter gets and why, what is solved together, and that no tensor is read for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_families import Family, draw_store, make_family, make_model, write_raw

from mats.checkpoints import Checkpoint
from mats.engine import MergePlan, MergeRequest, Rule, System, plan_merge
from mats.errors import RequestError
from mats.methods import AverageSettings, MatsSettings
from mats.methods.pointwise import PointwiseSettings
from mats.store import MetadataStore


def system(plan: MergePlan, weight: str) -> System:
    return next(system for group in plan.groups for system in group.systems if system.weight == weight)


@pytest.fixture
def wanted(bert: Family, tmp_path: Path) -> MergeRequest:
    return MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")


def test_no_tensor_is_read(wanted: MergeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a plan read a tensor")

    monkeypatch.setattr(Checkpoint, "read", never)
    monkeypatch.setattr(Checkpoint, "fingerprint", never)
    monkeypatch.setattr(MetadataStore, "sum", never)
    plan = plan_merge(wanted)
    assert sum(plan.by_rule.values()) == sum(info.numel for info in plan.tensors)
    assert not wanted.output.exists()


def test_biases_ride_and_everything_is_accounted_for_once(wanted: MergeRequest) -> None:
    plan = plan_merge(wanted)
    names = [name for group in plan.groups for name in group.names] + [part.name for part in plan.streamed]
    assert sorted(names) == sorted(info.name for info in plan.tensors)
    query = system(plan, "bert.encoder.layer.0.attention.self.query.weight")
    assert query.bias == "bert.encoder.layer.0.attention.self.query.bias"
    assert query.shape == (16, 17)
    assert system(plan, "bert.embeddings.word_embeddings.weight").shape == (16, 37)


def test_a_bias_with_a_rule_of_its_own_does_not_ride(wanted: MergeRequest) -> None:
    plan = plan_merge(replace(wanted, rules=(Rule("*.bias", AverageSettings()),)))
    assert system(plan, "bert.pooler.dense.weight").bias is None
    assert system(plan, "bert.pooler.dense.weight").shape == (16, 16)
    assert {part.rule for part in plan.streamed if part.name.endswith("bias")} == {"average"}


def test_same_shapes_are_solved_together(wanted: MergeRequest) -> None:
    groups = plan_merge(wanted).groups
    attention = next(g for g in groups if any("query" in name for name in g.names))
    assert len(attention.systems) == 9  # q, k, v, o of two layers, and the pooler: all [16, 17]
    assert len({(s.shape, s.rule) for s in attention.systems}) == 1


def test_one_store_without_a_statistic_decides_for_all(wanted: MergeRequest, bert: Family, tmp_path: Path) -> None:
    raw, parameters, _ = draw_store(make_model("bert", 0), 1, output_gram_limit=20, vectors=("diagonal",))
    write_raw(tmp_path / "lean", raw, bert.models[0], parameters)
    models = (replace(wanted.models[0], metadata=tmp_path / "lean"), *wanted.models[1:])
    plan = plan_merge(replace(wanted, models=models))
    wide = system(plan, "bert.encoder.layer.0.intermediate.dense.weight")
    assert wide.rule == "input_gram"
    assert wide.reason == "kfac: task0: no output_gram of layer bert.encoder.layer.0.intermediate.dense"
    assert system(plan, "bert.encoder.layer.0.output.LayerNorm.weight").rule == "diagonal"
    assert "block: task0: no block" in plan.fallbacks["bert.encoder.layer.0.output.LayerNorm.weight"]


def test_sites_without_the_homogeneous_one_leave_the_bias_to_itself(tmp_path: Path) -> None:
    family = make_family(tmp_path, "bert", models=2, homogeneous=[True, False])
    plan = plan_merge(MergeRequest(family.inputs(), MatsSettings(), tmp_path / "out", base=str(family.base)))
    assert system(plan, "bert.pooler.dense.weight").bias is None


def test_layer_kinds_and_fallback_chain(wanted: MergeRequest) -> None:
    narrow = MatsSettings(layer_kinds=("linear",), fallback=("kfac", "init"), outside=AverageSettings())
    plan = plan_merge(replace(wanted, method=narrow))
    parts = {part.name: part for part in plan.streamed}
    assert parts["bert.embeddings.word_embeddings.weight"].rule == "init"
    assert parts["bert.embeddings.word_embeddings.weight"].settings == AverageSettings()
    assert "kind embedding" in plan.fallbacks["bert.embeddings.word_embeddings.weight"]


def test_decompositions_are_counted_where_they_are_made(bert: Family, tmp_path: Path) -> None:
    """The largest matrix times its copies; embeddings are averaged, and take fewer."""
    from mats.methods import TsvMSettings

    sizes = {name: tensor.numel() for name, tensor in bert.base_state.items()}
    matrices = {name for name, tensor in bert.base_state.items() if TsvMSettings().is_matrix(name, tensor.shape)}
    request = MergeRequest(bert.inputs(), TsvMSettings(), tmp_path / "out", base=str(bert.base))
    largest = max(size for name, size in sizes.items() if name in matrices)
    assert plan_merge(request).peak_bytes == 4 * max(30 * largest, 8 * max(sizes.values()))
    plain = plan_merge(replace(request, method=AverageSettings()))
    assert plain.peak_bytes == 4 * 5 * max(sizes.values())


@pytest.mark.parametrize("as_start", [False, True])
def test_weights_that_mean_nothing_to_a_method_are_refused_before_anything_is_read(
    wanted: MergeRequest, as_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a plan read a tensor"))
    median = PointwiseSettings(aggregate="median")
    models = tuple(replace(model, weight=place + 1.0) for place, model in enumerate(wanted.models))
    method = MatsSettings(init=median) if as_start else median
    with pytest.raises(RequestError, match="pointwise: aggregate median with the models' weights"):
        plan_merge(replace(wanted, models=models, method=method))
