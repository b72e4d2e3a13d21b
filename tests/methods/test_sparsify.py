"""Sparsification kernels against brute force, hand-worked values and the moments of the published estimator."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.methods.sparsify import SparsifySettings, share_of
from mats.methods.sparsify_kernels import factors, norm_factor, random_factors, sparsified
from mats.methods.sparsify_masks import largest_mask, mask_key, middle_mask, random_mask, random_words, rank_chances

KEY = mask_key(0, "paws", "layer.weight")
PINNED = [1564736826, 678972344, 1682746500, 3097225514]


def change(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chosen(strategy="random", drop=0.9, **options):
    return SparsifySettings(strategy=strategy, drop=drop, **options)


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_mean_and_variance_over_seeds_are_those_of_dare(drop):
    """E = δ and Var = δ² p / (1 − p), entry by entry, over 4000 seeds."""
    delta = torch.tensor([3.0, -1.0, 0.25, -0.5, 2.0])
    draws = torch.stack([sparsified(delta, chosen(drop=drop), mask_key(seed, "a", "w")) for seed in range(4000)])
    spread = delta.abs() * math.sqrt(drop / (1 - drop))
    assert torch.all((draws.mean(0) - delta).abs() < 4 * spread / math.sqrt(4000))
    assert torch.allclose(draws.var(0), spread**2, rtol=0.2)
    dropped_only = torch.stack(
        [sparsified(delta, chosen(drop=drop, rescale="none"), mask_key(s, "a", "w")) for s in range(99)]
    )
    assert not torch.allclose(dropped_only.mean(0), delta, rtol=0.02)  # without the factor the mean is (1 − p) δ


def test_entries_and_neighbouring_keys_are_independent():
    masks = np.stack([random_mask(mask_key(seed, "a", "w"), 0, 100_000, 0.5) for seed in range(6)]).astype(float) - 0.5
    for first in range(6):
        for second in range(first):
            assert abs((masks[first] * masks[second]).mean()) < 5 * 0.25 / math.sqrt(100_000)
    for lag in (1, 2, 7, 8, 1024):
        assert abs((masks[0][lag:] * masks[0][:-lag]).mean()) < 5 * 0.25 / math.sqrt(90_000)


def test_another_seed_model_or_tensor_has_another_mask():
    first = random_mask(mask_key(0, "a", "w"), 0, 1000, 0.5)
    for other in (mask_key(1, "a", "w"), mask_key(0, "b", "w"), mask_key(0, "a", "v"), mask_key(0, "aw", "")):
        assert 350 < int((first != random_mask(other, 0, 1000, 0.5)).sum()) < 650
    assert (first == random_mask(mask_key(0, "a", "w"), 0, 1000, 0.5)).all()


@given(st.integers(0, 5000), st.integers(1, 300), st.floats(0, 1))
def test_any_part_of_a_mask_can_be_made_alone(start, count, density):
    whole = random_mask(KEY, 0, 5300, density)
    assert (random_mask(KEY, start, count, density) == whole[start : start + count]).all()


def test_the_stream_is_pinned():
    """Masks in published results must come out again with later versions."""
    assert random_words(KEY, 0, 4).tolist() == PINNED
    assert random_words(KEY, 2, 2).tolist() == PINNED[2:]


def test_masks_do_not_depend_on_threads_or_process():
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from mats.methods.sparsify_masks import mask_key, random_mask\n"
        "print(random_mask(mask_key(0, 'paws', 'layer.weight'), 0, 64, 0.5).astype(int).tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == str(random_mask(KEY, 0, 64, 0.5).astype(int).tolist())


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=40), st.data())
def test_exact_counts_where_magnitudes_tie(values, data):
    """Against a sort by (magnitude, later entries first)."""
    magnitudes = np.array(values, dtype=np.float32)
    smallest = data.draw(st.integers(0, len(values)))
    largest = data.draw(st.integers(0, len(values) - smallest))
    order = sorted(range(len(values)), key=lambda place: (values[place], -place))
    expected = set(order[smallest : len(values) - largest])
    assert set(np.flatnonzero(middle_mask(magnitudes, smallest=smallest, largest=largest))) == expected


def test_of_equal_magnitudes_the_earlier_are_kept():
    assert largest_mask(np.array([1, 2, 1, 1], np.float32), 2).tolist() == [True, True, False, False]


@pytest.mark.parametrize("strategy", ["random", "magnitude", "della", "breadcrumbs"])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1), (1, 3), (2, 3, 2), (0,), (0, 4)])
@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_no_shape_or_share_fails(strategy, shape, drop):
    """p · numel < 1 drops nothing by magnitude; p = 0 keeps everything bit for bit, p = 1 nothing."""
    delta = change(*shape) if shape else torch.tensor(0.7)
    for rescale in ("inverse", "none", "norm", 1.5):
        result = sparsified(delta, chosen(strategy, drop, rescale=rescale), KEY)
        assert result.shape == delta.shape
        assert torch.isfinite(result).all()
        if drop == 0 and rescale != 1.5:
            assert torch.equal(result, delta)
        if drop == 1:
            assert not result.any()
    if strategy == "magnitude" and 0 < drop * delta.numel() < 1:
        assert torch.equal(sparsified(delta, chosen(strategy, drop), KEY), delta)


def test_magnitude_drops_the_published_count():
    """⌊0.7 · 10⌋ = 7 of ten, where 0.7 · 10 = 7.000000000000001 and (1 − 0.9) · 10 = 0.9999999999999998."""
    delta = torch.arange(1.0, 11.0)
    assert sparsified(delta, chosen("magnitude", 0.7), KEY).tolist() == [0] * 7 + [8, 9, 10]
    assert int((sparsified(delta, chosen("magnitude", 0.7), KEY) != 0).sum()) == 3
    kept_one = SparsifySettings(strategy="magnitude", density=0.1)
    assert kept_one.drop == 0.9
    assert sparsified(delta, kept_one, KEY).tolist() == [0] * 9 + [10]
    assert [share_of(0.29, 100), share_of(0.57, 100), share_of(1.0, 7)] == [29, 57, 7]


def test_breadcrumbs_by_hand():
    """Of ten, drop 0.5: one outlier at the top (gamma 0.1) and the four smallest."""
    delta = torch.tensor([5.0, -10.0, 1.0, 2.0, -9.0, 3.0, 4.0, -6.0, 7.0, 8.0])
    found = sparsified(delta, chosen("breadcrumbs", 0.5, gamma=0.1), KEY)
    assert found.tolist() == [5, 0, 0, 0, -9, 0, 0, -6, 7, 8]
    without = sparsified(delta, chosen("breadcrumbs", 0.5, gamma=0.0), KEY)
    assert torch.equal(without, sparsified(delta, chosen("magnitude", 0.5), KEY))  # gamma 0 keeps, not empties
    assert sparsified(delta, chosen("breadcrumbs", 0.2, gamma=0.9), KEY).count_nonzero() == 8  # the share to drop holds


def test_della_chances_rise_with_rank_in_each_row():
    magnitudes = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 9.0]])
    found = rank_chances(magnitudes, 0.5, 0.2).reshape(2, 3)
    # in the second row the later of two equal entries counts as the smaller
    assert np.allclose(found, [[0.7, 0.3, 0.5], [0.5, 0.3, 0.7]])
    assert np.allclose(rank_chances(magnitudes[0], 0.5, 0.2), found[0])  # a vector is one row
    assert np.allclose(rank_chances(torch.ones(3, 1), 0.5, 0.2), 0.5)


def test_della_is_unbiased_with_each_entrys_own_chance():
    delta = torch.tensor([[4.0, -1.0, 2.0, 3.0]])
    options = chosen("della", 0.6, epsilon=0.3)
    draws = torch.stack([sparsified(delta, options, mask_key(seed, "a", "w")) for seed in range(4000)])
    assert torch.allclose(draws.mean(0), delta, atol=0.35)
    kept = (draws != 0).double().mean(0)
    assert torch.allclose(kept, torch.tensor([[0.7, 0.1, 0.3, 0.5]], dtype=torch.float64), atol=0.04)


@pytest.mark.parametrize("strategy", ["random", "magnitude", "della", "breadcrumbs"])
def test_norm_keeps_the_sum_of_magnitudes(strategy):
    delta = change(40, 50)
    found = sparsified(delta, chosen(strategy, 0.7, rescale="norm"), KEY)
    assert math.isclose(float(found.abs().sum()), float(delta.abs().sum()), rel_tol=1e-5)
    plain = sparsified(delta, chosen(strategy, 0.7, rescale="none"), KEY)
    assert torch.equal(found != 0, plain != 0)
    assert float(plain.abs().sum()) < 0.8 * float(delta.abs().sum())
    assert norm_factor(torch.ones(3), torch.zeros(3)) == 1.0


def test_an_explicit_factor_is_daerex():
    delta = change(1000)
    plain, scaled = (sparsified(delta, chosen(rescale=factor), KEY) for factor in ("none", 4.0))
    assert torch.equal(scaled, 4 * plain)


def test_the_input_stays_and_precision_is_kept():
    for dtype, working in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        delta = change(30, 4).to(dtype)
        before = delta.clone()
        found = sparsified(delta, chosen("magnitude", 0.5, rescale="inverse"), KEY)
        assert found.dtype == working
        assert torch.equal(delta, before)
    pieces = [random_factors(chosen(), KEY, start, 30, torch.float32) for start in range(0, 120, 30)]
    assert torch.equal(torch.cat(pieces), factors(change(30, 4), chosen(), KEY).reshape(-1))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"drop": 0.9, "density": 0.1}, "both given"),
        ({"density": "0.1"}, "density: received '0.1'"),
        ({"density": 2}, "a number in \\[0, 1\\]"),
        ({"drop": 1.1}, "less than or equal to 1"),
        ({"drop": 0.5, "rescale": -1.0}, "above 0"),
        ({"drop": 0.5, "gamma": 0.1}, "gamma belongs to strategy breadcrumbs"),
        ({"drop": 0.5, "epsilon": 0.1}, "epsilon belongs to strategy della"),
        ({"drop": 0.9, "strategy": "della", "epsilon": 0.2}, "at most 0.1"),
        ({}, "drop"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        SparsifySettings.model_validate(given)


def test_factors_by_default():
    assert chosen(drop=0.75).factor == 4
    assert [chosen(name).rescale for name in ("random", "della", "magnitude", "breadcrumbs")] == [
        "inverse", "inverse", "none", "none",
    ]  # fmt: skip
    assert (chosen("della", 0.9).half_width, chosen("della", 0.5).half_width) == (0.1, 0.15)
