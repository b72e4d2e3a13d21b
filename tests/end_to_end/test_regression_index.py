"""The twenty-seven cases in which merging tools are known to have failed: each is held by a test that exists here.

A test that holds case 5 has `r05` in its name: `test_r05_weights_on_both_factors`. Where an older test under another
name holds a case, `ELSEWHERE` says which one. Only names are looked at: what the tests assert, they say themselves.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    1: "one adapter with weight 1 reproduces its own change: plain, rsLoRA, bias, DoRA; else it is refused by name",
    2: "a linear merge of LoRA adapters is the sum of w s B A, without cross terms",
    3: "where rank and alpha differ, a merge by SVD applies the scaling once",
    4: "weight -1 subtracts the change, on the product of the factors",
    5: "weights [1, 0, 0] give the first adapter unchanged",
    6: "ranks of single modules survive saving and loading",
    7: "an adapter on a tied head unties it or is refused, and reloads as it was in memory",
    8: "bf16 base and adapter: one output rounding away from fp64",
    9: "several DoRA adapters on one module give the unmerged forward, or are refused",
    10: "(IA)3 folded into biased Linear, Conv1D and feed-forward layers gives the same forward",
    11: "tied models have no head too many; tied and untied ones together give a documented result that loads",
    12: "vocabularies of different sizes: no crash, no silent crop, the origin of rows is reported",
    13: "padded embedding rows keep their number unless asked",
    14: "a misplaced key, a misspelt key and an unknown method fail within a second, with a hint",
    15: "every declared parameter reaches the kernel, in its direction",
    16: "tensors that no filter matches can be kept bit-identical to the base",
    17: "random hash seeds do not change a byte",
    18: "the dtypes asked for decide the files', and fp16 meets bf16 in fp32",
    19: "memory stays within the stated budget, merges of vocabularies included",
    20: "local paths with + or @ work",
    21: "a layer that is repeated, or a tensor under two names, is saved correctly",
    22: "no old shard or index stays beside a new output, and a crash leaves no half model",
    23: "a diagonal Fisher does not depend on the batch, and parameters without gradient are reported",
    24: "padding changes no Gram and no Fisher, and is not counted",
    25: "singular Grams give finite results nearest to the start, with their rank told",
    26: "an interrupted densification is never taken for complete",
    27: "help and the check of a recipe import neither torch nor transformers",
}

ELSEWHERE = {
    7: ("checkpoints/test_checkpoints_matching.py::test_a_head_trained_apart_is_taken_apart_in_a_tied_base",),
    11: (
        "engine/test_merge_exact.py::test_a_base_that_stores_a_tied_tensor_twice",
        "checkpoints/test_checkpoints_transformers.py::test_tied_weights_stored_twice_stay_one_parameter",
        "engine/test_sparsified_merges.py::test_tied_weights_stay_tied",
    ),
    14: (
        "recipes/test_recipe_faults.py::test_every_fault_of_a_bad_recipe_is_told_in_order",
        "recipes/test_recipe_faults.py::test_single_faults",
    ),
    17: (
        "checkpoints/test_checkpoints_writer.py::test_any_order_and_any_shard_size",
        "engine/test_sparsified_merges.py::test_masks_know_neither_order_nor_shards_but_seed_and_name",
    ),
    18: (
        "checkpoints/test_checkpoints_transformers.py::test_the_dtype_asked_for_is_in_the_file_and_in_the_config",
        "checkpoints/test_checkpoints_transformers.py::test_half_precision_inputs_keep_their_dtype_and_integers_stay",
        "engine/test_merge_output.py::test_output_dtype_and_its_rounding_loss",
    ),
    19: (
        "engine/test_merge_memory.py::test_elementwise_peak_grows_with_neither_layers_nor_models",
        "engine/test_merge_memory.py::test_quadratic_peak_does_not_grow_with_layers",
        "engine/test_merge_memory.py::test_elementwise_peak_on_two_gigabytes",
        "engine/test_merge_memory.py::test_quadratic_peak_on_two_gigabytes",
    ),
    20: ("checkpoints/test_checkpoints_locate.py::test_paths_with_a_plus_or_an_at_sign_work",),
    22: (
        "checkpoints/test_checkpoints_writer.py::test_an_existing_output_is_kept_until_the_new_one_is_complete",
        "checkpoints/test_checkpoints_kill.py::test_the_kill_can_be_any_system_call",
        "checkpoints/test_checkpoints_kill.py::test_killed_while_replacing_an_older_output",
        "engine/test_merge_resume.py::test_the_same_bytes_after_five_kills",
    ),
    23: (
        "curvature/test_curvature_invariance.py::test_batch_size_changes_nothing",
        "curvature/test_curvature_plan.py::test_every_parameter_is_covered_or_named",
        "curvature/test_curvature_plan.py::test_uncovered_parameters_have_reasons",
    ),
    24: (
        "curvature/test_curvature_invariance.py::test_more_padding_changes_nothing",
        "curvature/test_curvature_invariance.py::test_left_padding_equals_right_padding",
    ),
    25: (
        "solvers/test_oracle.py::test_singular_without_anchor_moves_least",
        "solvers/test_closed_form.py::test_rank_deficient_float32_gram_leaves_no_noise",
        "solvers/test_hard_cases.py::test_rank_one",
        "solvers/test_hard_cases.py::test_models_that_saw_nothing",
    ),
    27: (
        "cli/test_cli_startup.py::test_nothing_heavy_is_imported",
        "cli/test_cli_startup.py::test_help_answers_in_half_a_second",
    ),
}
"""Case → tests that hold it under names of their own, as `file::name` below tests/."""


def functions_of(path: Path) -> set[str]:
    """The test functions of a file, those of classes included."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def cases_in(name: str) -> set[int]:
    """The cases that a test names.

    >>> cases_in("test_r02_no_cross_terms_and_r04_negative_weights")
    {2, 4}
    """
    return {int(number) for number in re.findall(r"_r(\d{2})(?=_)", name)}


def holding() -> dict[int, list[str]]:
    """Case → the tests that hold it."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in sorted(functions_of(path)):
            for case in cases_in(name):
                found[case].append(f"{path.relative_to(TESTS)}::{name}")
    for case, names in ELSEWHERE.items():
        found[case] += names
    return dict(found)


HOLDING = holding()


def test_the_list_is_complete_and_knows_no_other_cases() -> None:
    assert list(CASES) == list(range(1, 28))
    assert set(HOLDING) <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_held_by_a_test(case: int) -> None:
    assert HOLDING.get(case), f"R{case:02d} ({CASES[case]}): no test"


@pytest.mark.parametrize("test", [name for names in ELSEWHERE.values() for name in names])
def test_tests_under_other_names_exist(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in functions_of(TESTS / file)


def test_names_are_read_as_they_are_meant() -> None:
    assert cases_in("test_r02_no_cross_terms_and_r04_negative_weights") == {2, 4}
    assert cases_in("test_parameter_r2_of_fit") == set()
    assert "test_nothing" not in functions_of(Path(__file__))
