"""The model leaves as it came, whatever happens; what is not finite is named."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from curvature_models import classification_batch, image_batch, seq2seq_batch, tiny_bert, tiny_t5, tiny_vit
from torch import nn

from mats.curvature import CollectionSettings, Collector, collect, plan_collection
from mats.curvature.settings import STATISTICS
from mats.errors import NonFiniteStatistic, RequestError, WorkFailed

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")


def fingerprint(model: nn.Module) -> list[object]:
    """Everything that collection could leave behind."""
    hooks = [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for name, m in model.named_modules()
    ]
    flags = [
        (name, p.requires_grad, p.grad is None, len(p._backward_hooks or {}), len(p._post_accumulate_grad_hooks or {}))
        for name, p in model.named_parameters()
    ]
    return [hooks, flags, torch.get_float32_matmul_precision(), torch.is_grad_enabled()]


def mixed_state(model: nn.Module) -> nn.Module:
    """A model in no uniform state: part in train mode, part frozen, with a gradient here and there."""
    model.train()
    next(iter(model.children())).eval()
    for n, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(n % 3 != 0)
    return model


def test_the_model_leaves_as_it_came() -> None:
    model = mixed_state(tiny_t5())
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.set_float32_matmul_precision("high")
    try:
        before = fingerprint(model)
        collect(model, [seq2seq_batch(4)], EVERYTHING)
        assert fingerprint(model) == before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(p, values[name]) for name, p in model.named_parameters())


def test_inputs_leave_as_they_came() -> None:
    batch = image_batch(4)
    values = batch.inputs["pixel_values"].clone()
    collect(tiny_vit(), [batch], EVERYTHING)
    assert torch.equal(batch.inputs["pixel_values"], values)
    assert not batch.inputs["pixel_values"].requires_grad
    assert batch.inputs["pixel_values"].grad is None


@pytest.mark.parametrize("where", ["planning", "forward", "backward", "between"])
def test_hooks_are_gone_after_an_error_inside(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixed_state(tiny_t5())
    batch = seq2seq_batch(4)
    plan = plan_collection(model, batch, EVERYTHING)
    before = fingerprint(model)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken on purpose")

    if where == "planning":
        monkeypatch.setattr("mats.curvature.coverage.rows_mask", fail, raising=False)
        monkeypatch.setattr("mats.curvature.sites.rows_mask", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            plan_collection(model, batch, EVERYTHING)
    elif where == "between":
        with pytest.raises(RuntimeError, match="on purpose"), Collector(model, plan):
            fail()
    else:
        target = (
            "mats.curvature.hooks.rows_mask" if where == "forward" else "mats.curvature.per_example.VectorUse.gradients"
        )
        monkeypatch.setattr(target, fail)
        with pytest.raises(RuntimeError, match="on purpose"), Collector(model, plan) as collector:
            collector.add(batch)
    assert fingerprint(model) == before


def test_an_error_while_entering_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixed_state(tiny_bert())
    plan = plan_collection(model, classification_batch(3), EVERYTHING)
    before = fingerprint(model)
    collector = Collector(model, plan)
    monkeypatch.setattr("mats.curvature.taps.LayerTap.extra_hooks", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"), collector:
        pass
    assert fingerprint(model) == before


def test_a_failed_batch_spoils_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    batch = classification_batch(3)
    plan = plan_collection(model, batch, EVERYTHING)
    with Collector(model, plan) as collector:
        with monkeypatch.context() as patch:
            patch.setattr("mats.curvature.hooks.rows_mask", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError, match="division"):
                collector.add(batch)
        with pytest.raises(WorkFailed, match="part of a batch that failed"):
            collector.sums()
        with pytest.raises(WorkFailed, match="an earlier batch failed; start again"):
            collector.add(batch)
    with pytest.raises(WorkFailed, match="the collector is not entered"):
        Collector(model, plan).add(batch)


def test_a_nan_activation_names_site_and_examples(device: str) -> None:
    model = tiny_vit().to(device)
    plan = plan_collection(model, image_batch(4), EVERYTHING)
    batch = image_batch(3, 4)
    batch.inputs["pixel_values"][1, 0, 0, 0] = torch.nan
    message = (
        r"site vit.embeddings.patch_embeddings.projection: activations are NaN or infinite in batch 1 of "
        r"examples example-4, example-5, example-6$"
    )
    with Collector(model, plan) as collector, pytest.raises(NonFiniteStatistic, match=message):
        collector.add(batch)


def test_an_infinite_gradient_names_the_layer() -> None:
    model = tiny_bert()
    plan = plan_collection(model, classification_batch(4), EVERYTHING)
    handle = model.bert.pooler.activation.register_forward_hook(
        lambda _module, _args, output: output.register_hook(lambda delta: delta * torch.inf) and None
    )
    with Collector(model, plan) as collector, pytest.raises(NonFiniteStatistic, match=r"bert.pooler.dense"):
        collector.add(classification_batch(4))
    handle.remove()


def test_a_sum_that_overflows_is_named() -> None:
    model = tiny_vit().float()
    batch = image_batch(3)
    huge = replace(batch, inputs={"pixel_values": batch.inputs["pixel_values"].float() * 1.5e18})
    settings = CollectionSettings(statistics=("input_gram",))
    plan = plan_collection(model, batch_in_float(batch), settings)
    with Collector(model, plan) as collector:
        for _ in range(20):
            collector.add(huge)
        with pytest.raises(
            NonFiniteStatistic, match=r"projection: the sum is NaN or infinite; accumulate_dtype float64"
        ):
            collector.sums()


def batch_in_float(batch):
    return replace(batch, inputs={name: tensor.float() for name, tensor in batch.inputs.items()})


def test_input_grams_alone_need_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    settings = CollectionSettings(statistics=("input_gram",))
    plan = plan_collection(model, classification_batch(4), settings)
    monkeypatch.setattr(torch.autograd, "backward", lambda *_, **__: pytest.fail("a backward pass ran"))
    with Collector(model, plan) as collector:
        collector.add(classification_batch(4))
        assert collector.sums().tokens["site:classifier"] == 4


def test_backward_computes_no_weight_gradients() -> None:
    model = tiny_bert()
    plan = plan_collection(model, classification_batch(4), CollectionSettings())
    with Collector(model, plan) as collector:
        assert not any(p.requires_grad for p in model.parameters())
        collector.add(classification_batch(4))
        assert all(p.grad is None for p in model.parameters())


def test_activations_of_grams_are_not_kept_alive() -> None:
    """Nothing but the graph holds an activation: after the batch, all of them are gone."""
    import gc
    import weakref

    model = tiny_bert()
    plan = plan_collection(model, classification_batch(4), EVERYTHING)
    seen: list[weakref.ref[torch.Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, args, output: seen.extend(map(weakref.ref, (args[0], output))))
    with Collector(model, plan) as collector:
        collector.add(classification_batch(4))
        gc.collect()
        assert seen
        assert all(reference() is None for reference in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"statistics": ("gram",)},
            r"statistics: got \['gram'\]; choose from input_gram, output_gram, diagonal, block",
        ),
        ({"statistics": ()}, r"statistics: got \[\]"),
        ({"labels": "true"}, "labels: got 'true'; choose from empirical, sampled, exact"),
        ({"loss": "max"}, "loss: got 'max'; choose from mean, sum"),
        ({"accumulate_dtype": "bfloat16"}, "accumulate_dtype: got 'bfloat16'; choose from float32, float64"),
        ({"draws": 0, "labels": "sampled"}, "draws: got 0; must be 1 or more"),
        ({"draws": 4}, "draws: got 4 with labels 'empirical'; only 'sampled' labels are drawn"),
        ({"memory_budget": 0}, "memory_budget: got 0 bytes"),
        ({"block_limit": -1}, "block_limit: got -1; must be 0 or more"),
    ],
)
def test_wrong_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        CollectionSettings(**change)


def test_no_batches_is_an_error() -> None:
    with pytest.raises(WorkFailed, match="no batches"):
        collect(tiny_bert(), [], EVERYTHING)


def test_plans_survive_pickling() -> None:
    plan = plan_collection(tiny_bert(), classification_batch(3), EVERYTHING)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_an_example_run_alone_is_named_when_its_loss_is_nan() -> None:
    model = tiny_vit()
    settings = CollectionSettings(statistics=("diagonal",), parameters=("vit.embeddings.cls_token",))
    plan = plan_collection(model, image_batch(4), settings)
    batch = image_batch(3, 4)
    batch.inputs["pixel_values"][1, 0, 0, 0] = torch.nan
    message = "the loss of example-5 is NaN or infinite in batch 1 of examples example-4"
    with Collector(model, plan) as collector, pytest.raises(NonFiniteStatistic, match=message):
        collector.add(batch)
