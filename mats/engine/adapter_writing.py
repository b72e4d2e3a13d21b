"""What lies beside the weights of a merged LoRA adapter."""

from __future__ import annotations

from pathlib import Path

from mats.checkpoints import copy_companions
from mats.checkpoints.lora_writing import lora_configuration
from mats.engine.adapter_inputs import AdapterInputs
from mats.engine.adapter_plan import AdapterPlan
from mats.files import write_json_atomically


def write_adapter_configuration(inputs: AdapterInputs, plan: AdapterPlan, folder: Path) -> None:
    """Write `adapter_config.json`, and copy tokenizer and licences of the first adapter."""
    first = inputs.adapters[0]
    copy_companions(first.checkpoint, folder, base=inputs.base)
    other = {part.name: part.placeholder for part in plan.saved}
    config = lora_configuration(plan.skeleton, first.config, other, inputs.base)
    write_json_atomically(folder / "adapter_config.json", config)
