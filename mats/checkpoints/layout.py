"""Which tensor lies where in the output: shards, offsets and complete safetensors headers, known before any value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from mats.checkpoints.tensors import SAFETENSORS_CODES, TensorInfo
from mats.errors import RequestError

ALIGNMENT = 8  # bytes; headers are padded to it, as the reference implementation does


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its name, its header (length prefix included) and where each tensor starts in the file."""

    file_name: str
    header: bytes
    offsets: dict[str, int]
    size: int


@dataclass(frozen=True)
class Layout:
    """All files of one set of weights.

    Attributes:
        shards: in order; one alone has no number in its name and no index.
        index_name: name of the index file, used when there is more than one shard.
        infos: name → dtype and shape.
        shard_of: name → position in `shards`.
    """

    shards: tuple[Shard, ...]
    index_name: str
    infos: dict[str, TensorInfo]
    shard_of: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all shard files together."""
        return sum(shard.size for shard in self.shards)

    def identity(self) -> str:
        """A digest of everything that decides the bytes around the tensors."""
        digest = xxhash.xxh3_128()
        for shard in self.shards:
            digest.update(shard.file_name.encode() + b"\0" + shard.header)
        return digest.hexdigest()

    def index(self) -> str:
        """The text of the index file, in the form that transformers writes."""
        total = sum(info.nbytes for info in self.infos.values())
        weight_map = {name: self.shards[self.shard_of[name]].file_name for name in sorted(self.infos)}
        return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def plan_layout(tensors: Sequence[TensorInfo], max_shard_bytes: int, weights_name: str = "model") -> Layout:
    """Fill shards in the order given, none beyond `max_shard_bytes` unless one tensor alone is larger.

    Raises:
        RequestError: no tensor, a name twice, a dtype that safetensors does not know, or a limit below 1.
    """
    if max_shard_bytes < 1:
        raise RequestError(f"max_shard_bytes: {max_shard_bytes}; expected at least 1 byte")
    infos = {info.name: info for info in tensors}
    if not infos or len(infos) != len(tensors):
        names = [info.name for info in tensors]
        twice = next((name for name in names if names.count(name) > 1), None)
        raise RequestError(f"output: tensor {twice} is declared twice" if twice else "output: no tensor to write")
    unknown = next((info for info in tensors if info.dtype not in SAFETENSORS_CODES), None)
    if unknown is not None:
        raise RequestError(f"output: tensor {unknown.name} has dtype {unknown.dtype}, which safetensors cannot hold")
    groups = _fill(tensors, max_shard_bytes)
    shards = tuple(_shard(_file_name(weights_name, i, len(groups)), group) for i, group in enumerate(groups))
    shard_of = {info.name: position for position, group in enumerate(groups) for info in group}
    return Layout(shards, f"{weights_name}.safetensors.index.json", infos, shard_of)


def _fill(tensors: Sequence[TensorInfo], limit: int) -> list[list[TensorInfo]]:
    groups: list[list[TensorInfo]] = []
    used = 0
    for info in tensors:
        if not groups or used + info.nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(info)
        used += info.nbytes
    return groups


def _file_name(weights_name: str, position: int, count: int) -> str:
    if count == 1:
        return f"{weights_name}.safetensors"
    return f"{weights_name}-{position + 1:05d}-of-{count:05d}.safetensors"


def _shard(file_name: str, tensors: Sequence[TensorInfo]) -> Shard:
    """Wide dtypes first, so that every tensor is aligned to its own element size (a stable sort: order is kept)."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    position = 0
    for info in sorted(tensors, key=lambda info: -info.dtype.itemsize):
        starts[info.name] = position
        entries[info.name] = {
            "dtype": SAFETENSORS_CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [position, position + info.nbytes],
        }
        position += info.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return Shard(file_name, header, offsets, len(header) + position)
