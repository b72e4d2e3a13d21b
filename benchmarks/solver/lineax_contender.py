"""lineax (JAX) on one system, in a process of its own: it can express Σ λ G X A as a function with a promise of PSD."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batch import Batch
from contenders import PUBLISHED_LIMIT, SLACK

ONCE = Path(__file__).parent / "lineax_once.py"


def lineax(python: str, batch: Batch, system: int, tolerance: float, most: int = PUBLISHED_LIMIT) -> dict[str, Any]:
    """lineax's CG in float32 without preconditioner, factors stacked, compiled before the clock starts.

    Raises:
        SystemExit: the interpreter failed; it has said why.
    """
    pairs = batch.factors(system, torch.float32)
    b = batch.rhs(system)
    norm = float(b.norm())
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(
            given,
            left=np.stack([G.numpy() for G, _ in pairs]),
            right=np.stack([A.numpy() for _, A in pairs]),
            b=(b / norm).float().numpy(),
        )
        command = [python, str(ONCE), str(given), str(found), repr(tolerance), str(most), str(torch.get_num_threads())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
        told = json.loads(done.stdout.splitlines()[-1])
        correction = norm * torch.from_numpy(np.load(found)["correction"]).double()
    residual = batch.true_residual(system, correction)
    return {**told, "residuals": [residual], "finished": [residual <= SLACK * tolerance]}
