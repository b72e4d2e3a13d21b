"""The bytes of a merge: the same whatever the hash seed, the inputs' shards, the threads, and what runs ahead."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mats.checkpoints import CheckpointWriter, open_checkpoint
from mats.engine import MergeRequest, ModelInput, handing_over, merge, write_behind
from mats.errors import NonFiniteWeights
from mats.methods import parse_method

pytestmark = pytest.mark.usefixtures("light_report")
METHODS = ("average", "task_arithmetic", "ties")
SHAPES = {f"layers.{i}.{part}": shape for i in range(12) for part, shape in {"w": (64, 48), "b": (64,)}.items()}
FILES = ("model.safetensors", "report.json", "recipe.yaml")


def make_models(root: Path, models: int = 3) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for name in ("base", *[f"model{i}" for i in range(models)]):
        (root / name).mkdir(parents=True)
        state = {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in base.items()}
        save_file(state, root / name / "model.safetensors", metadata={"format": "pt"})


def request(root: Path, output: Path, method: str, **more: object) -> MergeRequest:
    inputs = tuple(ModelInput(f"m{i}", str(root / f"model{i}"), 1.0 + i) for i in range(3))
    recipe = {"fixed": "so that the output's own path is in no file"}
    return MergeRequest(
        inputs, parse_method(method), output, str(root / "base"), device="cpu", resolved_recipe=recipe, **more
    )  # type: ignore[arg-type]


def digests(folder: Path, *names: str) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_read_and_write_change_nothing(
    models: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = merge(request(models, tmp_path / "alone", method)).path
    monkeypatch.setattr(handing_over, "SMALLEST_HANDED_OVER", 1)
    submitted = 0
    original = write_behind.WriteBehind.submit

    def count(self: write_behind.WriteBehind, *args: object, **kwargs: object) -> None:
        nonlocal submitted
        submitted += kwargs["shareable"] is True
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(write_behind.WriteBehind, "submit", count)
    threaded = merge(request(models, tmp_path / "threaded", method)).path
    assert submitted == len(SHAPES)
    assert digests(threaded, *FILES) == digests(alone, *FILES)


@pytest.mark.parametrize("method", METHODS)
def test_number_of_threads(models: Path, tmp_path: Path, method: str) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(digests(merge(request(models, tmp_path / str(threads), method)).path, *FILES))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", METHODS)
def test_shards_of_the_inputs(models: Path, tmp_path: Path, method: str) -> None:
    """Inputs split into many files, in another order, give the same bytes."""
    for name in ("base", "model0", "model1", "model2"):
        state = load_file(models / name / "model.safetensors")
        with open_checkpoint(models / name) as checkpoint:
            infos = list(checkpoint.tensors.values())[::-1]
        with CheckpointWriter(tmp_path / name, infos, identity="", max_shard_bytes=30_000) as writer:
            for info in infos:
                writer.write(info.name, state[info.name])
            writer.publish()
        assert len(list((tmp_path / name).glob("*.safetensors"))) > 3
    one = merge(request(models, tmp_path / "one", method)).path
    many = merge(request(tmp_path, tmp_path / "many", method)).path
    assert digests(many, "model.safetensors") == digests(one, "model.safetensors")


def test_a_non_finite_input_met_ahead_stops_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_models(tmp_path)
    file = tmp_path / "model1" / "model.safetensors"
    state = load_file(file)
    state["layers.3.w"][0, 0] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    monkeypatch.setattr(handing_over, "SMALLEST_HANDED_OVER", 1)
    with pytest.raises(NonFiniteWeights, match=r"layers\.3\.w holds nan"):
        merge(request(tmp_path, tmp_path / "out", "average"))
    assert not (tmp_path / "out").exists()


def test_r17_deterministic_donor(models: Path, tmp_path: Path) -> None:
    """Hash seeds decide the order of sets; nothing written may depend on it. (20 seeds in `test_r17_twenty_seeds`.)"""
    assert len({_with_hash_seed(models, tmp_path, seed) for seed in (0, 1, 2)}) == 1


@pytest.mark.slow
def test_r17_twenty_seeds(models: Path, tmp_path: Path) -> None:
    assert len({_with_hash_seed(models, tmp_path, seed) for seed in range(20)}) == 1


def _with_hash_seed(models: Path, tmp_path: Path, seed: int) -> str:
    """What a merge in a process of this hash seed writes."""
    output = tmp_path / f"out-{seed}"
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_merge_bytes import request; from mats.engine import merge\n"
        "merge(request(Path(sys.argv[2]), Path(sys.argv[3]), 'ties'))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", script, str(Path(__file__).parent), str(models), str(output)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    files = sorted(path.name for path in output.iterdir() if path.is_file() and path.name != "run.json")
    assert set(FILES) <= set(files)
    return " ".join(files + digests(output, *files))


def test_r22_clean_output(models: Path, tmp_path: Path) -> None:
    """A merge over an earlier one with other shards leaves none of its files, nor its index."""
    output = tmp_path / "out"
    many = merge(request(models, output, "average", max_shard_bytes=30_000)).path
    assert len(list(many.glob("model-*.safetensors"))) > 3
    assert (many / "model.safetensors.index.json").is_file()
    one = merge(request(models, output, "average", overwrite=True)).path
    assert [path.name for path in one.glob("model*")] == ["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
