"""The table of docs/collection.md: what step one would take for models of three sizes, from configurations in code.

    python benchmarks/collection/on_paper.py

Nothing is downloaded, loaded or timed; the formulas and their assumptions are those of `mats plan-metadata`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mats.engine.collection_forecast import Workload, forecast


def configurations() -> dict[str, Any]:
    """T5-large, Llama-3-8B and a Llama of 70 billion parameters."""
    from transformers import LlamaConfig, T5Config

    llama = {"vocab_size": 128256, "num_key_value_heads": 8, "architectures": ["LlamaForCausalLM"]}
    return {
        "T5-large": T5Config(
            d_model=1024,
            d_kv=64,
            d_ff=4096,
            num_layers=24,
            num_decoder_layers=24,
            num_heads=16,
            architectures=["T5ForConditionalGeneration"],
        ),
        "Llama-3-8B": LlamaConfig(
            hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, **llama
        ),
        "Llama-3-70B": LlamaConfig(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, **llama
        ),
    }


def main() -> None:
    workload = Workload(tokens=512, targets=64, examples=1000, batch_size=8, dtype="bfloat16", accelerator="h100")
    print("model | weights | sums | activations of a batch | GPUs | passes | operations | hours")
    print("---|---|---|---|---|---|---|---")
    for name, configuration in configurations().items():
        fewest = forecast(configuration, workload)
        several = [] if len(fewest.passes) == 1 else [forecast(configuration, replace(workload, gpus=8))]
        for found in (fewest, *several):
            print(
                f"{name} | {found.model.bytes / 1e9:.1f} GB | {sum(found.pass_bytes) / 1e9:.1f} GB | "
                f"{found.model.activations / 1e9:.1f} GB | {found.gpus} × {found.accelerator.name} | "
                f"{len(found.passes)} | {found.operations:.1e} | {found.hours:.2g}"
            )


if __name__ == "__main__":
    main()
