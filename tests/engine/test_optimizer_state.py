from __future__ import annotations

import pickle

import pytest
import torch
from engine_families import make_model
from engine_families import save as save_bare
from torch import nn

from mats.engine.optimizer_state import _assigned, _Group, _Moment, write_optimizer_store
from mats.errors import CheckpointCorrupt, InputsMismatch, OutputExists, RequestError
from mats.store import open_store, verify_store


def save(model, folder):
    """As `save_pretrained` does, the class named in the config."""
    model.config.architectures = [type(model).__name__]
    save_bare(model, folder)


def groups_of(model, order):
    """Parameters as the optimizers of three trainers are given them."""
    named = list(model.named_parameters())

    def decays(name):
        return not (name.endswith("bias") or "LayerNorm" in name)

    def is_head(name):
        return name.startswith("classifier")

    if order == "named":
        return [[p for _, p in named]]
    if order == "trainer":
        return [[p for n, p in named if decays(n)], [p for n, p in named if not decays(n)]]
    return [[p for n, p in named if (is_head(n), decays(n)) == key] for key in ((0, 0), (0, 1), (1, 0), (1, 1))]


def trained(tmp_path, order, steps=3, betas=(0.9, 0.99), named=False):
    """A BERT after some steps on random gradients; returns the model and the mean of squares that Adam estimates."""
    model = make_model("bert", 0)
    groups = [{"params": part} for part in groups_of(model, order)]
    if named:
        groups = [{"params": list(model.named_parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=betas)
    generator = torch.Generator().manual_seed(0)
    average = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for _ in range(steps):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            average[name] = betas[1] * average[name] + (1 - betas[1]) * parameter.grad.double().square()
        optimizer.step()
    save(model, tmp_path / "model")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    return {name: value / (1 - betas[1] ** steps) for name, value in average.items()}


@pytest.mark.parametrize("order", ["named", "trainer", "mats"])
def test_moments_are_found_by_name_and_corrected(tmp_path, order):
    expected = trained(tmp_path, order)
    write_optimizer_store(tmp_path / "optimizer.pt", str(tmp_path / "model"), tmp_path / "store", batch_size=4)
    store = open_store(tmp_path / "store")
    assert verify_store(store.path) == []
    assert store.proxy == "adam_second_moment"
    assert set(store) == {f"diagonal/{name}" for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(store.sum(f"diagonal/{name}").double(), 4 * value, rtol=1e-5, atol=1e-9)
    assert store.manifest.estimator["batch_size"] == 4
    assert store.manifest.estimator["steps"] == 3.0


def test_recorded_names_decide(tmp_path):
    expected = trained(tmp_path, "named", named=True)
    write_optimizer_store(tmp_path / "optimizer.pt", str(tmp_path / "model"), tmp_path / "store")
    name = "bert.encoder.layer.0.output.dense.weight"
    found = open_store(tmp_path / "store").sum(f"diagonal/{name}").double()
    torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-9)


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    trained(tmp_path, "trainer")
    save(make_model("bert", 0, layers=1), tmp_path / "smaller")
    with pytest.raises(InputsMismatch, match=r"in groups of \[\d+, \d+\], do not fit the model's \d+ in any"):
        write_optimizer_store(tmp_path / "optimizer.pt", str(tmp_path / "smaller"), tmp_path / "store")
    with pytest.raises(InputsMismatch, match="in the order named"):
        write_optimizer_store(tmp_path / "optimizer.pt", str(tmp_path / "model"), tmp_path / "store", order="named")
    assert not (tmp_path / "store").exists()


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_are_no_state_of_adam_are_refused(tmp_path, capsys):
    trained(tmp_path, "named")
    model, target = str(tmp_path / "model"), tmp_path / "store"
    with pytest.raises(RequestError, match=r"absent\.pt: no such file"):
        write_optimizer_store(tmp_path / "absent.pt", model, target)
    with open(tmp_path / "code.pt", "wb") as file:
        pickle.dump({"state": Code(), "param_groups": []}, file)
    with pytest.raises(CheckpointCorrupt, match="so it is not loaded"):
        write_optimizer_store(tmp_path / "code.pt", model, target)
    assert "must not run" not in capsys.readouterr().out
    for content, error, message in (
        ({"weight": torch.ones(2)}, CheckpointCorrupt, "not an optimizer's state_dict"),
        ({"state": {}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]}, InputsMismatch, "holds no state"),
        (
            {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
            InputsMismatch,
            "parameter 0 has momentum_buffer, no exp_avg_sq",
        ),
    ):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(error, match=message):
            write_optimizer_store(tmp_path / "other.pt", model, target)
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputExists, match="there: exists already"):  # said before the state is looked for
        write_optimizer_store(tmp_path / "nothing.pt", model, tmp_path / "there")
    with pytest.raises(RequestError, match="batch_size: 0"):
        write_optimizer_store(tmp_path / "optimizer.pt", model, target, batch_size=0)
    with pytest.raises(RequestError, match="order 'alphabet': one of named, trainer, mats"):
        write_optimizer_store(tmp_path / "optimizer.pt", model, target, order="alphabet")


def test_two_orders_that_fit_are_not_guessed_between(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["a"].bias = module["b"].bias = None
    module["c"], module["d"] = nn.LayerNorm((3, 3), bias=False), nn.LayerNorm((3, 3), bias=False)
    groups = [_Group((0, 1), None), _Group((2, 3), None)]
    moments = {number: _Moment(torch.ones(3, 3), 1.0, 0.9) for number in range(4)}
    with pytest.raises(InputsMismatch, match="fits the model in the orders trainer, mats; --order says which"):
        _assigned(tmp_path, module, groups, moments, None)
    assert list(_assigned(tmp_path, module, groups, moments, "trainer")) == [f"{x}.weight" for x in "abcd"]
    assert list(_assigned(tmp_path, module, groups, moments, "mats")) == [f"{x}.weight" for x in "cdab"]
