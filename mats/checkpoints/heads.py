"""Heads: the parameters on top of a body that belong to one task, and the folder in which a merged body keeps them.

<output>/heads/index.json             whose head the folder itself has, and the files of all heads
<output>/heads/<model>.safetensors    the head's tensors, as its model has them
<output>/heads/<model>.json           its model's configuration: labels, problem type, dropout, …
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mats.checkpoints.checkpoint import Checkpoint, Stored
from mats.checkpoints.legacy import PEFT_PREFIX, is_ia3_vector
from mats.checkpoints.safetensors_file import SafetensorsFile
from mats.errors import CheckpointCorrupt, RequestError
from mats.files import explain_os_error, write_bytes_atomically, write_json_atomically

HEADS_FOLDER = "heads"
INDEX_NAME = "index.json"
HEAD_PARTS = frozenset(
    {
        "answer_class",  # XLNet
        "classification_head",  # BART, T5
        "classification_heads",
        "classifier",
        "cls",  # BERT before fine-tuning: masked tokens and next sentence
        "head",  # ModernBERT
        "logits_proj",
        "pre_classifier",  # DistilBERT
        "qa_classifier",
        "qa_outputs",
        "score",  # decoders
        "sequence_summary",
    }
)
"""First parts of the names that transformers gives to the parameters of task heads."""
CLASS_HEAD = re.compile(r"(.*\.)?(classifier|score)(\.out_proj|\.modules_to_save)?\.weight")


def is_head(name: str, patterns: Sequence[str] = ()) -> bool:
    """Whether a checkpoint's name is that of a head's parameter: by `patterns`, or without any by what it is called.

    In a PEFT adapter, whatever is not an adapter's own vector was saved with it as a module (`modules_to_save`).

    >>> is_head("classifier.weight"), is_head("bert.pooler.dense.weight"), is_head("bert.pooler.bias", ["*pooler*"])
    (True, False, True)
    """
    if patterns:
        return any(fnmatchcase(name, pattern) for pattern in patterns)
    return name.removeprefix(PEFT_PREFIX).partition(".")[0] in HEAD_PARTS


def is_adapter_vector(name: str) -> bool:
    """Whether a name in an adapter is one of its own vectors or factors, not of a module saved with it."""
    return is_ia3_vector(name) or ".lora_" in name


def part_of(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    """The checkpoint with only these of its tensors; it shares the open files."""
    return Checkpoint(
        checkpoint.name,
        checkpoint.path,
        checkpoint.kind,
        {name: checkpoint.place(name) for name in names},
        checkpoint.config,
    )


def class_count(checkpoint: Checkpoint) -> int | None:
    """Number of classes of a classification head, by its shape; None where there is none."""
    for name, info in checkpoint.tensors.items():
        if CLASS_HEAD.fullmatch(name) and len(info.shape) == 2:
            return info.shape[0]
    return None


def configuration_of(head: Checkpoint, base: Checkpoint | None) -> dict[str, Any]:
    """The configuration under which a head works: its model's, or for weights without one the base's.

    Weights alone know the number of classes, not their names.
    """
    if head.config is not None:
        return head.config
    config = dict((base.config if base is not None else None) or {})
    count = class_count(head)
    if count is not None and count != len(config.get("id2label") or range(2)):  # 2 is what transformers leaves out
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(count)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(count)}
    return config


@dataclass(frozen=True)
class HeadFiles:
    """One head in a folder of heads: its weights, its model's configuration, and its parameters' names."""

    weights: Path
    config: Path
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class HeadsIndex:
    """What `heads/index.json` says: the model whose head the folder itself has, and all heads by model."""

    owner: str
    heads: dict[str, HeadFiles]


def write_heads(folder: Path, heads: Mapping[str, Checkpoint], configs: Mapping[str, Any], owner: str) -> None:
    """Write every model's head beside a merged body.

    Args:
        folder: of the merged model; `heads/` is made in it.
        heads: model → its head (`part_of` its checkpoint).
        configs: model → the configuration under which its head works.
        owner: the model whose head the folder itself has.

    Raises:
        NonFiniteWeights, CheckpointCorrupt: from the models' files.
        OutOfSpace, WorkFailed: from the disk.
    """
    from safetensors.torch import save

    home = folder / HEADS_FOLDER
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, home) from error
    entries = []
    for name, head in heads.items():
        stem = quote(name, safe=" ")
        tensors = {parameter: head.read(parameter) for parameter in head.tensors}
        write_bytes_atomically(home / f"{stem}.safetensors", save(tensors, {"format": "pt"}))
        write_json_atomically(home / f"{stem}.json", configs[name])
        files = {"weights": f"{stem}.safetensors", "config": f"{stem}.json"}
        entries.append({"model": name, **files, "parameters": list(head.tensors)})
    write_json_atomically(home / INDEX_NAME, {"schema_version": 1, "owner": owner, "heads": entries})


def read_heads_index(path: str | Path) -> HeadsIndex | None:
    """The heads kept in the model folder at `path`; None where it keeps none.

    Raises:
        CheckpointCorrupt: the index is unreadable, or names files that are missing or elsewhere.
    """
    home = Path(path) / HEADS_FOLDER
    file = home / INDEX_NAME
    if not file.is_file():
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        heads = {
            str(entry["model"]): HeadFiles(
                home / entry["weights"], home / entry["config"], tuple(map(str, entry["parameters"]))
            )
            for entry in raw["heads"]
        }
        index = HeadsIndex(str(raw["owner"]), heads)
    except OSError as error:
        raise explain_os_error(error, file) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{file}: not an index of heads ({type(error).__name__}: {error})") from error
    for path_ in (part for head in heads.values() for part in (head.weights, head.config)):
        if path_.parent != home or not path_.is_file():
            raise CheckpointCorrupt(f"{path_}: missing, although {INDEX_NAME} names it")
    if index.owner not in heads:
        raise CheckpointCorrupt(f"{file}: the folder's own head, of {index.owner!r}, is not among its heads")
    return index


def head_names(path: str | Path) -> tuple[str, ...]:
    """The models whose heads the folder at `path` keeps; none for any other path."""
    index = read_heads_index(path) if Path(path).is_dir() else None
    return () if index is None else tuple(index.heads)


def with_head(checkpoint: Checkpoint, head: str) -> Checkpoint:
    """The merged body of `checkpoint` with the head of the model called `head`, and that model's configuration.

    Raises:
        RequestError: the folder keeps no heads, or none of that name.
        CheckpointCorrupt: the head's files cannot be read.
    """
    index = read_heads_index(checkpoint.path) if checkpoint.path.is_dir() else None
    if index is None:
        raise RequestError(
            f"head {head!r}: {checkpoint.path} keeps no heads; a result of `heads: {{from: own}}` would be right"
        )
    if head not in index.heads:
        raise RequestError(f"head {head!r}: not in {checkpoint.path}; one of {', '.join(index.heads)} would be right")
    own = set(index.heads[index.owner].parameters)
    files = index.heads[head]
    stored = {name: checkpoint.place(name) for name in checkpoint.tensors if name not in own}
    file = SafetensorsFile(files.weights)
    try:
        stored |= {name: Stored(file, name, file.infos[name].shape) for name in files.parameters}
        config = json.loads(files.config.read_text(encoding="utf-8"))
    except KeyError as error:
        file.close()
        raise CheckpointCorrupt(f"{files.weights}: tensor {error.args[0]} is not in it, as the index says") from error
    except (OSError, ValueError) as error:
        file.close()
        raise CheckpointCorrupt(f"{files.config}: not readable as JSON ({error})") from error
    return Checkpoint(checkpoint.name, checkpoint.path, checkpoint.kind, stored, config)
