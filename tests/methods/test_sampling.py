"""A sample of a checkpoint's tensor: the same places in every file, spread over the whole, and what it is used for."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mats.checkpoints import open_checkpoint
from mats.methods.magnitude import SAMPLE_BLOCK, BracketSelection, kept_rank
from mats.methods.sampling import sample_checkpoint, sample_ranges


@pytest.mark.parametrize("numel", [0, 1, SAMPLE_BLOCK - 1, SAMPLE_BLOCK, SAMPLE_BLOCK + 1, 100_000])
@pytest.mark.parametrize("count", [1, 64, SAMPLE_BLOCK, 20_000, 10**7])
def test_places_are_inside_disjoint_and_reach_both_ends(numel, count):
    places = [place for part in sample_ranges(numel, count) for place in part]
    assert len(places) == len(set(places))
    assert len(places) >= min(count, numel)
    assert set(places) <= set(range(numel))
    if len(places) > SAMPLE_BLOCK:
        assert places[0] == 0
        assert places[-1] == numel - 1


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_what_is_sampled_is_what_reading_gives(tmp_path, suffix):
    tensors = {"scalar": torch.tensor(3.0), "matrix": torch.randn(300, 70).bfloat16()}
    if suffix == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        for name, tensor in tensors.items():
            places = [place for part in sample_ranges(tensor.numel(), 2000) for place in part]
            assert torch.equal(sample_checkpoint(checkpoint, name, 2000), tensor.flatten()[places])


def test_a_sample_of_clustered_changes_still_brackets():
    """Most rows of an embedding never changed: neighbours are alike, and the bracket must be wide enough."""
    misses = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.rand(2000, 1, generator=generator).lt(0.4) * torch.rand(2000, 1, generator=generator)
        whole = (torch.randn(2000, 500, generator=generator) * rows).abs().flatten()
        sample = torch.cat([whole[part.start : part.stop] for part in sample_ranges(whole.numel(), 100_000)])
        selection = BracketSelection.from_sample(sample, 0.2)
        selection.add(whole)
        rank = kept_rank(whole.numel(), 0.2)
        found = selection.result(rank)
        misses += found is None or found.value != float(whole.kthvalue(rank).values)
        independent = BracketSelection.from_sample(sample[torch.randperm(sample.numel(), generator=generator)], 0.2)
        assert independent.upper - independent.lower < selection.upper - selection.lower  # the clusters were seen
    assert misses == 0
