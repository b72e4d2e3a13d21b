"""Checkpoints: read lazily in every common format, matched by name and content, written kill-safe."""

from mats.checkpoints.adapters import ia3_config, merge_base, neutral_adapter
from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.companions import copy_companions, reconcile_config
from mats.checkpoints.densify import densify, on_one_base
from mats.checkpoints.loading import load_model
from mats.checkpoints.lora import LoraAdapter, LoraModule, open_lora
from mats.checkpoints.lora_writing import write_lora_adapter
from mats.checkpoints.matching import TensorMatch, labels, match_tensors, output_tensors
from mats.checkpoints.naming import parameter_names
from mats.checkpoints.opening import open_checkpoint
from mats.checkpoints.tensors import TensorInfo
from mats.checkpoints.ties import tied_in_all
from mats.checkpoints.writer import CheckpointWriter

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "LoraAdapter",
    "LoraModule",
    "TensorInfo",
    "TensorMatch",
    "copy_companions",
    "densify",
    "ia3_config",
    "labels",
    "load_model",
    "match_tensors",
    "merge_base",
    "neutral_adapter",
    "on_one_base",
    "open_checkpoint",
    "open_lora",
    "output_tensors",
    "parameter_names",
    "reconcile_config",
    "tied_in_all",
    "write_lora_adapter",
]
