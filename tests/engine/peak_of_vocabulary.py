"""Run by test_vocabulary_memory in a process of its own: models in random orders of tokens, merged; prints the peak.

Usage: python peak_of_vocabulary.py FOLDER WORDS WIDTH MODELS... prints a line for each number of models: the bytes by
which the peak of resident memory rose, and those of one embedding.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from peak_of_merge import in_child, status
from safetensors.torch import save_file

from mats.engine import MergeRequest, ModelInput, merge, merging
from mats.methods import TaskArithmeticSettings


def make(folder: Path, words: int, width: int, seed: int) -> None:
    """An embedding and a head of its own; a tenth of the words are the model's alone."""
    folder.mkdir(parents=True)
    listed = [f"w{n}" if n % 10 or seed == 0 else f"w{n}-{seed}" for n in range(words)]
    random.Random(seed).shuffle(listed)
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(listed)}, "unk_token": listed[0]}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    (folder / "config.json").write_text(json.dumps({"vocab_size": words}))
    generator = torch.Generator().manual_seed(seed)
    names = ("model.embed_tokens.weight", "lm_head.weight")
    save_file({n: torch.randn(words, width, generator=generator) for n in names}, folder / "model.safetensors")


def measure(root: Path, models: int) -> None:
    """Merge, and print by how many bytes the peak rose; the pages of code that a merge touches come first."""
    merging.write_report = lambda *_, **__: []  # type: ignore[assignment]
    for home in (root / "small", root):
        inputs = tuple(ModelInput(f"m{n}", str(home / f"m{n}")) for n in range(1, models + 1))
        request = MergeRequest(
            inputs, TaskArithmeticSettings(), home / f"out-{models}", base=str(home / "m0"), device="cpu", vocab="base"
        )
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status("VmRSS")
        merge(request)
    print(status("VmHWM") - before, flush=True)


def main() -> None:
    """Make the largest number of models once, then merge and measure each number of them."""
    root, words, width, counts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), list(map(int, sys.argv[4:]))
    for seed in range(max(counts) + 1):
        in_child(make, root / f"m{seed}", words, width, seed)
        in_child(make, root / "small" / f"m{seed}", 50, 4, seed)
    for models in counts:
        in_child(measure, root, models)


if __name__ == "__main__":
    main()
