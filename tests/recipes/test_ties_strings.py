"""Merge strings of the published TIES code: every word of the grammar, exact scales, and errors that tell."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError
from mats.methods import PointwiseSettings, TaskArithmeticSettings, TiesSettings, parse_method
from mats.recipes.ties_strings import AGGREGATES, BASIC, ELECTIONS, parse_ties_string, ties_overrides


def settings_of(text):
    string = parse_ties_string(text)
    return parse_method({**string.settings, **({"scale": string.scales[0]} if string.scales else {})})


def test_the_published_recipe_is_the_default_with_its_scales():
    string = parse_ties_string("topk20_mass_dis-mean_linear+0.8+2.51+0.1")
    assert parse_method(dict(string.settings)) == TiesSettings()
    assert string.scales == (0.8, 0.9, *(1 + k / 10 for k in range(16)))
    assert len(string.scales) == 18
    assert string.without_scales == "topk20_mass_dis-mean"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("topk20", {"density": 0.2}),
        ("topk0.2", {"density": 0.2}),
        ("topk1", {"density": 1.0}),
        ("topk100", {"density": 1.0}),
        ("topk2.5", {"density": 0.025}),
        ("std1.5", {"trim": "std", "deviations": 1.5}),
        ("nf0.9", {"trim": "norm_fraction", "norm_share": 0.9}),
        ("none", {"trim": "none"}),
    ],
)
def test_trims(word, expected):
    assert settings_of(f"{word}_mass_dis-mean_mergelist+1") == TiesSettings(**expected)


@pytest.mark.parametrize(("elect", "aggregate"), itertools.product(ELECTIONS, AGGREGATES))
def test_elections_and_aggregates(elect, aggregate):
    expected = TiesSettings(elect=ELECTIONS[elect], aggregate=AGGREGATES[aggregate], scale=0.5)
    assert settings_of(f"topk20_{elect}_{aggregate}_mergelist+0.5,1") == expected


def test_other_forms():
    assert settings_of("task-vector_linear+0.1+1.01+0.1") == TaskArithmeticSettings(scale=0.1)
    assert [settings_of(f"basic_{word}") for word in BASIC] == [PointwiseSettings(aggregate=word) for word in BASIC]
    assert parse_ties_string("basic_sum").variants == (None,)
    oracle = parse_ties_string("oracle_std2_dis-max_mergelist+1")  # the published code would have trimmed by top-k
    expected = TiesSettings(trim="std", deviations=2, elect="oracle", oracle="m", aggregate="disjoint_max")
    assert parse_method({**oracle.settings, "oracle": "m"}) == expected


@given(st.integers(-30, 30), st.integers(1, 60), st.integers(1, 30))
def test_linear_scales_are_the_half_open_range_in_exact_decimals(start, length, step):
    written = f"linear+{start / 100}+{(start + length) / 100}+{step / 100}"
    expected = [place / 100 for place in range(start, start + length, step)]
    assert list(parse_ties_string(f"task-vector_{written}").scales) == expected


def test_a_fine_grid_does_not_repeat_itself():
    """The published code rounds λ to one decimal."""
    scales = parse_ties_string("task-vector_linear+0+0.2+0.01").scales
    assert len(set(scales)) == 20
    assert scales[3] == 0.03


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "top20_mass_dis-mean_mergelist+1",
            "trim 'top20': topkN, stdX, nfX or none would be right; did you mean 'topk'",
        ),
        ("topk_mass_mean_mergelist+1", "trim 'topk': '' is no number"),
        ("topkk_mass_mean_mergelist+1", "'k' is no number"),
        ("topk0_mass_mean_mergelist+1", "more than nothing and at most all"),
        ("topk101_mass_mean_mergelist+1", "more than nothing and at most all"),
        ("std-1_mass_mean_mergelist+1", "a number of at least 0"),
        ("nf1.5_mass_mean_mergelist+1", "more than nothing and at most all"),
        ("topk20_mas_dis-mean_mergelist+1", "election 'mas': one of mass, .*; did you mean 'mass'"),
        ("topk20_mass_dismean_mergelist+1", "aggregate 'dismean': one of dis-mean, .*; did you mean 'dis-mean'"),
        ("topk20_mass_dis-mean_1.0", r"scale '1.0': linear\+START\+STOP\+STEP or mergelist\+A,B,C"),
        ("topk20_mass_dis-mean_linear+1+0+1", "a step above 0 from START below STOP"),
        ("topk20_mass_dis-mean_linear+0+1+0", "a step above 0"),
        ("topk20_mass_dis-mean_linear+0+1+nan", "'nan' is no number"),
        ("topk20_mass_dis-mean_linear+0+1+1e-9", "more than 10000 scales"),
        ("topk20_mass_dis-mean_linaer+0+1+1", "did you mean 'linear'"),
        ("topk20_mass_dis-mean_mergelist+1,x", "'x' is no number"),
        ("topk20_mass_dis-mean_mergelist+1,1.0", "1 comes twice"),
        ("basic_max", "aggregate 'max': one of mean, sum, median, magnitude"),
        ("basic_mean_linear+0+1+1", "3 parts between underscores"),
        ("topk20", "1 parts between underscores; trim_elect_aggregate_scale, oracle_"),
        ("", "1 parts"),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_by_its_part(text, message):
    with pytest.raises(RequestError, match=message):
        parse_ties_string(text)


def test_overrides_beside_a_string_may_add_and_not_contradict():
    string = parse_ties_string("topk20_mass_dis-mean_mergelist+1,2")
    given_beside = ["merge.zero_votes=zero", "dtype=float32"]
    made = ties_overrides(string, 2.0, given_beside)
    assert made[0] == "merge.method=ties"
    assert "merge.scale=2.0" in made
    assert made[-2:] == given_beside
    for contradiction in ("merge.scale=3", "merge.method=average"):
        with pytest.raises(RequestError, match="settles merge"):
            ties_overrides(string, 2.0, [contradiction])
