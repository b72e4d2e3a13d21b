"""Every format and layout reads as the same tensors, in fresh memory, finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.checkpoints.bytes import CHUNK_BYTES, is_finite
from mats.errors import InputsMismatch, NonFiniteWeights

CONTENT = {
    "layer.10.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "layer.2.weight": torch.arange(8, dtype=torch.bfloat16).reshape(2, 4) / 3,
    "layer.2.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "ids": torch.arange(5),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 3),
}


def write(folder: Path, form: str, content: dict[str, Tensor]) -> Path:
    """One of the layouts found in the wild; returns what a user would name."""
    folder.mkdir()
    names = list(content)
    parts = {1: names[:3], 2: names[3:]}
    sharded = {n: f"{{}}-0000{i}-of-00002" for i, part in parts.items() for n in part}
    if form == "safetensors":
        save_file(content, folder / "model.safetensors")
    elif form == "bin":
        torch.save(content, folder / "pytorch_model.bin")
    elif form == "bin, old format":
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "safetensors, sharded":
        for i, part in parts.items():
            save_file({n: content[n] for n in part}, folder / f"model-0000{i}-of-00002.safetensors")
        index = {n: f"{file.format('model')}.safetensors" for n, file in sharded.items()}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    elif form == "bin, sharded":
        for i, part in parts.items():
            torch.save({n: content[n] for n in part}, folder / f"pytorch_model-0000{i}-of-00002.bin")
        index = {n: f"{file.format('pytorch_model')}.bin" for n, file in sharded.items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    elif form == "lone .pt":
        torch.save(content, folder / "best.pt")
        return folder / "best.pt"
    return folder


FORMS = ("safetensors", "bin", "bin, old format", "safetensors, sharded", "bin, sharded", "lone .pt")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same(tmp_path: Path, form: str, device: str) -> None:
    with open_checkpoint(write(tmp_path / "model", form, CONTENT)) as checkpoint:
        assert checkpoint.kind == "model"
        assert list(checkpoint.tensors) == [
            "empty", "ids", "layer.2.bias", "layer.2.weight", "layer.10.weight", "mask", "scalar",
        ]  # fmt: skip
        for name, value in CONTENT.items():
            read = checkpoint.read(name, device=device)
            assert read.dtype == value.dtype == checkpoint.tensors[name].dtype
            assert read.device.type == device
            assert checkpoint.tensors[name].nbytes == value.nbytes
            assert torch.equal(read.cpu(), value)


def test_fingerprint_is_the_same_for_every_form_and_different_for_every_change(tmp_path: Path) -> None:
    forms = {form: open_checkpoint(write(tmp_path / form, form, CONTENT)).fingerprint() for form in FORMS}
    assert len(set(forms.values())) == 1
    assert forms["bin"].startswith("xxh3_128:")
    nudged = CONTENT["layer.10.weight"].clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    changes = {
        "one bit": {**CONTENT, "layer.10.weight": nudged},
        "another name": {**{n: v for n, v in CONTENT.items() if n != "mask"}, "masks": CONTENT["mask"]},
        "another shape": {**CONTENT, "layer.10.weight": CONTENT["layer.10.weight"].reshape(4, 3)},
        "another dtype": {**CONTENT, "ids": CONTENT["ids"].view(torch.float64)},
        "one tensor less": {n: v for n, v in CONTENT.items() if n != "empty"},
    }
    changed = {k: open_checkpoint(write(tmp_path / k, "bin", c)).fingerprint() for k, c in changes.items()}
    assert len({*changed.values(), forms["bin"]}) == len(changes) + 1


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin, old format"])
def test_floats_are_cast_and_integers_are_not(tmp_path: Path, form: str, device: str) -> None:
    with open_checkpoint(write(tmp_path / "model", form, CONTENT)) as checkpoint:
        read = checkpoint.read("layer.2.weight", dtype=torch.float32, device=device)
        assert read.dtype == torch.float32
        assert torch.equal(read.cpu(), CONTENT["layer.2.weight"].float())
        assert checkpoint.read("ids", dtype=torch.float32, device=device).dtype == torch.int64
        assert checkpoint.read("mask", dtype=torch.float32, device=device).dtype == torch.bool


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin, old format"])
def test_what_is_read_shares_memory_with_nothing(tmp_path: Path, form: str) -> None:
    with open_checkpoint(write(tmp_path / "model", form, CONTENT)) as checkpoint:
        checkpoint.read("layer.10.weight").fill_(0)
        assert torch.equal(checkpoint.read("layer.10.weight"), CONTENT["layer.10.weight"])


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_single_bad_number_far_into_a_tensor_is_found(
    tmp_path: Path, form: str, dtype: torch.dtype, bad: float
) -> None:
    values = torch.ones(CHUNK_BYTES // 2 + 7, dtype=dtype)
    values[-3] = bad
    folder = write(tmp_path / "model", form, {"good": torch.ones(3, dtype=dtype), "bad": values})
    with open_checkpoint(folder) as checkpoint:
        checkpoint.read("good")
        with pytest.raises(NonFiniteWeights, match=rf"model.*tensor bad holds .* at flat index {len(values) - 3}"):
            checkpoint.read("bad")
        with pytest.raises(NonFiniteWeights, match="tensor bad"):
            checkpoint.read("bad", dtype=torch.float64)


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin, old format"])
def test_a_large_tensor_is_as_private_as_a_small_one(tmp_path: Path, form: str) -> None:
    """Large ones are mapped, not copied; that must not show, neither in the file nor in another read."""
    values = torch.randn(300, 1000)
    folder = write(tmp_path / "model", form, {"w": values, "small": torch.ones(3)})
    file = next(folder.iterdir())
    before = file.read_bytes()
    with open_checkpoint(folder) as checkpoint:
        first = checkpoint.read("w")
        assert first.is_contiguous()
        first.mul_(0)
        second = checkpoint.read("w")
    assert torch.equal(second, values)  # it outlives the checkpoint, too
    assert not first.any()
    assert file.read_bytes() == before


def test_where_mapping_is_refused_the_copy_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("unable to mmap")

    values = torch.randn(300, 1000)
    folder = write(tmp_path / "model", "safetensors", {"w": values})
    monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    with open_checkpoint(folder) as checkpoint:
        assert torch.equal(checkpoint.read("w"), values)


def test_large_finite_values_whose_sum_overflows_are_finite(device: str) -> None:
    huge = torch.full((1000,), 3e38, device=device)
    assert not torch.isfinite(huge.sum())
    assert is_finite(huge)
    assert is_finite(torch.full((70,), 60000.0, dtype=torch.float16, device=device))
    assert not is_finite(torch.cat([huge, -huge, torch.tensor([float("inf")], device=device)]))


def test_strided_tensors_in_a_bin_are_read_in_row_major_order(tmp_path: Path) -> None:
    whole = torch.randn(CHUNK_BYTES // 4 // 100, 150)
    views = {"transposed": whole.t(), "stepped": whole[::3, ::2], "part": whole[5:9]}
    torch.save(views, tmp_path / "views.pt")
    with open_checkpoint(tmp_path / "views.pt") as checkpoint:
        for name, view in views.items():
            assert torch.equal(checkpoint.read(name), view)


def test_float8_is_read_and_checked(tmp_path: Path) -> None:
    values = torch.tensor([0.5, 2.0, -4.0]).to(torch.float8_e4m3fn)
    save_file({"w": values}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.read("w", dtype=torch.float32), torch.tensor([0.5, 2.0, -4.0]))


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with (
        open_checkpoint(write(tmp_path / "model", "bin", CONTENT)) as checkpoint,
        pytest.raises(InputsMismatch, match=r"no tensor named layer\.2\.wieght; nearest: layer\.2\.weight"),
    ):
        checkpoint.read("layer.2.wieght")
