"""One run with snapshots gives what separate runs would, each a checkpoint that loads; killed, it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family
from pydantic import ValidationError
from safetensors.torch import load_file

from mats.checkpoints import CheckpointWriter
from mats.engine import MergeRequest, merge
from mats.engine.snapshots import staging_folder
from mats.methods import MatsSettings, QuadraticSettings, SolverChoice, TiesSettings

pytestmark = pytest.mark.usefixtures("light_report")
COUNTS = (2, 5)


def settings(*, snapshots: tuple[int, ...] = (), iterations: int = 12, name: str = "cg") -> MatsSettings:
    """Plain CG far from converged, on K-FAC layers and blocks."""
    solver = SolverChoice(name=name, tolerance=1e-6, max_iterations=iterations, snapshots=snapshots)
    return MatsSettings(init=TiesSettings(density=0.3), solver=solver, anchor=0.0)


def request(family: Family, output: Path, method: QuadraticSettings, **options: object) -> MergeRequest:
    return MergeRequest(
        models=family.inputs(), method=method, output=output, base=str(family.base), device="cpu", **options
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["cg", "pcg"])
def test_every_snapshot_is_the_run_that_stops_there(bert: Family, tmp_path: Path, name: str) -> None:
    long = merge(request(bert, tmp_path / "long", settings(snapshots=COUNTS, name=name))).path
    final = merge(request(bert, tmp_path / "final", settings(name=name))).path
    assert {path.name for path in (long / "snapshots").iterdir()} == {"2", "5"}
    assert all(torch.equal(tensor, weights(final)[key]) for key, tensor in weights(long).items())
    for count in COUNTS:
        short = merge(request(bert, tmp_path / f"short{count}", settings(iterations=count, name=name)))
        found, expected = weights(long / "snapshots" / str(count)), weights(short.path)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            # not to the bit: whether a side is rotated depends on how many iterations there may be
            torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-6, msg=key)
        moved = max(float((weights(final)[key] - tensor).abs().max()) for key, tensor in found.items())
        assert moved > 1e-4, "an iterate that is the final one would show nothing"
        report = json.loads((long / "snapshots" / str(count) / "report.json").read_text())
        assert report["snapshot"] == count
        for ours, theirs in zip(report["layers"], short.report["layers"], strict=True):
            assert (ours["name"], ours.get("stop_reason")) == (theirs["name"], theirs.get("stop_reason"))
            assert ours.get("iterations") == theirs.get("iterations")
            assert ours.get("loss_after") == (
                theirs.get("loss_after") and pytest.approx(theirs["loss_after"], rel=1e-4)
            )
    moved = [key for key, tensor in weights(final).items() if not torch.equal(tensor, found[key])]
    assert any("attention.self.query.weight" in key for key in moved)  # five iterations are not twelve


def test_a_snapshot_loads_as_any_checkpoint_does(bert: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    path = merge(request(bert, tmp_path / "out", settings(snapshots=(3,)), max_shard_bytes=20_000)).path
    inner = path / "snapshots" / "3"
    model = AutoModelForSequenceClassification.from_pretrained(inner)
    assert (inner / "model.safetensors.index.json").exists()
    assert (inner / "recipe.yaml").exists()
    short = merge(request(bert, tmp_path / "short", settings(iterations=3))).path
    for key, tensor in weights(short).items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=1e-6, atol=1e-7)
    assert not staging_folder(path).exists()


@pytest.mark.parametrize("moment", [1, 20, 60, 95, "publish"])
def test_interrupted_runs_go_on_to_the_same_bytes(
    bert: Family, tmp_path: Path, moment: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(bert, tmp_path / "out", settings(snapshots=COUNTS), memory_budget=400_000)
    with monkeypatch.context() as patch:
        count = 0
        original = CheckpointWriter.write
        publish = CheckpointWriter.publish

        def stop(self: CheckpointWriter, *args: object, **kwargs: object) -> None:
            nonlocal count
            count += 1
            if count == moment:
                raise KeyboardInterrupt
            original(self, *args, **kwargs)  # type: ignore[arg-type]

        def stop_publishing(self: CheckpointWriter) -> Path:
            if self.output.name == "out":
                raise KeyboardInterrupt
            return publish(self)

        patch.setattr(CheckpointWriter, "write", stop)
        if moment == "publish":
            patch.setattr(CheckpointWriter, "publish", stop_publishing)
        with pytest.raises(KeyboardInterrupt):
            merge(wanted)
    assert not wanted.output.exists()
    resumed = merge(wanted).path
    whole = merge(replace(wanted, output=tmp_path / "whole")).path
    for count in COUNTS:
        found, expected = (path / "snapshots" / str(count) for path in (resumed, whole))
        assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_leftovers_of_a_run_with_snapshots_do_not_outlive_one_without(bert: Family, tmp_path: Path) -> None:
    staging = staging_folder(tmp_path / "out")
    (staging / "7").mkdir(parents=True)
    merge(request(bert, tmp_path / "out", settings()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ({"name": "auto", "snapshots": (3,)}, "solver auto need not iterate"),
        ({"name": "direct", "snapshots": (3,)}, "name: cg or pcg would be right"),
        ({"name": "cg", "snapshots": (5, 3)}, r"\[5, 3\] must rise"),
        ({"name": "cg", "snapshots": (5, 301)}, r"within max_iterations \(300\)"),
        ({"name": "cg", "snapshots": (0,)}, "greater than or equal to 1"),
        ({"name": "pcg", "snapshots": (3,), "precision": "tf32_refined"}, "restarts the iteration"),
    ],
)
def test_snapshots_that_cannot_be_are_refused(solver: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SolverChoice(**solver)


def test_snapshots_and_a_radius_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="a radius takes several"):
        MatsSettings(radius=1.0, solver=SolverChoice(name="cg", snapshots=(3,)))


def test_kept_heads_are_in_every_snapshot(bert: Family, tmp_path: Path) -> None:
    from mats.engine import Heads

    path = merge(request(bert, tmp_path / "out", settings(snapshots=(3,)), heads=Heads())).path
    kept = sorted(file.relative_to(path / "heads") for file in (path / "heads").rglob("*"))
    assert kept
    inner = path / "snapshots" / "3"
    assert sorted(file.relative_to(inner / "heads") for file in (inner / "heads").rglob("*")) == kept
    assert torch.equal(weights(inner)["classifier.weight"], bert.states[0]["classifier.weight"])
