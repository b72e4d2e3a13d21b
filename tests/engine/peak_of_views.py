"""Run by test_view_memory in a process of its own: merge models that are computed as they are read, print the peak.

Usage: python peak_of_views.py FOLDER KIND LAYERS… prints a line for each number of layers: the bytes by which the peak
of resident memory rose over what the imports and a small merge took, and the plan's estimate. KIND is `union` (models
of different vocabularies) or a strategy of sparsification.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peak_of_merge import in_child, status
from safetensors.torch import save_file
from worded_models import SPECIAL, save_tokenizer, word_tokenizer

from mats.engine import MergeRequest, ModelInput, merge, merging, plan_merge
from mats.methods import TaskArithmeticSettings
from mats.methods.sparsify import SparsifySettings

WORDS, WIDTH = 16_000, 512
EMBEDDING = 4 * WORDS * WIDTH


def make(root: Path, layers: int, words: int) -> None:
    """A base and two models: an embedding of many words, and small layers; the models know words of their own."""
    generator = torch.Generator().manual_seed(0)
    common = [f"word{i}" for i in range(words)]
    for name, own in (
        ("base", []),
        ("model0", [f"new{i}" for i in range(7)]),
        ("model1", [f"other{i}" for i in range(3)]),
    ):
        folder = root / name
        folder.mkdir(parents=True)
        listed = [*common[::-1], *own] if name == "model1" else [*common, *own]
        tokenizer = word_tokenizer([*SPECIAL, *listed])
        rows = len(tokenizer.get_vocab())
        shapes = {"model.embed_tokens.weight": (rows, WIDTH), "lm_head.weight": (rows, WIDTH)}
        shapes |= {f"model.layers.{i}.mlp.up_proj.weight": (WIDTH, WIDTH) for i in range(layers)}
        state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": rows}
        (folder / "config.json").write_text(json.dumps(config))
        save_tokenizer(folder, tokenizer)


def make_alike(root: Path, layers: int, words: int) -> None:
    """The same with one vocabulary, and no tokenizer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (words, WIDTH), **{f"layers.{i}.weight": (WIDTH, WIDTH) for i in range(layers)}}
    for name in ("base", "model0", "model1"):
        (root / name).mkdir(parents=True)
        state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        save_file(state, root / name / "model.safetensors", {"format": "pt"})


def request(root: Path, kind: str, output: str) -> MergeRequest:
    """Task arithmetic on two models."""
    thinned = None if kind == "union" else SparsifySettings(strategy=kind, drop=0.6, rescale="norm")
    models = tuple(ModelInput(f"m{i}", str(root / f"model{i}"), sparsify=thinned) for i in range(2))
    return MergeRequest(
        models,
        TaskArithmeticSettings(scale=0.5),
        root / output,
        base=str(root / "base"),
        device="cpu",
        vocab="union" if kind == "union" else "error",
    )


def measure(root: Path, kind: str, small: Path) -> None:
    """Merge, and print by how many bytes the peak rose, and the plan's estimate."""
    merging.write_report = lambda *_, **__: []  # type: ignore[assignment]
    merge(request(small, kind, f"out-{root.name}"))
    wanted = request(root, kind, "out")
    plan = plan_merge(wanted)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    merge(wanted)
    print(status("VmHWM") - before, plan.peak_bytes, flush=True)


def main() -> None:
    """For each number of layers: make, then merge and measure."""
    root, kind = Path(sys.argv[1]), sys.argv[2]
    build = make if kind == "union" else make_alike
    in_child(build, root / "small", 2, 100)
    for layers in map(int, sys.argv[3:]):
        in_child(build, root / str(layers), layers, WORDS)
        in_child(measure, root / str(layers), kind, root / "small")


if __name__ == "__main__":
    main()
