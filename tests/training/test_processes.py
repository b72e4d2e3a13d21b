"""Two processes under `accelerate launch` train what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training_cases import TinyBase, distance, weights

from mats.errors import RequestError
from mats.training import fine_tune, plan_training, read_report

Bases = Callable[[str], TinyBase]

PROGRAM = """
import sys
from pathlib import Path
from mats.data import load_spec
from mats.training import TrainingRequest, TrainingSettings, fine_tune
base, output, tuning, *data = sys.argv[1:]
settings = TrainingSettings(
    updates=6, batch_size=8, micro_batch_size=2, learning_rate=1e-3, evaluate_every=2, keep="last", seed=3, patience=2,
    tuning=tuning,
)
specs, heads = tuple(load_spec(path) for path in data), "per_dataset" if len(data) > 1 else "one"
fine_tune(TrainingRequest(base, specs, settings, output=Path(output), device="cpu", heads=heads))
"""


def launch(folder: Path, *arguments: object) -> None:
    """Run the program in two processes. `--multi_gpu` is accelerate's word for its launcher of several processes; that
    they compute on the CPU is for the request to say.
    """
    script = folder / "program.py"
    script.write_text(PROGRAM)
    options: dict[str, object] = {"num_processes": 2, "num_machines": 1, "main_process_port": 0}
    options |= {"mixed_precision": "no", "dynamo_backend": "no"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words, str(script)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuning", "names"), [("full", ("colour",)), ("lora", ("colour",)), ("full", ("colour", "mood"))]
)
def test_two_processes_train_what_one_trains(
    tiny_base: Bases, tmp_path: Path, tuning: str, names: tuple[str, ...]
) -> None:
    base = tiny_base("bert")
    settings = {"learning_rate": 1e-3, "evaluate_every": 2, "keep": "last", "patience": 2, "tuning": tuning}
    heads = {"heads": "per_dataset"} if len(names) > 1 else {}
    alone = fine_tune(base.request(tmp_path / "alone", *names, request=heads, **settings))
    launch(tmp_path, base.base, tmp_path / "together", tuning, *(base.data[name] for name in names))
    together = tmp_path / "together"
    report = read_report(together)
    assert report["processes"] == 2
    assert report["batch"]["accumulation"] == 2
    for folder in (alone / name for name in names) if heads else (alone,):
        assert distance(weights(folder), weights(together / folder.relative_to(alone))) < 1e-4
    losses = [[e["training_loss"] for e in read_report(folder)["evaluations"]] for folder in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert not (tmp_path / ".together.partial").exists()


def test_a_batch_is_divided_among_processes(tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")
    monkeypatch.setenv("WORLD_SIZE", "4")
    plan = plan_training(base.request(tmp_path / "out", batch_size=48, micro_batch_size=4))
    assert (plan.shape.micro, plan.shape.accumulation, plan.shape.processes) == (4, 3, 4)
    assert plan_training(base.request(tmp_path / "out", batch_size=48)).shape.micro == 12
    with pytest.raises(
        RequestError, match="batch_size 10 is no multiple of micro_batch_size 2 × 4 processes; 8 would be"
    ):
        plan_training(base.request(tmp_path / "out", batch_size=10))
