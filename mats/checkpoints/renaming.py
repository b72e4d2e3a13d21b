"""What transformers 5 and later calls a parameter in memory and what it is called in files, where the two differ.

`from_pretrained` renames on loading (ViT: `vit.encoder.layer.0.attention.attention.query` becomes
`vit.layers.0.attention.q_proj`) and `save_pretrained` renames back. The renaming back is asked for here, on tensors
without memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def names_in_files(model: nn.Module) -> dict[str, str]:
    """Parameter name → its name in saved files, for parameters stored one to one under another name.

    A PEFT wrapper is looked through; names are those of the model inside, without `.base_layer`.
    """
    wrapper: Any = model
    inner = wrapper.get_base_model() if hasattr(wrapper, "get_base_model") else wrapper
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 keeps the names
        return {}
    if not hasattr(inner, "config"):
        return {}
    empty = {
        name.replace(".base_layer.", "."): torch.empty_like(parameter, device="meta")
        for name, parameter in inner.named_parameters(remove_duplicate=False)
    }
    own_names = {id(tensor): name for name, tensor in empty.items()}
    stored = revert_weight_conversion(inner, dict(empty))
    pairs = ((own_names.get(id(tensor)), name) for name, tensor in stored.items())
    return {own: name for own, name in pairs if own is not None and own != name}
