"""TSV-M and Iso-C against their definitions in dense numpy, and what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.methods import IsoCSettings, MatsSettings, TsvMSettings, elementwise, parse_method
from mats.methods.spectral import leading_components, matrix_shape, nearest_orthonormal

SHAPES = [(12, 8), (8, 12), (9, 9), (6, 2, 3, 3)]
BOTH = [TsvMSettings(), IsoCSettings()]


def tensors(count, shape, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for _ in range(count)]


def merge(method, base, models, weights=None, name="layer.weight", dtype=torch.float64):
    made = elementwise(method, weights or [1.0] * len(models))
    given_models = (torch.from_numpy(model).to(dtype) for model in models)
    return made.merge(name, torch.from_numpy(base).to(dtype), given_models).numpy()


def tsv_m_by_definition(base, models, scale):
    """Concatenated truncated SVDs, both sides replaced by their polar factors."""
    flat = [(model - base).reshape(len(base), -1) for model in models]
    parts = [np.linalg.svd(change, full_matrices=False) for change in flat]
    kept = min(flat[0].shape) // len(models)
    left = np.concatenate([u[:, :kept] for u, _, _ in parts], axis=1)
    right = np.concatenate([vt[:kept].T for _, _, vt in parts], axis=1)
    sigma = np.concatenate([s[:kept] for _, s, _ in parts])

    def polar(matrix):
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        return u @ vt

    return base + scale * (polar(left) @ np.diag(sigma) @ polar(right).T).reshape(base.shape)


def iso_c_by_definition(base, models, scale):
    """The sum's singular values all equal to their mean."""
    u, s, vt = np.linalg.svd(sum(model - base for model in models).reshape(len(base), -1), full_matrices=False)
    return base + scale * (s.mean() * u @ vt).reshape(base.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_matrices_are_merged_by_the_definitions(shape, count):
    base, *models = tensors(count + 1, shape, seed=count)
    for method, definition in ((TsvMSettings, tsv_m_by_definition), (IsoCSettings, iso_c_by_definition)):
        expected = definition(base, models, 0.7)
        merged = merge(method(scale=0.7), base, models)
        np.testing.assert_allclose(merged, expected, atol=1e-9)
        in_fp32 = merge(method(scale=0.7), base, models, dtype=torch.float32)
        assert in_fp32.dtype == np.float32
        np.testing.assert_allclose(in_fp32, expected, atol=1e-4)
        # controls: another scale, and a plain sum of the task vectors, are told apart
        assert np.abs(merged - definition(base, models, 1.0)).max() > 0.05
        assert np.abs(merged - (base + 0.7 * sum(model - base for model in models))).max() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_without_orthogonalisation_tsv_m_would_differ(shape):
    base, *models = tensors(4, shape)
    kept = min(matrix_shape(shape)) // 3
    truncated = base.copy()
    for model in models:
        u, s, vt = np.linalg.svd((model - base).reshape(len(base), -1), full_matrices=False)
        truncated += ((u[:, :kept] * s[:kept]) @ vt[:kept]).reshape(shape)
    assert np.abs(merge(TsvMSettings(), base, models) - truncated).max() > 0.05


@pytest.mark.parametrize("shape", [*SHAPES, (5,), ()])
def test_one_model_is_returned_by_tsv_m(shape):
    base, model = tensors(2, shape)
    np.testing.assert_allclose(merge(TsvMSettings(), np.asarray(base), [np.asarray(model)]), model, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(SHAPES), st.sampled_from(BOTH))
def test_the_order_of_models_does_not_matter(order, shape, method):
    base, *models = tensors(5, shape)
    weights = [1.0, 0.5, 2.0, 1.5]
    plain = merge(method, base, models, weights)
    changed = merge(method, base, [models[i] for i in order], [weights[i] for i in order])
    np.testing.assert_allclose(plain, changed, atol=1e-9)
    assert np.abs(plain - merge(method, base, models)).max() > 0.01  # the weights do count


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.sampled_from(BOTH))
def test_merges_turn_with_rotations_and_transposition(seed, method):
    """Q τ Pᵀ merges to Q (merged) Pᵀ, and τᵀ to its transpose: the layout on disk does not matter."""
    base, *models = tensors(4, (7, 10), seed=seed)
    q, p = (np.linalg.qr(tensors(1, (size, size), seed=seed + size)[0])[0] for size in (7, 10))
    plain = merge(method, base, models)
    np.testing.assert_allclose(
        merge(method, q @ base @ p.T, [q @ model @ p.T for model in models]), q @ plain @ p.T, atol=1e-8
    )
    np.testing.assert_allclose(merge(method, base.T.copy(), [model.T.copy() for model in models]), plain.T, atol=1e-9)


def test_iso_c_gives_every_direction_the_same_strength():
    base, *models = tensors(4, (8, 12))
    sigma = np.linalg.svd(merge(IsoCSettings(), base, models) - base, compute_uv=False)
    np.testing.assert_allclose(sigma, np.linalg.svd(sum(models) - 3 * base, compute_uv=False).mean())


@pytest.mark.parametrize("method", BOTH)
def test_vectors_and_embeddings_take_the_mean_task_vector(method):
    mean_of = {"norm.weight": (6,), "bert.embeddings.word_embeddings.weight": (20, 4), "vector": (6, 1)}
    for name, shape in mean_of.items():
        base, *models = tensors(3, shape)
        changed = merge(method.model_copy(update={"scale": 0.5}), base, models, name=name)
        np.testing.assert_allclose(changed, base + 0.5 * (sum(models) / 2 - base), atol=1e-9)
    base, *models = tensors(3, (20, 4))
    everything = method.model_copy(update={"averaged": ()})
    decomposed = merge(everything, base, models, name="bert.embeddings.word_embeddings.weight")
    assert np.abs(decomposed - sum(models) / 2).max() > 0.05
    assert method.is_matrix("encoder.layer.0.attention.self.query.weight", (8, 8))
    assert method.is_matrix("h.0.attn.c_attn.weight", (8, 24))
    assert not method.is_matrix("transformer.wte.weight", (50257, 768))


@pytest.mark.parametrize("method", BOTH)
def test_a_model_that_did_not_move_has_no_say(method):
    """Its singular vectors would be arbitrary; a task vector of low rank has few that are not."""
    base, *models = tensors(3, (9, 9))
    unmoved = merge(method, base, [*models, base])
    assert np.isfinite(unmoved).all()
    np.testing.assert_array_equal(merge(method, base, [base, base]), base)
    generator = np.random.default_rng(1)
    low = [base + generator.standard_normal((9, 2)) @ generator.standard_normal((2, 9)) for _ in range(3)]
    change = merge(method, base, low) - base
    assert np.linalg.matrix_rank(change, tol=1e-6) == 6  # two directions of each model, none of them made up


def test_more_models_than_directions_keep_one_component_each():
    base, *models = tensors(6, (3, 8))
    merged = merge(TsvMSettings(), base, models)
    assert np.linalg.norm(merged - base) > 0.5  # rounding 3 / 5 down would leave the base


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_leading_components_are_the_singular_value_decomposition(rows, columns, seed):
    (matrix,) = tensors(1, (rows, columns), seed=seed)
    count = max(1, min(rows, columns) - 1)
    left, values, right = leading_components(torch.from_numpy(matrix), count)
    u, s, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(values, s[:count], rtol=1e-6)
    np.testing.assert_allclose((left * values) @ right.mT, (u[:, :count] * s[:count]) @ vt[:count], atol=1e-6)


@pytest.mark.parametrize("dependence", [1.0, 1e-3, 1e-6, 0.0])
def test_the_nearest_orthonormal_matrix_is_orthonormal_and_nearest(dependence):
    """Also where two columns are nearly one, or one exactly."""
    matrix = torch.from_numpy(tensors(1, (7, 4))[0])
    matrix[:, 3] = matrix[:, 2] + dependence * matrix[:, 3]
    nearest = nearest_orthonormal(matrix)
    torch.testing.assert_close(nearest.mT @ nearest, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    u, _, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    assert dependence == 0 or np.abs(nearest.numpy() - u @ vt).max() < 1e-6
    torch.testing.assert_close(nearest_orthonormal(matrix.mT), nearest.mT)
    for seed in range(20):
        other = torch.linalg.qr(nearest + 0.1 * torch.from_numpy(tensors(1, (7, 4), seed=seed)[0]))[0]
        assert torch.dist(matrix, nearest) < torch.dist(matrix, other)


def test_both_can_be_the_start_of_a_solve():
    for name in ("tsv_m", "iso_c"):
        start = parse_method({"method": "mats", "init": {"method": name, "scale": 0.8}}).init
        assert (start.name, start.scale) == (name, 0.8)
    assert MatsSettings(init=TsvMSettings()) == MatsSettings(init=TsvMSettings())
    assert len({TsvMSettings(), TsvMSettings(), IsoCSettings()}) == 2  # settings are keys of the engine's pool
