"""Every trim × election × aggregate of TIES against the published operators on the dense matrix [models, entries].

The oracle is written from the table of operators alone, in NumPy float64, whole models flattened by tensor name.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mats.methods import TiesSettings, elementwise, parse_method
from mats.progress import Silent

SHAPES = {"b.weight": (7, 5), "a.weight": (40, 3), "c.bias": (9,), "d": ()}
TRIMS = {
    "top_k": {"density": 0.3},
    "exact": {"density": 0.3, "kept_count": "exact"},
    "std": {"trim": "std", "deviations": 0.8},
    "norm_fraction": {"trim": "norm_fraction", "norm_share": 0.7},
    "none": {"trim": "none"},
}
ELECTIONS = ("mass", "norm_fraction", "norm_mass", "oracle", "none")
AGGREGATES = ("disjoint_mean", "disjoint_sum", "disjoint_max", "mean", "sum", "median", "magnitude")


def flatten(state):
    return np.concatenate([state[name].float().double().numpy().ravel() for name in sorted(state)])


def trimmed_row(row, choice):
    """One row of the table's trims."""
    size, size_of = row.size, np.abs(row)
    word = choice.get("trim", "top_k")
    if word == "none":
        return row
    if word == "std":
        return np.where(np.abs(row - row.mean()) > choice["deviations"] * row.std(ddof=1), row, 0.0)
    order = np.argsort(-size_of, kind="stable")  # equal magnitudes: the lowest index first
    if word == "norm_fraction":
        held = np.cumsum(size_of[order] ** 2)
        count = int(np.argmax(held >= (choice["norm_share"] - 1e-12) * held[-1])) + 1
    else:
        count = int(choice["density"] * size)
    if choice.get("kept_count") == "exact":
        kept = np.zeros(size, bool)
        kept[order[:count]] = True
        return np.where(kept, row, 0.0)
    if word == "top_k":
        place = size - count
        return row if place == 0 else np.where(size_of >= np.sort(size_of)[place - 1], row, 0.0)
    return np.where(size_of >= size_of[order[count - 1]], row, 0.0)


def elected(votes, weights, norms, word, oracle):
    """Signs by column; None where nobody elects."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.sign(votes) * np.nan_to_num((votes / weights) ** 2 / norms) * np.abs(weights)
    if word == "mass":
        return np.sign(votes.sum(0))
    if word == "norm_fraction":
        return np.sign(np.take_along_axis(share, np.abs(share).argmax(0)[None], 0)[0])
    if word == "norm_mass":
        return np.sign(share.sum(0))
    return np.sign(oracle) if word == "oracle" else None


def aggregated(votes, weights, signs, word):
    """The merged task vector, given signs in which 0 means that nothing is to change."""
    everyone = np.broadcast_to(np.abs(weights), votes.shape)
    if word.startswith("disjoint"):
        if signs is None:
            chosen = votes != 0
        else:
            chosen = np.where(signs > 0, votes > 0, votes < 0)
        kept = np.where(chosen, votes, 0.0)
        if word == "disjoint_mean":
            by = np.where(chosen, everyone, 0.0).sum(0)
            return kept.sum(0) / np.where(by > 0, by, 1.0)
        if word == "disjoint_sum":
            return kept.sum(0)
        if signs is not None:
            return np.abs(kept).max(0) * signs
        word = "magnitude"
    values = {
        "mean": lambda: votes.sum(0) / everyone.sum(0),
        "sum": lambda: votes.sum(0),
        "median": lambda: np.sort(votes, axis=0)[(len(votes) - 1) // 2],
        "magnitude": lambda: np.take_along_axis(votes, np.abs(votes).argmax(0)[None], 0)[0],
    }[word]()
    return values if signs is None else np.abs(values) * signs


def dense(base, models, choice, *, weights=None, oracle=None):
    """θ by the table, as one flat vector; `choice` is what TiesSettings are given."""
    start = flatten(base)
    changes = np.stack([flatten(model) - start for model in models]).astype(np.float32).astype(np.float64)
    weights = np.ones((len(models), 1)) if weights is None else np.asarray(weights, float)[:, None]
    ends = np.cumsum([base[name].numel() for name in sorted(base)])
    parts = [slice(0, start.size)]
    if choice.get("trim_scope") == "tensor":
        parts = [slice(e - base[n].numel(), e) for n, e in zip(sorted(base), ends, strict=True)]
    norms = np.zeros_like(changes)
    for row, norm in zip(changes, norms, strict=True):
        for part in parts:
            row[part] = trimmed_row(row[part], choice)
            norm[part] = (row[part] ** 2).sum()
    votes = changes * weights
    given_signs = None if oracle is None else flatten(oracle) - start
    signs = elected(votes, weights, norms, choice.get("elect", "mass"), given_signs)
    unchanged = np.zeros(start.size, bool)
    rule = choice.get("zero_votes", "majority")
    if signs is not None:
        if rule == "zero":
            unchanged = signs == 0
        else:
            signs[signs == 0] = 1.0 if rule == "positive" else np.sign(np.sum(signs))
    merged = aggregated(votes, weights, signs, choice.get("aggregate", "disjoint_mean"))
    return start + choice.get("scale", 1.0) * np.where(unchanged, 0.0, merged)


def streamed(base, models, choice, *, weights=None, oracle=None):
    """The same by the method, driven as the engine does."""
    choice = {**choice, "oracle": "somewhere"} if choice.get("elect") == "oracle" else choice
    merge = elementwise(TiesSettings(**choice), weights or [1.0] * len(models))
    if oracle is not None:
        merge.oracle = lambda name: oracle[name].clone()
    names = list(base)
    merge.prepare(lambda i, n: models[i][n].clone(), lambda n: base[n].clone(), names, Silent())
    once = lambda name: merge.merge(name, base[name].clone(), (model[name].clone() for model in models))  # noqa: E731
    merged = {name: once(name) for name in names}
    merged |= {name: once(name) for name in merge.deferred()}
    return flatten(merged)


def random_models(count, seed=0, *, steps=None):
    """Models around a random base; with `steps`, changes are multiples of 1/steps, which tie and cancel."""
    generator = torch.Generator().manual_seed(seed)
    if steps is None:
        base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        return base, [
            {
                name: value + (0.2 + index) * torch.randn(value.shape, generator=generator)
                for name, value in base.items()
            }
            for index in range(count)
        ]
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    whole = lambda shape: torch.randint(-3, 4, shape, generator=generator) / steps  # noqa: E731
    return base, [{name: whole(shape) for name, shape in SHAPES.items()} for _ in range(count)]


def oracle_for(choice, seed):
    return random_models(1, seed + 1000, steps=4)[1][0] if choice.get("elect") == "oracle" else None


def choices():
    for trim, elect, aggregate in itertools.product(TRIMS, ELECTIONS, AGGREGATES):
        yield pytest.param({**TRIMS[trim], "elect": elect, "aggregate": aggregate}, id=f"{trim}-{elect}-{aggregate}")


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=2e-6, atol=2e-6)  # a few fp32 roundings of numbers around 1


@pytest.mark.parametrize("choice", choices())
def test_every_combination_is_the_table(choice):
    for count, steps in ((1, None), (3, None), (4, 4)):
        base, models = random_models(count, seed=count, steps=steps)
        oracle = oracle_for(choice, count)
        full = {**choice, "scale": 0.7}
        close(streamed(base, models, full, oracle=oracle), dense(base, models, full, oracle=oracle))


def test_the_words_are_different_methods():
    """Each word of each step changes the result, so a test that ignored it would fail."""
    base, models = random_models(4, seed=3)
    oracle = random_models(1, 9)[1][0]
    for step, words in (("elect", ELECTIONS), ("aggregate", AGGREGATES)):
        found = [
            streamed(base, models, {"trim": "none", "aggregate": "disjoint_sum"} | {step: word}, oracle=oracle)
            for word in words
        ]
        for (one, left), (other, right) in itertools.combinations(zip(words, found, strict=True), 2):
            assert np.abs(left - right).max() > 0.05, (one, other)
    trims = [streamed(base, models, choice) for choice in TRIMS.values() if "kept_count" not in choice]
    assert all(np.abs(left - right).max() > 0.05 for left, right in itertools.combinations(trims, 2))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 5),
    trim=st.sampled_from(sorted(TRIMS)),
    elect=st.sampled_from(ELECTIONS),
    aggregate=st.sampled_from(AGGREGATES),
    scope=st.sampled_from(["global", "tensor"]),
    zero_votes=st.sampled_from(["majority", "zero", "positive"]),
    amount=st.sampled_from([0.05, 0.25, 0.5, 0.9, 1.0]),
    weighted=st.booleans(),
)
def test_changes_that_tie_and_cancel_follow_the_table(
    seed, count, trim, elect, aggregate, scope, zero_votes, amount, weighted
):
    """Sixteenths sum without rounding, so every tie is exact in both."""
    choice = {**TRIMS[trim], "elect": elect, "aggregate": aggregate, "trim_scope": scope}
    if elect != "none":
        choice["zero_votes"] = zero_votes
    if "density" in choice:
        choice["density"] = amount
    base, models = random_models(count, seed, steps=16)
    weights = [0.5, 2.0, 1.0, -1.0, 4.0][:count] if weighted else None
    oracle = oracle_for(choice, seed)
    close(
        streamed(base, models, choice, weights=weights, oracle=oracle),
        dense(base, models, choice, weights=weights, oracle=oracle),
    )


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.2, 0.5, 0.99, 1.0])
def test_exact_counts_are_exact_whatever_ties(scope, density):
    base, models = random_models(1, seed=5, steps=4)
    for value in models[0].values():
        value[value == 0] = 0.25  # every entry changes, in three magnitudes
    choice = {"density": density, "kept_count": "exact", "trim_scope": scope}
    total = sum(value.numel() for value in base.values())
    wanted = int(density * total) if scope == "global" else sum(int(density * v.numel()) for v in base.values())
    assert np.count_nonzero(streamed(base, models, choice)) == wanted
    published = streamed(base, models, {"density": density, "trim_scope": scope})
    assert np.count_nonzero(published) > wanted or density == 1.0  # everything that ties with the smallest kept
    close(streamed(base, models, choice), dense(base, models, choice))


def test_equal_magnitudes_are_kept_by_name_and_then_by_position():
    base = {"b": torch.zeros(4), "a": torch.zeros(4)}
    models = [{"b": torch.tensor([1.0, 2.0, 1.0, -1.0]), "a": torch.tensor([0.5, -1.0, 0.5, 1.0])}]
    kept = streamed(base, models, {"density": 0.5, "kept_count": "exact"})
    np.testing.assert_array_equal(kept, [0, -1, 0, 1, 1, 2, 0, 0])  # a first, then b: 2 counts wherever it lies


def test_the_order_of_tensors_and_the_split_of_ties_do_not_depend_on_the_files():
    base, models = random_models(3, seed=8, steps=4)
    choice = {"density": 0.37, "kept_count": "exact"}
    reordered = [dict(reversed(list(model.items()))) for model in models]
    np.testing.assert_array_equal(
        streamed(base, models, choice), streamed(dict(reversed(list(base.items()))), reordered, choice)
    )


def test_a_share_of_the_norm_keeps_no_more_than_it_needs():
    """The published mask always keeps the last coordinate too."""
    base = {"w": torch.zeros(5)}
    models = [{"w": torch.tensor([4.0, 3.0, 0.0, 0.0, 0.1])}]
    for share, kept in ((0.5, [4, 0, 0, 0, 0]), (0.7, [4, 3, 0, 0, 0]), (1.0, [4, 3, 0, 0, 0.1])):
        merged = streamed(base, models, {"trim": "norm_fraction", "norm_share": share})
        np.testing.assert_allclose(merged, kept)


def test_what_was_refused_or_failed_in_the_published_code_works():
    base, models = random_models(3)
    close(streamed(base, models, {"density": 1.0}), dense(base, models, {"trim": "none"}))  # topk100
    strongest = streamed(base, models, {"elect": "none", "aggregate": "disjoint_max"})
    close(strongest, streamed(base, models, {"elect": "none", "aggregate": "magnitude"}))


def test_models_that_did_not_move_have_no_say():
    base, models = random_models(2, seed=4)
    unmoved = {name: value.clone() for name, value in base.items()}
    for elect in ("norm_mass", "norm_fraction"):
        choice = {"elect": elect, "aggregate": "disjoint_sum"}
        close(streamed(base, [*models, unmoved], choice), streamed(base, models, choice))
        np.testing.assert_array_equal(streamed(base, [unmoved, unmoved], choice), flatten(base))


def test_an_oracle_has_to_be_given_before_merging():
    merge = elementwise(TiesSettings(elect="oracle", oracle="m", trim_scope="tensor"), [1.0])
    with pytest.raises(RuntimeError, match="before its oracle was known"):
        merge.merge("w", torch.ones(2), [torch.ones(2)])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"trim": "none", "density": 0.1}, "density: 0.1 has no effect with trim: none; leave it out, or trim: top_k"),
        ({"deviations": 2}, "deviations: 2.0 has no effect with trim: top_k"),
        ({"norm_share": 0.9}, "norm_share: 0.9 has no effect"),
        ({"trim": "std", "kept_count": "exact"}, "kept_count: 'exact' has no effect with trim: std"),
        ({"elect": "none", "zero_votes": "zero"}, "zero_votes: 'zero' has no effect with elect: none"),
        ({"elect": "oracle"}, "elect: oracle needs a model to ask; oracle: PATH"),
        ({"oracle": "m"}, "oracle: 'm' has no effect with elect: mass"),
        ({"trim": "topk"}, "trim"),
        ({"aggregate": "dis-mean"}, "disjoint_mean"),
    ],
)
def test_keys_that_would_count_for_nothing_are_refused(choice, message):
    with pytest.raises(ValidationError, match=message):
        TiesSettings(**choice)


def test_only_a_majority_needs_the_whole_model_again():
    assert elementwise(TiesSettings(), [1.0]).restarts
    assert not elementwise(TiesSettings(zero_votes="zero"), [1.0]).restarts
    assert not elementwise(TiesSettings(elect="none"), [1.0]).restarts
    assert parse_method({"method": "ties", "elect": "none"}).extra_checkpoints == ()
    assert TiesSettings(elect="oracle", oracle="m").extra_checkpoints == ("m",)
