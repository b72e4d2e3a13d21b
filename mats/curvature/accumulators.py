"""Where sums accumulate: beside the layer that they are of, in the host's memory, or in memory-mapped files."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from mats.errors import OutOfSpace
from mats.files import explain_os_error


class Home(ABC):
    """Makes the zeros that sums start from; `name` is what the setting `accumulators` calls it."""

    name: str

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Zeros [*shape] for a layer whose values lie on `device`.

        Raises:
            OutOfSpace: there is no room for them.
        """


class BesideTheLayer(Home):
    """On the layer's own device: nothing is moved."""

    name = "device"

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Home`."""
        return torch.zeros(shape, dtype=dtype, device=device)


class InHostMemory(Home):
    """In the host's memory; each batch's product is formed where the layer is, then brought here."""

    name = "cpu"

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Home`."""
        del device
        return torch.zeros(shape, dtype=dtype)


class OnDisk(Home):
    """In files of `folder`, mapped into memory: the system keeps in memory what fits and writes back the rest.

    The files are working space, of no use to another run: what resumes is the partial sums.
    """

    name = "disk"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = 0

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Home`."""
        del device
        count = torch.Size(shape).numel()
        width = torch.finfo(dtype).bits // 8
        if count == 0:
            return torch.zeros(shape, dtype=dtype)
        path = self.folder / f"sum-{self._made:05d}"
        self._made += 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if count * width > free:
                raise OutOfSpace(
                    f"{self.folder}: sums of {count * width:,} bytes, but {free:,} are free on the disk; another place "
                    "for the stores, or more passes (a smaller memory_budget), would be right"
                )
            with path.open("wb") as file:  # reserved: a disk that fills up under a mapping kills without a word
                os.posix_fallocate(file.fileno(), 0, count * width)
        except OSError as error:
            raise explain_os_error(error, path) from error
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)

    def clear(self) -> None:
        """Delete the files; what is mapped stays readable until it is let go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._made = 0
