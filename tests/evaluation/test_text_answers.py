"""Answers in texts: worked examples by hand, SQuAD against a second implementation of its script."""

from __future__ import annotations

import collections
import re
import string
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError
from mats.evaluation import text_scores
from mats.evaluation.gsm8k import final_number
from mats.evaluation.latex import final_expression, last_boxed, normalise_expression
from mats.evaluation.texts import extracted_answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 3 = 5\n#### 5", 5),
        ("So the answer is: 1,234,567", 1_234_567),  # published: 1234
        ("The answer is: 3.5", Fraction(7, 2)),  # published: 4
        ("The answer is: 18.00 dollars.", 18),
        ("the answer is $1,200.50 in all", Fraction(2401, 2)),
        ("The final answer is -7.", -7),
        ("The answer is -$7", -7),
        ("The answer is $-7", -7),
        ("The answer is −3", -3),
        ("The answer is 3/4", Fraction(3, 4)),
        ("The answer is: 4\nNo. The answer is: 9", 9),
        ("The answer is:\n**72**", 72),
        ("#### 10 apples and 3 pears", 10),
        ("The answer is .25", Fraction(1, 4)),
        ("The answer is 5 out of 10,000", 5),
        ("I count 12 of them", None),  # no cue, no answer
        ("The answer is unknown.\nThere are 5 apples.", None),  # not on the cue's line
        ("", None),
    ],
)
def test_final_numbers(text: str, number: object) -> None:
    assert final_number(text) == number


@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_a_number_is_read_however_it_is_written(whole: int, cents: int) -> None:
    value = Fraction(f"{whole}.{cents:02}")
    for written in (f"{whole}.{cents:02}", f"{whole:,}.{cents:02}", f"{whole:,}.{cents:02}.", f"{whole:,}.{cents:02}0"):
        assert final_number(f"The answer is: {written}") == value


def test_gsm8k_compares_numbers_not_words() -> None:
    def right(text: str, *gold: str) -> float:
        return text_scores(("gsm8k",), text, gold)["gsm8k"]

    assert right("The answer is: 1,000.0", "Long story. #### 1000") == 1.0
    assert right("The answer is: 1000", "1,000") == 1.0
    assert right("The answer is: 4", "#### 3.5") == 0.0
    assert right("nothing", "nothing") == 0.0  # two missing answers are not equal
    assert right("The answer is 2", "#### 1", "#### 2") == 1.0
    assert extracted_answer("gsm8k", "The answer is 2.50") == "5/2"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1}, no, \boxed{x^{2^{3}}}", "x^{2^{3}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7$ is it", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1", None),
        (r"\boxed{}", None),
        ("7", None),
    ],
)
def test_boxes(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(
    st.recursive(
        st.sampled_from(["x", "1", "+", " y"]),
        lambda inner: st.lists(inner, min_size=1).map(lambda parts: "{" + "".join(parts) + "}"),
    )
)
def test_any_nesting_is_taken_out_whole(content: str) -> None:
    assert last_boxed(rf"first \boxed{{no}} then $\boxed{{{content}}}$ done") == content.strip()


@pytest.mark.parametrize(
    "group",
    [
        [r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac12", r"\frac1{2}", "1/2", "0.5", ".5", r"\left.5\right", "$1/2$"],
        [r"\sqrt{3}", r"\sqrt3"],
        ["5", r"5\text{ inches}", r"5\mbox{ cm}", "x=5", "x = 5", r"\$5", r"5\%", "5^\\circ", r"5^{\circ}", "5."],
        ["10000", "10,000", "10{,}000", r"10,\!000"],
        [r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"],
        ["0.25", ".25"],
        [r"\text{Evelyn}", r" \text{Evelyn} "],
    ],
)
def test_ways_of_writing_are_one(group: list[str]) -> None:
    assert len({normalise_expression(text) for text in group}) == 1
    for text in group[1:]:
        assert text_scores(("math",), rf"Thus \boxed{{{text}}}.", [rf"It is $\boxed{{{group[0]}}}$."])["math"] == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [("1/2", "1/3"), ("12", "1,2"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("x", "y"), ("0.25", "0.52"), ("-5", "5")],
)
def test_other_answers_stay_other(one: str, other: str) -> None:
    assert text_scores(("math",), rf"\boxed{{{one}}}", [other])["math"] == 0.0


def test_math_needs_an_answer() -> None:
    def right(text: str, gold: str) -> float:
        return text_scores(("math",), text, [gold])["math"]

    assert right("", "") == 0.0  # published: equal
    assert right(r"\boxed{}", "nothing") == 0.0
    assert right("I do not know", "I do not know") == 0.0
    assert right("The answer is: 3.", r"so \boxed{3}") == 1.0
    assert right(r"The answer is: 4. In a box: \boxed{3}", "3") == 1.0
    assert final_expression("The answer is 2\nThe answer is x = 3 .") == "x = 3"


def squad_by_hand(text: str, gold: list[str]) -> tuple[float, float]:
    """SQuAD 1.1's script, written anew: exact match and F1 of bags of words, the best over the answers."""

    def bag(answer: str) -> list[str]:
        answer = "".join(character for character in answer.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", answer).split()

    best = []
    for answer in gold:
        ours, theirs = collections.Counter(bag(text)), collections.Counter(bag(answer))
        both = sum((ours & theirs).values())
        f1 = 2 * both / (ours.total() + theirs.total()) if both else float(bag(text) == bag(answer) == [])
        best.append((float(bag(text) == bag(answer)), f1))
    return max(exact for exact, _ in best), max(f1 for _, f1 in best)


WORDS = st.lists(st.sampled_from(["The", "cat", "Cat!", "a", "dog", "red-dog", "sat", "an", "ant"]), max_size=5).map(
    " ".join
)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_squad_equals_its_script(text: str, gold: list[str]) -> None:
    scores = text_scores(("squad", "squad_f1", "squad_exact_match"), text, gold)
    exact, overlap = squad_by_hand(text, gold)
    assert scores["squad_exact_match"] == exact
    assert scores["squad_f1"] == pytest.approx(overlap, abs=1e-6)
    assert scores["squad"] == pytest.approx((exact + overlap) / 2, abs=1e-6)


def test_exact_match_is_exact() -> None:
    assert text_scores(("exact_match",), " Paris\n", ["Rome", "Paris"]) == {"exact_match": 1.0}
    assert text_scores(("exact_match",), "paris", ["Paris"]) == {"exact_match": 0.0}
    with pytest.raises(RequestError, match="metric 'exact' is unknown; exact_match would be right"):
        text_scores(("exact",), "a", ["a"])
