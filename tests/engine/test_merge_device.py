"""Tensors merged entry by entry on the request's device: what goes there, and that the answer is the CPU's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_merge_bytes import make_models, request

from mats.checkpoints import open_checkpoint
from mats.engine import merge, streaming
from mats.engine.inputs import MergeInputs
from mats.engine.plan import Streamed
from mats.methods import AverageSettings, TaskArithmeticSettings, TiesSettings

pytestmark = pytest.mark.usefixtures("light_report")


def placed(root: Path, monkeypatch: pytest.MonkeyPatch, settings: object, memory: int) -> str:
    monkeypatch.setattr(streaming, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(streaming, "device_memory", lambda device: memory)
    with MergeInputs(request(root, root / "out", "average")) as inputs:
        return streaming._device_for(inputs, Streamed("layers.0.w", "", settings)).type  # type: ignore[arg-type]


def test_what_goes_to_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_models(tmp_path)
    for settings in (AverageSettings(), TaskArithmeticSettings(), TiesSettings()):
        assert placed(tmp_path, monkeypatch, settings, memory=1 << 30) == "cuda"
        assert placed(tmp_path, monkeypatch, settings, memory=1 << 10) == "cpu"
    for settings in (None, TiesSettings(trim_scope="tensor"), TiesSettings(aggregate="median")):
        assert placed(tmp_path, monkeypatch, settings, memory=1 << 30) == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties"])
def test_cuda_gives_what_the_cpu_gives(tmp_path: Path, method: str) -> None:
    make_models(tmp_path)
    wanted = request(tmp_path, tmp_path / "cpu", method)
    paths = [merge(replace(wanted, device=name, output=tmp_path / name)).path for name in ("cpu", "cuda")]
    with open_checkpoint(paths[0]) as on_cpu, open_checkpoint(paths[1]) as on_cuda:
        for name in on_cpu.tensors:
            torch.testing.assert_close(on_cuda.read(name), on_cpu.read(name), rtol=1e-6, atol=1e-7)
