"""Merges of sparsified models against merges of models thinned out by hand and saved; and what must not change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family, make_model, nudge, save
from safetensors.torch import load_file, save_file
from torch import Tensor

from mats.checkpoints import CheckpointWriter, open_checkpoint
from mats.engine import Heads, MergeRequest, ModelInput, Rule, merge, plan_merge
from mats.engine.describing import describe_plan
from mats.engine.identity import merge_identity
from mats.engine.inputs import MergeInputs
from mats.engine.plan import make_plan
from mats.engine.prediction import predict
from mats.errors import FingerprintMismatch, RequestError
from mats.methods import (
    AverageSettings,
    BaseSettings,
    FisherSettings,
    IsoCSettings,
    MatsSettings,
    TaskArithmeticSettings,
    TiesSettings,
    TsvMSettings,
)
from mats.methods.sparsify import SparsifySettings
from mats.methods.sparsify_masks import mask_key, random_mask

pytestmark = pytest.mark.usefixtures("light_report")
DARE = SparsifySettings(drop=0.6, seed=3)
METHODS = {
    "average": AverageSettings(),
    "task_arithmetic": TaskArithmeticSettings(scale=0.4),
    "ties": TiesSettings(density=0.3),
    "tsv_m": TsvMSettings(),
    "iso_c": IsoCSettings(),
    "fisher": FisherSettings(),
    "mats": MatsSettings(init=TaskArithmeticSettings(scale=0.3), anchor=0.1),
}


def request(family: Family, output: Path, method: str, sparsify: SparsifySettings | None = DARE) -> MergeRequest:
    models = tuple(replace(model, sparsify=sparsify) for model in family.inputs(metadata=method in ("mats", "fisher")))
    return MergeRequest(models, METHODS[method], output, str(family.base), device="cpu")


def weights(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def thinned(state: dict[str, Tensor], base: dict[str, Tensor], model: str, used: SparsifySettings) -> dict[str, Tensor]:
    """θ0 + m (θ − θ0) / (1 − p) in float64, tensor by tensor."""
    result = {}
    for name, tensor in state.items():
        mask = random_mask(mask_key(used.seed, model, name), 0, tensor.numel(), used.density)
        kept = torch.from_numpy(mask).reshape(tensor.shape).double() / (1 - used.drop)
        result[name] = (base[name].double() + kept * (tensor.double() - base[name].double())).to(tensor.dtype)
    return result


def saved_thinned(family: Family, root: Path) -> tuple[ModelInput, ...]:
    """The family's models thinned out by hand; their metadata say which model they were measured on."""
    base = weights(family.base)
    found = []
    for index, path in enumerate(family.models):
        (root / path.name).mkdir(parents=True)
        (root / path.name / "config.json").write_bytes((path / "config.json").read_bytes())
        state = thinned(weights(path), base, f"task{index}", DARE)
        save_file(state, root / path.name / "model.safetensors", {"format": "pt"})
        found.append(ModelInput(f"task{index}", str(root / path.name)))
    return tuple(found)


@pytest.mark.parametrize("method", METHODS)
def test_any_method_merges_the_sparsified_models(bert: Family, tmp_path: Path, method: str) -> None:
    by_hand = saved_thinned(bert, tmp_path / "hand")
    if METHODS[method].statistics:
        stores = [replace(model, metadata=bert.stores[i]) for i, model in enumerate(by_hand)]
        with pytest.raises(FingerprintMismatch, match="task0"):  # these weights were not measured
            merge(MergeRequest(tuple(stores), METHODS[method], tmp_path / "refused", str(bert.base), device="cpu"))
        by_hand = tuple(replace(model, measured_on=str(bert.models[i])) for i, model in enumerate(stores))
    expected = weights(merge(MergeRequest(by_hand, METHODS[method], tmp_path / "a", str(bert.base), device="cpu")).path)
    found = weights(merge(request(bert, tmp_path / "b", method)).path)
    dense = weights(merge(request(bert, tmp_path / "c", method, None)).path)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=2e-4, rtol=1e-3), name
    assert max(float((dense[name] - tensor).abs().max()) for name, tensor in expected.items()) > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", ["random", "magnitude"])
def test_dropping_nothing_is_the_method_itself(bert: Family, tmp_path: Path, method: str, strategy: str) -> None:
    nothing = SparsifySettings(strategy=strategy, drop=0.0)
    plain = merge(request(bert, tmp_path / "plain", method, None)).path
    stage = merge(request(bert, tmp_path / "stage", method, nothing)).path
    assert (plain / "model.safetensors").read_bytes() == (stage / "model.safetensors").read_bytes()


@pytest.mark.parametrize("strategy", ["random", "magnitude", "della", "breadcrumbs"])
def test_dropping_everything_gives_the_base(bert: Family, tmp_path: Path, strategy: str) -> None:
    everything = SparsifySettings(strategy=strategy, drop=1.0)
    found = weights(merge(request(bert, tmp_path / "out", "task_arithmetic", everything)).path)
    for name, tensor in weights(bert.base).items():
        assert torch.equal(found[name], tensor), name


def test_average_is_task_arithmetic_at_one_over_n_after_dare_too(bert: Family, tmp_path: Path) -> None:
    average = weights(merge(request(bert, tmp_path / "a", "average")).path)
    scaled = replace(request(bert, tmp_path / "b", "average"), method=TaskArithmeticSettings(scale=1 / 3))
    for name, tensor in weights(merge(scaled).path).items():
        assert torch.allclose(average[name], tensor, atol=1e-6), name


@pytest.mark.parametrize("of", ["delta", "weights"])
def test_pruning_studies_of_one_model(bert: Family, tmp_path: Path, of: str) -> None:
    """Kept entries are the model's bit for bit, dropped ones the base's (or 0); exactly ⌊p d⌋ of each tensor go."""
    used = SparsifySettings(strategy="magnitude", drop=0.75, of=of)
    one = replace(request(bert, tmp_path / of, "average", used), models=(replace(bert.inputs()[0], sparsify=used),))
    if of == "weights":
        one = replace(one, base=None)
    found, base, model = weights(merge(one).path), weights(bert.base), weights(bert.models[0])
    for name, tensor in found.items():
        start = base[name] if of == "delta" else torch.zeros_like(tensor)
        size = (model[name] - start).abs()
        kept = tensor == model[name]
        assert torch.equal(tensor[~kept], start[~kept]), name
        dropped = int(0.75 * tensor.numel())
        assert int((~kept).sum()) == dropped, name
        if dropped:
            assert size[~kept].max() <= size[kept].min()
    arithmetic = replace(one, method=TaskArithmeticSettings(scale=1.0), base=str(bert.base), output=tmp_path / "other")
    for name, tensor in weights(merge(arithmetic).path).items():
        assert torch.allclose(tensor, found[name], atol=1e-6), name


def read_all(wanted: MergeRequest) -> dict[str, dict[str, Tensor]]:
    with MergeInputs(wanted) as inputs:
        return {
            model.name: {name: inputs.read(index, name) for name in inputs.infos}
            for index, model in enumerate(wanted.models)
        }


def test_masks_know_neither_order_nor_shards_but_seed_and_name(bert: Family, tmp_path: Path) -> None:
    wanted = request(bert, tmp_path / "out", "average")
    first = read_all(wanted)
    state = load_file(bert.models[1] / "model.safetensors")
    names = sorted(state, reverse=True)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_bytes((bert.models[1] / "config.json").read_bytes())
    index = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in chosen}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    moved = (wanted.models[2], replace(wanted.models[1], path=str(folder)), wanted.models[0])
    second = read_all(replace(wanted, models=moved))
    for model, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[model][name]), (model, name)
    weight = "bert.encoder.layer.0.output.dense.weight"
    renamed = read_all(replace(wanted, models=tuple(replace(model, name=f"{model.name}x") for model in wanted.models)))
    reseeded = read_all(request(bert, tmp_path / "out", "average", DARE.model_copy(update={"seed": 4})))
    assert not torch.equal(renamed["task0x"][weight], first["task0"][weight])
    assert not torch.equal(reseeded["task0"][weight], first["task0"][weight])


@pytest.mark.parametrize("used", [DARE, SparsifySettings(strategy="della", drop=0.5, rescale="norm")])
def test_pieces_are_those_of_the_whole(bert: Family, tmp_path: Path, used: SparsifySettings) -> None:
    """What a global threshold samples is what is merged later."""
    name = "bert.embeddings.word_embeddings.weight"
    with MergeInputs(request(bert, tmp_path / "out", "average", used)) as inputs:
        whole = inputs.read(0, name).reshape(-1)
        checkpoint, own = inputs._place(0, name)
        place = checkpoint.place(own)
        for start, count in ((0, 7), (13, 100), (whole.numel() - 9, 9)):
            piece = torch.empty(count)
            place.file.load(place.name, start, piece)
            assert torch.equal(piece, whole[start : start + count])
        assert torch.equal(inputs.sample(0, name, whole.numel()), whole)


def test_heads_kept_apart_and_numbers_that_do_not_float_stay(bert: Family, tmp_path: Path) -> None:
    wanted = replace(request(bert, tmp_path / "out", "task_arithmetic"), heads=Heads(source="task1"))
    found, own = weights(merge(wanted).path), weights(bert.models[1])
    assert torch.equal(found["classifier.weight"], own["classifier.weight"])
    assert not torch.equal(found["bert.pooler.dense.weight"], own["bert.pooler.dense.weight"])
    state = {"w": torch.randn(8, 8), "ids": torch.arange(9)}
    for name, size in (("base", 0.0), ("model", 1.0)):
        (tmp_path / name).mkdir()
        save_file({**state, "w": state["w"] + size}, tmp_path / name / "model.safetensors")
    models = (ModelInput("a", str(tmp_path / "model"), sparsify=DARE),)
    plain = merge(MergeRequest(models, TaskArithmeticSettings(scale=1.0), tmp_path / "ids", str(tmp_path / "base")))
    assert weights(plain.path)["ids"].tolist() == list(range(9))
    change = weights(plain.path)["w"] - state["w"]
    assert torch.allclose(change[change != 0], torch.tensor(2.5), atol=1e-5)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, seed in (("base", 1), ("model", 2)):
        (tmp_path / name).mkdir()
        torch.manual_seed(seed)
        save_file({"w": torch.randn(64, 64).bfloat16()}, tmp_path / name / "model.safetensors")
    base, model = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "model"))
    exact = thinned({"w": model["w"].double()}, {"w": base["w"].double()}, "a", DARE)["w"]
    models = (ModelInput("a", str(tmp_path / "model"), sparsify=DARE),)
    found = merge(MergeRequest(models, TaskArithmeticSettings(scale=1.0), tmp_path / "out", str(tmp_path / "base")))
    assert torch.equal(weights(found.path)["w"], exact.bfloat16())
    naive = (base["w"] + (model["w"] - base["w"]) * (exact != base["w"]).bfloat16() / 0.4).bfloat16()
    assert not torch.equal(naive, exact.bfloat16())  # bf16 arithmetic would not do


def test_adapters_are_thinned_around_ones(tmp_path: Path) -> None:
    names = [f"base_model.model.decoder.block.{i}.layer.0.SelfAttention.k.ia3_l" for i in range(2)]
    folder = tmp_path / "adapter"
    folder.mkdir()
    state = {name: 1 + torch.randn(300, 1) for name in names}
    save_file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": [], "task_type": "SEQ_2_SEQ_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    models = (ModelInput("a", str(folder), sparsify=DARE),)
    found = weights(merge(MergeRequest(models, TaskArithmeticSettings(scale=1.0), tmp_path / "out")).path)
    expected = thinned(state, {name: torch.ones(300, 1) for name in names}, "a", DARE)
    for name in names:
        assert torch.allclose(found[name], expected[name], atol=1e-5)
        assert 80 < int((found[name] != 1).sum()) < 160


def test_tied_weights_stay_tied(gpt2: Family, tmp_path: Path) -> None:
    result = merge(request(gpt2, tmp_path / "out", "task_arithmetic"))
    plain = merge(request(gpt2, tmp_path / "plain", "task_arithmetic", None))
    assert result.report["tied"] == plain.report["tied"]
    assert weights(result.path).keys() == weights(plain.path).keys()


def test_one_models_own_settings_and_rules(bert: Family, tmp_path: Path) -> None:
    wanted = request(bert, tmp_path / "out", "average")
    models = (replace(wanted.models[0], sparsify=None), wanted.models[1], wanted.models[2])
    read = read_all(replace(wanted, models=models))
    dense = weights(bert.models[0])
    assert all(torch.equal(read["task0"][name], tensor) for name, tensor in dense.items())
    kept = replace(wanted, models=models, rules=(Rule("*pooler*", BaseSettings()),))
    found, base = weights(merge(kept).path), weights(bert.base)
    assert torch.equal(found["bert.pooler.dense.weight"], base["bert.pooler.dense.weight"])


def test_the_plan_and_the_report_say_so(bert: Family, tmp_path: Path) -> None:
    wanted = request(bert, tmp_path / "out", "mats")
    notes = (
        "sparsified before the merge: task0, task1, task2: random drops 0.6 of delta (rescale inverse, seed 3)",
        "metadata are those of the models as they were before they were sparsified",
    )
    assert plan_merge(wanted).notes[-2:] == notes
    assert notes[0] in describe_plan(plan_merge(wanted), wanted)
    dense = plan_merge(request(bert, tmp_path / "out", "mats", None))
    assert dense.peak_bytes < plan_merge(wanted).peak_bytes
    report = merge(wanted).report
    assert [note for note in report["notes"] if not note.startswith("curvature balanced")][-2:] == list(notes)
    assert report["models"][0]["sparsify"]["drop"] == 0.6
    assert report["models"][0]["fingerprint"]  # of the dense model, which was measured
    assert report["recipe"]["models"][0]["sparsify"]["seed"] == 3


def test_partial_work_is_taken_up_only_by_the_same_sparsification(
    bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(bert, tmp_path / "out", "task_arithmetic")
    identities = set()
    for used in (
        DARE,
        None,
        *(DARE.model_copy(update=change) for change in ({"seed": 4}, {"drop": 0.5}, {"rescale": "none"})),
    ):
        with MergeInputs(request(bert, tmp_path / "out", "task_arithmetic", used)) as inputs:
            identities.add(merge_identity(inputs, make_plan(inputs)))
    assert len(identities) == 5
    original, written = CheckpointWriter.write, []

    def stop_late(self: CheckpointWriter, name: str, *args: object, **kwargs: object) -> None:
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(name)
        original(self, name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointWriter, "write", stop_late)
    with pytest.raises(KeyboardInterrupt):
        merge(wanted)
    monkeypatch.setattr(CheckpointWriter, "write", original)
    resumed = merge(wanted).path
    straight = merge(replace(wanted, output=tmp_path / "straight")).path
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_a_delta_needs_a_base(bert: Family, tmp_path: Path) -> None:
    wanted = replace(request(bert, tmp_path / "out", "average"), base=None)
    with pytest.raises(RequestError, match=r"model task0: sparsify\.of: delta .* `base:`, or of: weights"):
        plan_merge(wanted)
    control = DARE.model_copy(update={"of": "weights"})
    plan_merge(replace(wanted, models=tuple(replace(model, sparsify=control) for model in wanted.models)))


def test_predictions_are_around_the_models_themselves(bert: Family, tmp_path: Path) -> None:
    save(nudge(make_model("bert", 0), 999), tmp_path / "other")
    dense, stage = (
        predict(request(bert, tmp_path / "out", "mats", used), {"other": str(tmp_path / "other")})
        for used in (None, DARE)
    )
    assert [candidate.tasks for candidate in dense.candidates] == [candidate.tasks for candidate in stage.candidates]
