"""WUDI, Iso-CTS and KnOTS against their definitions in dense numpy, breadcrumbs against a sort; and what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mats.errors import RequestError, ShapeMismatch
from mats.methods import (
    BreadcrumbsSettings,
    IsoCSettings,
    IsoCtsSettings,
    KnotsSettings,
    TsvMSettings,
    WudiSettings,
    elementwise,
    method_names,
    parse_method,
)

SHAPES = [(12, 8), (8, 12), (9, 9), (6, 2, 3, 3)]
SPECTRAL = [WudiSettings(), IsoCtsSettings(), KnotsSettings()]


def tensors(count, shape, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for _ in range(count)]


def low_rank(count, shape, rank, seed=0):
    """A base, and models that differ from it by a matrix of that rank, as LoRA makes them."""
    generator = np.random.default_rng(seed)
    base = generator.standard_normal(shape)
    factors = [
        (generator.standard_normal((shape[0], rank)), generator.standard_normal((rank, shape[1]))) for _ in range(count)
    ]
    return base, [base + b @ a for b, a in factors]


def merge(method, base, models, weights=None, name="layer.weight", dtype=torch.float64):
    made = elementwise(method, weights or [1.0] * len(models))
    given_models = (torch.from_numpy(np.asarray(model)).to(dtype) for model in models)
    return made.merge(name, torch.from_numpy(np.asarray(base)).to(dtype), given_models).numpy()


def flat_changes(base, models):
    return [(model - base).reshape(len(base), -1) for model in models]


def wudi_by_definition(base, models, scale, *, anchor=0.1, weights=None):
    """The minimiser found by least squares: every model's residual stacked, the nearest to the start taken."""
    changes = flat_changes(base, models)
    weights = [1.0] * len(models) if weights is None else weights
    start = sum(w * change for w, change in zip(weights, changes, strict=True))
    grams = [w * change.T @ change / np.sum(change**2) for w, change in zip(weights, changes, strict=True)]
    columns = [np.sqrt(w) * change.T / np.linalg.norm(change) for w, change in zip(weights, changes, strict=True)]
    wanted = [(change - start) @ column for change, column in zip(changes, columns, strict=True)]
    strength = anchor * np.trace(sum(grams)) / len(grams[0])
    columns.append(np.sqrt(strength) * np.eye(len(grams[0])))
    wanted.append(np.zeros_like(start))
    found, *_ = np.linalg.lstsq(np.concatenate(columns, 1).T, np.concatenate(wanted, 1).T, rcond=1e-12)
    return base + scale * (start + found.T).reshape(base.shape)


def polar(matrix):
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def iso_cts_by_definition(base, models, scale, share=0.8):
    changes = flat_changes(base, models)
    rank = min(changes[0].shape)
    count = len(models)
    specific = min(round((rank - int(rank * share)) / count) * count, rank // count * count)
    u, s, vt = np.linalg.svd(sum(changes), full_matrices=False)
    common = rank - specific
    lefts, values, rights = [u[:, :common]], [s[:common]], [vt[:common].T]
    for change in changes:
        own = change - u[:, :common] @ u[:, :common].T @ change
        ui, si, vti = np.linalg.svd(own, full_matrices=False)
        kept = specific // count
        lefts.append(ui[:, :kept])
        values.append(si[:kept])
        rights.append(vti[:kept].T)
    merged = np.concatenate(values).mean() * polar(np.concatenate(lefts, 1)) @ polar(np.concatenate(rights, 1)).T
    return base + scale * merged.reshape(base.shape)


def ties_by_definition(rows, density):
    """Trim by the published rule, elect by mass, disjoint mean, of rows [models, entries]."""
    rows = rows.astype(np.float32).astype(float)
    for row in rows:
        place = row.size - int(row.size * density)
        row[np.abs(row) < np.sort(np.abs(row))[place - 1]] = 0.0
    sign = np.sign(rows.sum(0))
    agree = (np.sign(rows) == sign) & (rows != 0)
    return (rows * agree).sum(0) / np.maximum(agree.sum(0), 1)


def knots_by_definition(base, models, scale, density=0.2):
    changes = flat_changes(base, models)
    u, s, vt = np.linalg.svd(np.concatenate(changes, 1), full_matrices=False)
    kept = s > 1e-5 * s[0]
    u, s, v = u[:, kept], s[kept], vt[kept].T
    parts = np.stack([part.ravel() for part in np.split(v, len(models))])
    coordinates = ties_by_definition(parts, density).reshape(-1, len(s))
    return base + scale * (u * s @ coordinates.T).reshape(base.shape)


DEFINITIONS = {
    WudiSettings: wudi_by_definition,
    IsoCtsSettings: iso_cts_by_definition,
    KnotsSettings: knots_by_definition,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", list(DEFINITIONS))
def test_matrices_are_merged_by_the_definitions(method, count, shape):
    base, *models = tensors(count + 1, shape, seed=count)
    expected = DEFINITIONS[method](base, models, 0.7)
    np.testing.assert_allclose(merge(method(scale=0.7), base, models), expected, atol=2e-6)
    in_fp32 = merge(method(scale=0.7), base, models, dtype=torch.float32)
    assert in_fp32.dtype == np.float32
    if method is not KnotsSettings:  # whose trim may turn over on a rounding
        np.testing.assert_allclose(in_fp32, expected, atol=2e-4)
    if count > 1:  # controls: another scale, and a plain sum of the task vectors, are told apart
        merged = merge(method(scale=0.7), base, models)
        assert np.abs(merged - DEFINITIONS[method](base, models, 1.0)).max() > 0.05
        assert np.abs(merged - (base + 0.7 * sum(model - base for model in models))).max() > 0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.permutations(range(3)), st.sampled_from(SPECTRAL), st.sampled_from(SHAPES[:3]))
def test_the_order_of_models_does_not_matter(seed, order, method, shape):
    base, *models = tensors(4, shape, seed=seed)
    weights = [1.0, 0.5, 2.0]
    plain = merge(method, base, models, weights)
    changed = merge(method, base, [models[i] for i in order], [weights[i] for i in order])
    np.testing.assert_allclose(plain, changed, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.sampled_from([0.0, 0.1, 10.0]))
def test_wudi_is_regmean_with_proxy_grams_and_an_anchor(seed, anchor):
    base, *models = tensors(4, (7, 5), seed=seed)
    weights = [1.0, 0.5, 2.0]
    expected = wudi_by_definition(base, models, 1.0, anchor=anchor, weights=weights)
    np.testing.assert_allclose(merge(WudiSettings(anchor=anchor), base, models, weights), expected, atol=1e-8)


def test_wudi_leaves_the_start_where_no_task_vector_is():
    base, models = low_rank(2, (10, 12), 2)
    changes = [model - base for model in models]
    merged = merge(WudiSettings(anchor=0), base, models) - base
    _, _, vt = np.linalg.svd(np.concatenate(changes))
    np.testing.assert_allclose(merged @ vt[4:].T, 0, atol=1e-9)  # as the sum of task vectors is there
    other = np.random.default_rng(1).standard_normal((10, 12))
    objective = lambda change: sum(np.sum(((change - own) @ own.T) ** 2) / np.sum(own**2) for own in changes)  # noqa: E731
    assert objective(merged) < min(objective(sum(changes)), objective(sum(changes) / 2), objective(other))
    for _ in range(10):
        assert objective(merged) <= objective(merged + 1e-3 * np.random.default_rng(_).standard_normal((10, 12)))


def test_tasks_in_different_inputs_all_keep_their_updates_under_wudi():
    """Row spaces that do not overlap do not interfere: the sum solves every task."""
    base = np.zeros((4, 6))
    models = [np.zeros((4, 6)) for _ in range(2)]
    models[0][:, :3], models[1][:, 3:] = tensors(2, (4, 3))
    np.testing.assert_allclose(merge(WudiSettings(), base, models), sum(models), atol=1e-9)


def test_matrices_stored_transposed_are_merged_alike_when_wudi_is_told():
    base, *models = tensors(3, (6, 9))
    turned = WudiSettings(transposed=("*c_attn.weight",))
    expected = merge(WudiSettings(), base, models).T
    flipped = [model.T.copy() for model in models]
    np.testing.assert_allclose(merge(turned, base.T.copy(), flipped, name="h.0.c_attn.weight"), expected, atol=1e-9)
    assert np.abs(merge(turned, base.T.copy(), flipped, name="h.0.other.weight") - expected).max() > 0.05


def test_iso_cts_with_everything_common_is_iso_c():
    base, *models = tensors(4, (8, 12))
    np.testing.assert_allclose(
        merge(IsoCtsSettings(common_share=1.0), base, models), merge(IsoCSettings(), base, models), atol=1e-8
    )
    assert (
        np.abs(merge(IsoCtsSettings(common_share=0.5), base, models) - merge(IsoCSettings(), base, models)).max() > 0.05
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_iso_cts_shares_directions_out_as_defined(share):
    base, *models = tensors(4, (12, 17))
    found = merge(IsoCtsSettings(common_share=share), base, models)
    np.testing.assert_allclose(found, iso_cts_by_definition(base, models, 1.0, share), atol=1e-8)
    sigma = np.linalg.svd(found - base, compute_uv=False)
    np.testing.assert_allclose(sigma, sigma[0])  # isotropic


def test_knots_with_the_mean_is_the_mean_of_the_updates():
    base, models = low_rank(3, (10, 8), 2)
    mean = KnotsSettings(density=1.0, elect="none", aggregate="mean")
    np.testing.assert_allclose(merge(mean, base, models), sum(models) / 3, atol=1e-5)
    assert np.abs(merge(KnotsSettings(density=1.0), base, models) - sum(models) / 3).max() > 0.05


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_knots_of_low_rank_updates_stays_within_their_joint_rank(density):
    base, models = low_rank(3, (14, 11), 2)
    merged = merge(KnotsSettings(density=density), base, models)
    assert np.linalg.matrix_rank(merged - base, tol=1e-6) <= 6
    np.testing.assert_allclose(merged, knots_by_definition(base, models, 1.0, density), atol=1e-5)


@pytest.mark.parametrize("method", SPECTRAL)
def test_vectors_and_embeddings_take_the_mean_task_vector(method):
    for name, shape in {"norm.weight": (6,), "bert.embeddings.word_embeddings.weight": (20, 4)}.items():
        base, *models = tensors(3, shape)
        changed = merge(method.model_copy(update={"scale": 0.5}), base, models, name=name)
        np.testing.assert_allclose(changed, base + 0.5 * (sum(models) / 2 - base), atol=1e-9)


@pytest.mark.parametrize("method", SPECTRAL)
def test_models_that_did_not_move_leave_the_base(method):
    base, model = tensors(2, (7, 9))
    np.testing.assert_array_equal(merge(method, base, [base, base]), base)
    assert np.isfinite(merge(method, base, [model, base])).all()


@pytest.mark.parametrize("method", [*SPECTRAL, TsvMSettings(), IsoCSettings(), BreadcrumbsSettings()])
def test_what_does_not_fit_is_refused(method):
    base, *models = tensors(3, (4, 4))
    with pytest.raises(ShapeMismatch, match=r"layer.weight: model 1 has shape \(2, 2\), expected \(4, 4\)"):
        merge(method, base, [models[0], np.ones((2, 2))])
    with pytest.raises(RequestError, match=rf"{method.name}: w: .* none is given"):
        elementwise(method, [1.0]).merge("w", None, iter([torch.ones(2, 2)]))
    integers = torch.arange(4)
    assert torch.equal(elementwise(method, [1.0]).merge("w", integers, iter([integers + 1])), integers)


def test_wudi_takes_positive_weights_alone():
    assert "positive" in WudiSettings.allowed_weights
    assert "(0, ∞)" in WudiSettings().weight_fault(-1.0)
    assert WudiSettings().weight_fault(0.5) is None


def breadcrumbs_by_definition(base, models, *, density, gamma, scale):
    total = np.zeros(base.size)
    for model in models:
        change = (model - base).ravel()
        order = np.argsort(np.abs(change))
        top = int(round(gamma * change.size, 6))
        bottom = int(round((1 - density) * change.size, 6)) - top
        kept = order[max(bottom, 0) : change.size - top]
        total[kept] += change[kept]
    return base + scale * total.reshape(base.shape)


@pytest.mark.parametrize(("density", "gamma"), [(0.143, 0.007), (0.5, 0.1), (0.9, 0.05), (0.25, 0.0)])
def test_breadcrumbs_are_what_is_neither_large_nor_small(density, gamma):
    base, *models = tensors(4, (20, 50))
    method = BreadcrumbsSettings(density=density, gamma=gamma, scale=0.4)
    expected = breadcrumbs_by_definition(base, models, density=density, gamma=gamma, scale=0.4)
    merged = merge(method, base, models)
    np.testing.assert_allclose(merged, expected, atol=1e-9)
    one = merge(method, base, models[:1]) - base
    kept = np.abs((models[0] - base)[one != 0])
    assert kept.size == 1000 - int(round((1 - density) * 1000, 6))
    if gamma > 0:
        assert kept.max() < np.abs(models[0] - base).max()
    weighted = merge(method, base, models[:2], [1.0, -1.0])
    np.testing.assert_allclose(weighted + merge(method, base, models[:2], [-1.0, 1.0]), 2 * base, atol=1e-9)


def test_r15_gamma_and_density_reach_breadcrumbs():
    base, *models = tensors(3, (20, 50))
    plain = merge(BreadcrumbsSettings(density=0.5, gamma=0.1), base, models)
    assert np.abs(plain - merge(BreadcrumbsSettings(density=0.5, gamma=0.2), base, models)).max() > 0.05
    assert np.abs(plain - merge(BreadcrumbsSettings(density=0.4, gamma=0.1), base, models)).max() > 0.05
    sparser = merge(BreadcrumbsSettings(density=0.1, gamma=0.1), base, models)
    assert np.count_nonzero(sparser != base) < np.count_nonzero(plain != base)  # density is what is kept


def test_shares_beyond_the_whole_are_refused():
    with pytest.raises(ValidationError, match=r"density 0.9 and gamma 0.2 sum to more than 1; at most 0.8"):
        BreadcrumbsSettings(density=0.9, gamma=0.2)


@pytest.mark.parametrize("name", ["breadcrumbs", "wudi", "iso_cts", "knots"])
def test_all_can_be_the_start_of_a_solve(name):
    assert name in method_names()
    start = parse_method({"method": "mats", "init": {"method": name, "scale": 0.8}}).init
    assert (start.name, start.scale) == (name, 0.8)
    assert len({parse_method(name), parse_method(name)}) == 1  # settings are keys of the engine's pool
