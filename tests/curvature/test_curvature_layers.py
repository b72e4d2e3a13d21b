"""Single layers of every kind and every awkward use: the coverage check decides which can be read by hooks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from curvature_comparison import errors
from curvature_oracle import oracle, relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mats.curvature import CollectionPlan, CollectionSettings, Collector, collect, plan_collection
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch
from mats.errors import WorkFailed
from mats.store.records import Sums

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")
CLASSES = 3
SIDE = 7
WIDTH = 5


class Net(nn.Module):
    """`body` maps pixels [B, 2, 7, 7] or features [B, T, 5] to [B, …, 5]; a linear head reads the mean."""

    def __init__(self, body: nn.Module, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(WIDTH, CLASSES)
        self.run = run

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        hidden = self.run(self.body, pixel_values) if self.run else self.body(pixel_values)
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        return SimpleNamespace(logits=self.head(torch.tanh(hidden).mean(1)))


def net(body: nn.Module, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Net:
    return Net(body, run).double()


def pixels(count: int, first: int = 0) -> Batch:
    values = torch.randn(16, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images(values, count, first)


def features(count: int, first: int = 0) -> Batch:
    values = torch.randn(16, 4, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return images(values, count, first)


def images(values: Tensor, count: int, first: int) -> Batch:
    which = range(first, first + count)
    labels = torch.tensor([n % CLASSES for n in which])
    names = tuple(f"example-{n}" for n in which)
    return Batch({"pixel_values": values[first : first + count]}, names, "image_classification", None, None, labels)


def measured(model: nn.Module, make_batch: Callable[..., Batch]) -> tuple[CollectionPlan, Sums, dict[str, float]]:
    """Collect six examples in two batches, and compare with the oracle."""
    truth = oracle(model, [(1.0, make_batch(1, n)) for n in range(6)])
    plan, sums = collect(model, [make_batch(4), make_batch(2, 4)], EVERYTHING)
    return plan, sums, errors(plan, sums, truth)


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padding": {"kernel_size": 3, "padding": 1},
    "stride and dilation": {"kernel_size": 2, "stride": 2, "dilation": 2, "padding": (1, 0)},
    "same": {"kernel_size": 4, "padding": "same"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "circular": {"kernel_size": (3, 2), "padding": (2, 1), "padding_mode": "circular"},
    "no bias": {"kernel_size": 3, "bias": False},
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_convolutions_equal_autograd(form: str) -> None:
    torch.manual_seed(3)
    plan, _, found = measured(net(nn.Conv2d(2, WIDTH, **CONVOLUTIONS[form])), pixels)
    assert {layer.kind for layer in plan.layers} == {"conv2d", "linear"}
    assert max(found.values()) < 1e-10, found
    assert plan.tapped == set(plan.parameters)


SIGNAL_CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride and padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 2, "dilation": 2},
    "same": {"kernel_size": 4, "padding": "same"},
    "circular": {"kernel_size": 3, "padding": 2, "padding_mode": "circular"},
    "no bias": {"kernel_size": 2, "bias": False},
}


@pytest.mark.parametrize("form", SIGNAL_CONVOLUTIONS)
def test_convolutions_of_signals_equal_autograd(form: str) -> None:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Flatten(2), nn.Conv1d(2, WIDTH, **SIGNAL_CONVOLUTIONS[form]), nn.Unflatten(2, (-1, 1)))
    plan, _, found = measured(net(body), pixels)
    assert {layer.kind for layer in plan.layers} == {"temporal_conv", "linear"}
    assert max(found.values()) < 1e-10, found
    assert plan.tapped == set(plan.parameters)


class Transposing(nn.Linear):
    """A linear layer that spells its product out (Falcon)."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Squashing(nn.Linear):
    """Not a linear layer, though it is derived from one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


def test_a_linear_layer_that_spells_its_product_out_is_one() -> None:
    plain, spelt = net(nn.Linear(WIDTH, WIDTH)), net(Transposing(WIDTH, WIDTH))
    spelt.load_state_dict(plain.state_dict())
    first, second = (collect(model, [features(4)], EVERYTHING) for model in (plain, spelt))
    assert first[0].layers == second[0].layers
    assert all(relative_error(second[1].tensors[key], value) < 1e-12 for key, value in first[1].tensors.items())


def test_a_layer_that_only_derives_from_linear_is_found_out_and_measured_example_by_example() -> None:
    model = net(Squashing(WIDTH, WIDTH))
    grams = collect(model, [features(4)], CollectionSettings())[0]
    assert {layer.name for layer in grams.layers} == {"head"}
    assert "used outside its module" in grams.uncovered["body.weight"]
    plan = collect(model, [features(4)], EVERYTHING)[0]
    assert "body.weight" in set(plan.parameters) - plan.tapped


def test_grouped_convolutions_are_named_and_measured_example_by_example() -> None:
    model = net(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, WIDTH, 1)))
    plan, _, found = measured(model, pixels)
    assert "body.0" not in {layer.name for layer in plan.layers}
    assert set(plan.parameters) - plan.tapped == {"body.0.weight", "body.0.bias"}
    assert max(found.values()) < 1e-10, found
    grams = collect(model, [pixels(3)], CollectionSettings())[0]
    reason = "convolution with 2 groups: no Gram rule; `diagonal` covers it"
    assert grams.uncovered == {"body.0.weight": reason, "body.0.bias": reason}


def test_a_module_called_twice_adds_both_calls() -> None:
    model = net(nn.Linear(WIDTH, WIDTH), lambda layer, x: layer(torch.tanh(layer(x)) + x))
    plan, sums, found = measured(model, features)
    assert max(found.values()) < 1e-10, found
    assert sums.tokens["site:body"] == 6 * 4 * 2
    assert len(plan.sides["body"]) == 2


def test_squaring_the_calls_apart_would_differ() -> None:
    model = net(nn.Linear(WIDTH, WIDTH), lambda layer, x: layer(torch.tanh(layer(x)) + x))
    _, sums, _ = measured(model, features)
    apart = torch.zeros_like(model.body.weight)
    for n in range(6):
        batch = features(1, n)
        x = batch.inputs["pixel_values"][0]
        first = model.body(x)
        second = model.body(torch.tanh(first) + x)
        logits = model.head(torch.tanh(second).mean(0))
        loss = nn.functional.cross_entropy(logits[None], batch.labels)
        late, early = torch.autograd.grad(loss, [second, first])
        apart += (late.T @ (torch.tanh(first) + x)) ** 2 + (early.T @ x) ** 2
    assert relative_error(apart.detach(), sums.tensors["diagonal/body.weight"]) > 0.05


def test_a_call_that_nothing_depends_on_adds_inputs_but_no_gradient() -> None:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        layer(x * 2)
        return layer(x)

    model = net(nn.Linear(WIDTH, WIDTH), run)
    truth = oracle(net_with(model, lambda layer, x: layer(x)), [(1.0, features(1, n)) for n in range(4)])
    _, sums = collect(model, [features(4)], EVERYTHING)
    assert relative_error(sums.tensors["diagonal/body.weight"], truth.diagonal["body.weight"]) < 1e-10
    assert sums.tokens["site:body"] == 2 * sums.tokens["layer:body"]


def net_with(model: Net, run: Callable[[nn.Module, Tensor], Tensor]) -> Net:
    other = Net(model.body, run).double()
    other.head = model.head
    return other


def test_layers_that_read_one_tensor_share_a_site() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(WIDTH, WIDTH)
            self.k = nn.Linear(WIDTH, WIDTH, bias=False)
            self.other = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.q(x) + self.k(x) * self.other(x + 0)

    plan, sums, found = measured(net(Shared()), features)
    assert max(found.values()) < 1e-10, found
    sites = {layer.name: layer.site for layer in plan.layers}
    assert sites["body.k"] == sites["body.q"] == "body.q"
    assert sites["body.other"] == "body.other"
    assert sums.tensors["input_gram/body.q"].shape == (WIDTH + 1, WIDTH + 1)
    with pytest.raises(KeyError):
        sums.tensors["input_gram/body.k"]


def test_a_copy_of_a_tensor_is_another_site() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(WIDTH, WIDTH)
            self.b = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            first = torch.zeros_like(x) + self.a(x.clone())
            x += first
            return self.b(x)

    plan, _, found = measured(net(Changing()), features)
    assert {layer.site for layer in plan.layers} == {"body.a", "body.b", "head"}
    assert max(found.values()) < 1e-10, found


def test_an_input_changed_in_place_after_the_call_is_an_error() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.a(x)
            if self.overwrites:
                x.detach().mul_(2)
            return y

    model = net(Overwriting())
    model.body.overwrites = False
    plan = plan_collection(model, features(4), CollectionSettings(statistics=("diagonal",)))
    model.body.overwrites = True
    with (
        Collector(model, plan) as collector,
        pytest.raises(WorkFailed, match=r"body\.a: the model changed its input in place"),
    ):
        collector.add(features(4))


def test_flattened_tokens_are_credited_to_their_examples() -> None:
    model = net(nn.Linear(WIDTH, WIDTH), lambda layer, x: layer(x.reshape(-1, WIDTH)).reshape(x.shape))
    plan, _, found = measured(model, features)
    assert max(found.values()) < 1e-10, found
    assert plan.tapped == set(plan.parameters)


def test_tokens_in_another_order_are_found_by_the_coverage_check() -> None:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.transpose(0, 1).reshape(-1, WIDTH)).reshape(4, -1, WIDTH).transpose(0, 1)

    model = net(nn.Linear(WIDTH, WIDTH), run)
    plan, _, found = measured(model, features)
    assert "body.weight" not in plan.tapped
    assert max(found.values()) < 1e-10, found


def test_a_parametrised_weight_is_measured_without_hooks() -> None:
    model = net(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)))
    plan, _, found = measured(model, features)
    assert {layer.name for layer in plan.layers} == {"head"}
    assert {name for name in plan.parameters if name not in plan.tapped} == {
        "body.bias",
        "body.parametrizations.weight.original0",
        "body.parametrizations.weight.original1",
    }
    assert max(found.values()) < 1e-10, found


def test_a_weight_used_outside_its_module_loses_its_gram_with_a_reason() -> None:
    model = net(nn.Linear(WIDTH, WIDTH), lambda layer, x: layer(x) + torch.tanh(x) @ layer.weight)
    plan, sums, _ = measured(model, features)
    assert {layer.name for layer in plan.layers} == {"head"}
    assert "body.weight" not in plan.tapped
    truth = oracle(model, [(1.0, features(1, n)) for n in range(6)])
    assert relative_error(sums.tensors["diagonal/body.weight"], truth.diagonal["body.weight"]) < 1e-10
    grams = collect(model, [features(3)], CollectionSettings())[0]
    assert "used outside its module" in grams.uncovered["body.weight"]


def test_attention_that_bypasses_its_projection_module_is_measured() -> None:
    model = net(nn.MultiheadAttention(WIDTH, 1, batch_first=True), lambda layer, x: layer(x, x, x)[0])
    plan, _, found = measured(model, features)
    assert set(plan.parameters) - plan.tapped == {
        "body.in_proj_weight",
        "body.in_proj_bias",
        "body.out_proj.weight",
        "body.out_proj.bias",
    }
    assert max(found.values()) < 1e-10, found
    grams = collect(model, [features(3)], CollectionSettings())[0]
    assert grams.uncovered["body.out_proj.weight"] == "body.out_proj never ran on the first batch"
    assert grams.uncovered["body.in_proj_weight"].startswith("held by MultiheadAttention")


def test_parameters_without_gradient_are_named() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(WIDTH, WIDTH)
            self.unused = nn.Linear(WIDTH, WIDTH)
            self.ignored = nn.Linear(WIDTH, WIDTH)
            self.register_buffer("table", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.ignored(x)
            return self.used(x)

    plan, _ = collect(net(Partly()), [features(4)], EVERYTHING)
    assert plan.uncovered["body.unused.weight"] == "no gradient reached it"
    assert plan.uncovered["body.table"] == "a buffer, not a parameter: it has no gradient"
    assert plan.notes["body.ignored"] == "no output_gram: no gradient reached it"
    assert "body.ignored.weight" not in plan.parameters


def test_parameters_on_the_batch_axis_fall_back() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 4, WIDTH))
            self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            positions = self.mix(self.table[:, : x.shape[1]])
            return torch.cat([self.token.expand(len(x), -1, -1), x + positions], 1)

    plan, _, found = measured(net(Positions()), features)
    assert set(plan.parameters) - plan.tapped >= {"body.table", "body.token", "body.mix.weight", "body.mix.bias"}
    assert max(found.values()) < 1e-10, found


@pytest.mark.parametrize("bears", [True, False])
def test_lookups_that_the_batch_shares_are_spread_over_its_examples(bears: bool) -> None:
    """Position tables are read by hooks; a model that insists on one lookup for all is run example by example."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, WIDTH)
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            found = self.table(torch.arange(x.shape[1])[None])
            return x + self.mix(found if bears else found.view(1, x.shape[1], WIDTH))

    model = net(Positions())
    plan, _, found = measured(model, features)
    on_the_table = {"body.table.weight", "body.mix.weight", "body.mix.bias"}
    assert on_the_table <= plan.tapped if bears else not on_the_table & plan.tapped
    assert max(found.values()) < 1e-10, found
    assert model.body.table(torch.arange(3)[None]).shape == (1, 3, WIDTH), "the hooks are gone"


def test_a_batch_of_one_plans_like_a_batch_of_many() -> None:
    model = net(nn.Linear(WIDTH, WIDTH), lambda layer, x: layer(x[:1] * 0 + x.mean(0, keepdim=True) * 0 + x))
    one = collect(model, [features(1)], EVERYTHING)[0]
    many = collect(model, [features(6)], EVERYTHING)[0]
    assert (one.tapped, one.layers, one.sites) == (many.tapped, many.layers, many.sites)


@pytest.mark.parametrize("norm", [nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH, eps=1e-3)])
def test_norms_equal_autograd(norm: nn.Module) -> None:
    for parameter in norm.parameters():
        parameter.data = torch.randn(WIDTH)
    plan, _, found = measured(net(norm), features)
    assert plan.tapped == set(plan.parameters)
    assert max(found.values()) < 1e-10, found


def test_a_norm_that_is_not_what_its_name_says_falls_back() -> None:
    class StrangeRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH))
            self.eps = 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x / x.abs().mean(-1, keepdim=True)

    plan, _, found = measured(net(StrangeRMSNorm()), features)
    assert "body.weight" not in plan.tapped
    assert max(found.values()) < 1e-10, found


def test_in_place_activations_do_not_disturb_the_hooks() -> None:
    model = net(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)))
    _, _, found = measured(model, features)
    assert max(found.values()) < 1e-10, found


def test_more_calls_than_planned_are_added() -> None:
    """The first batch shows one call; later inputs may need more."""
    calls = {"count": 1}

    def run(layer: nn.Module, x: Tensor) -> Tensor:
        for _ in range(calls["count"]):
            x = torch.tanh(layer(x))
        return x

    model = net(nn.Linear(WIDTH, WIDTH), run)
    plan = plan_collection(model, features(4), EVERYTHING)
    calls["count"] = 3
    with Collector(model, plan) as collector:
        collector.add(features(6))
        sums = collector.sums()
    truth = oracle(model, [(1.0, features(1, n)) for n in range(6)])
    assert max(errors(plan, sums, truth).values()) < 1e-10


class Rounded(nn.Linear):
    """A linear layer whose weight is kept in int8, as quantisers do: no gradient of it exists."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False)
        self.step = float(dense.weight.abs().max()) / 127
        self.weight = nn.Parameter((dense.weight.detach() / self.step).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.double() * self.step)


def test_grams_of_a_quantised_layer_need_no_gradient_of_its_weight() -> None:
    dense = nn.Linear(WIDTH, WIDTH, bias=False).double()
    rounded = Rounded(dense)
    dense.weight.data = rounded.weight.double() * rounded.step
    plain, quantised = net(nn.Linear(WIDTH, WIDTH, bias=False)), net(nn.Linear(WIDTH, WIDTH, bias=False))
    quantised.load_state_dict(plain.state_dict())
    plain.body, quantised.body = dense, rounded
    (first_plan, first), (plan, sums) = (collect(model, [features(4)], EVERYTHING) for model in (plain, quantised))
    assert plan.layers == first_plan.layers
    for key in ("input_gram/body", "output_gram/body", "output_gram/head", "diagonal/head.weight"):
        assert relative_error(sums.tensors[key], first.tensors[key]) < 1e-12, key
    assert "diagonal/body.weight" not in sums.tensors
    only = collect(quantised, [features(4)], CollectionSettings(statistics=("diagonal",)))[0]
    assert only.uncovered["body.weight"] == "torch.int8 weights have no gradient"


def test_a_quantised_module_of_another_kind_is_named() -> None:
    model = net(nn.Linear(WIDTH, WIDTH)).float()
    model.body = torch.ao.nn.quantized.dynamic.Linear(WIDTH, WIDTH)
    batch = features(3)
    inputs = {name: tensor.float() for name, tensor in batch.inputs.items()}
    batch = Batch(inputs, batch.example_ids, batch.task, None, None, batch.labels)
    plan = collect(model, [batch], CollectionSettings(statistics=("input_gram",), parameters=("head*", "body*")))[0]
    assert [layer.name for layer in plan.layers] == ["head"]
