from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import render_with_promptsource
from sample_rows import LONG, ROWS

from mats.data import jinja_prompts
from mats.data.jinja_prompts import check_syntax, render
from mats.data.prompts import JinjaTemplate, Prompts
from mats.data.promptsource import read_templates
from mats.data.templates import MissingFieldError
from mats.errors import RequestError

VENDORED = Path(__file__).parents[2] / "configs" / "promptsource"
DIGESTS: dict[str, dict[str, list[str]]] = json.loads(render_with_promptsource.DIGESTS.read_text(encoding="utf-8"))


def templates_of(name: str, **filters: Any) -> tuple[JinjaTemplate, ...]:
    dataset, _, config = name.partition("/")
    return read_templates(Prompts(promptsource=dataset, config=config or None, **filters), VENDORED)


def test_every_vendored_file_is_compared() -> None:
    names = {path.parent.relative_to(VENDORED).as_posix() for path in VENDORED.rglob("templates.yaml")}
    assert names == set(ROWS) == set(DIGESTS)
    assert sum(len(templates) for templates in DIGESTS.values()) == 251


@pytest.mark.parametrize("name", ROWS)
def test_texts_are_promptsources_own(name: str) -> None:
    """Prompt, target and choices of every template on every sample row, against promptsource 0.2.3 itself."""
    compared = 0
    for template in templates_of(name):
        for index, row in enumerate(ROWS[name]):
            try:
                shown = render(template.name, template.jinja, template.answer_choices, row, seed="", draw=0)
            except MissingFieldError:
                if not template.jinja.startswith("{% if"):  # a template for some of the rows alone
                    raise
                continue
            choices = list(shown.choices) or None
            target = shown.target if shown.target is not None else ("" if "|||" in template.jinja else None)
            assert render_with_promptsource.digest(shown.prompt, target, choices) == DIGESTS[name][template.name][index]
            compared += 1
    assert compared >= len(DIGESTS[name])


@pytest.mark.parametrize(
    "broken",
    [
        lambda text, longest: text,  # nothing is cut
        lambda text, longest: text.replace("}}", f" | string | truncate({longest}, True, '') }}}}"),  # cut mid-word
    ],
    ids=["uncut", "cut mid-word"],
)
def test_other_cuts_differ(monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    template = next(t for t in templates_of("super_glue/rte") if t.name == "does this imply")
    row = ROWS["super_glue/rte"][-1]
    assert len(row["premise"]) > 2048
    monkeypatch.setattr(jinja_prompts, "_with_cuts", broken)
    shown = render(template.name, template.jinja, template.answer_choices, row, seed="")
    digest = render_with_promptsource.digest(shown.prompt, shown.target, list(shown.choices))
    assert digest != DIGESTS["super_glue/rte"]["does this imply"][-1]


# Names and order as the published code has them (MaTS, its readers for these eight tasks).
PUBLISHED = {
    "cosmos_qa": "description_context_question_answer_text, description_context_question_text, "
    "description_context_question_answer_id, context_description_question_answer_text, no_prompt_id, no_prompt_text, "
    "context_description_question_answer_id, context_question_description_answer_id, "
    "context_description_question_text, context_question_description_answer_text",
    "social_i_qa": "I was wondering, Show choices and generate answer, Generate answer, "
    "Show choices and generate index",
    "paws/labeled_final": "task_description-no-label, Meaning, context-question-no-label, Rewrite-no-label, "
    "context-question, Concatenation, Concatenation-no-label, Meaning-no-label, PAWS-ANLI GPT3, Rewrite, "
    "PAWS-ANLI GPT3-no-label",
    "quail": "context_question_answer_description_id, context_question_answer_description_text, "
    "description_context_question_answer_id, context_question_description_answer_text, "
    "context_question_description_answer_id, no_prompt_id, context_description_question_answer_id, no_prompt_text, "
    "context_description_question_answer_text, description_context_question_answer_text",
    "wiki_qa": "Is This True?, automatic_system, found_on_google, exercise, Decide_good_answer",
    "quartz": "use_info_from_question_paragraph, paragraph_question_plain_concat, use_info_from_paragraph_question, "
    "answer_question_based_on, answer_question_below, read_passage_below_choose, having_read_above_passage, "
    "given_the_fact_answer_the_q",
    "qasc": "qa_with_separated_facts_1, qa_with_separated_facts_3, qa_with_separated_facts_4, "
    "qa_with_separated_facts_5, qa_with_separated_facts_2",
    "ropes": "prompt_beginning, prompt_bottom_hint_beginning, given_background_situation, plain_bottom_hint, "
    "plain_background_situation, background_new_situation_answer, background_situation_middle, "
    "new_situation_background_answer, prompt_mix, read_background_situation",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_order_is_the_published_one(name: str) -> None:
    metric = "Squad" if name == "ropes" else "Accuracy"
    without = ("Check if a random answer is valid or not",) if name == "social_i_qa" else ()
    kept = templates_of(name, original_task=True, metric=metric, without=without)
    assert ", ".join(template.name for template in kept) == PUBLISHED[name]


def test_draws_follow_the_seed() -> None:
    text = "{{ ['a', 'b', 'c', 'd'] | choice }} ||| x"
    drawn = {str(seed): render("t", text, None, {}, seed=str(seed)).prompt for seed in range(40)}
    assert {render("t", text, None, {}, seed=seed).prompt for seed in drawn} == set("abcd")
    assert all(render("t", text, None, {}, seed=seed).prompt == prompt for seed, prompt in drawn.items())
    assert render("t", text, None, {}, seed="7", draw=2).prompt == "c"


def test_fixed_draws_become_templates() -> None:
    kept = templates_of(
        "hellaswag", original_task=True, metric="Accuracy", fixed_draws={"Randomized prompts template": 4}
    )
    assert [template.name for template in kept[3:]] == [f"Randomized prompts template {i}" for i in range(1, 5)]
    row = ROWS["hellaswag"][0]
    prompts = {render(t.name, t.jinja, t.answer_choices, row, seed="", draw=t.draw).prompt for t in kept[3:]}
    assert len(prompts) == 4


def test_helpers_of_promptsource() -> None:
    row = {"a": [1, 2], "b": ["x", "y"], "votes": ["p", "q", "q", "p", "r"]}
    text = (
        "{% for n, t in zip(a, b) %}{{ n }}{{ t }}{% endfor %} {% for i, t in enumerate(b) %}{{ i }}{{ t }}{% endfor %}"
    )
    assert render("t", text + "||| {{ votes | most_frequent | join(',') }}", None, row, seed="").target == "p,q"
    assert render("t", text, None, row, seed="").prompt == "1x2y 0x1y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ premis }} ||| x", "template 't': field 'premis' is missing; nearest: 'premise'"),
        ("{{ premise.nothing }} ||| x", "template 't' does not fit this row"),
        ("{{ options[7] }} ||| x", "template 't' does not fit this row"),
        ("{{ options.append(3) }} ||| x", "template 't' does not fit this row .*append"),
        ("{{ premise.__class__.__mro__ }} ||| x", "template 't' does not fit this row .*__class__"),
        ("{{ cycler.__init__.__globals__ }} ||| x", "template 't' does not fit this row .*__init__"),
        ("{{ range(10 ** 9) | list }} ||| x", "template 't' does not fit this row .*[Rr]ange"),
        ("{% if premise == 'b' %}{{ premise }} ||| x{% endif %}", "template 't' makes no prompt of this row"),
    ],
)
def test_what_a_template_cannot_do(text: str, message: str) -> None:
    with pytest.raises(MissingFieldError, match=message):
        render("t", text, None, {"premise": "a", "options": [1]}, seed="")


def test_separators_in_the_data_split_nothing() -> None:
    """Nor where they come by way of the answer choices, where promptsource itself would split."""
    shown = render("t", "{{ text }} ||| {{ answer_choices[1] }}", "no ||| {{ text }}", {"text": " a ||| b "}, seed="")
    assert (shown.prompt, shown.target, shown.choices, shown.gold) == ("a ||| b", "a ||| b", ("no", "a ||| b"), 1)


def test_a_long_choice_is_still_the_right_one() -> None:
    shown = render("t", "x ||| {{ answer_choices[1] }}", f"no ||| {LONG}", {}, seed="")
    assert shown.gold == 1
    assert shown.target != shown.choices[1] == LONG.strip()


def test_inserted_texts_are_cut_at_a_word() -> None:
    shown = render("t", "{{ text }} ||| x", None, {"text": LONG}, seed="")
    assert len(shown.prompt) <= 2048
    assert shown.prompt.endswith("...")
    assert LONG.startswith(shown.prompt[:-3])


def test_faults_of_jinja_are_told() -> None:
    with pytest.raises(ValueError, match="not Jinja: line 1"):
        check_syntax("{{ a ")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"promptsource": "cosmos_q"}, "no such file; nearest: cosmos_qa"),
        ({"promptsource": "super_glue", "config": "cbb"}, r"no such file; nearest: super_glue/cb"),
        ({"promptsource": "../promptsource/quail"}, "leaves the folder"),
        ({"promptsource": "quail", "only": ["no_promt_id"]}, "no template 'no_promt_id'; nearest: no_prompt_id"),
        ({"promptsource": "quail", "metric": "BLEU", "choices": True}, "none of its 13 templates is kept"),
        ({"promptsource": "quail", "folder": "nowhere"}, "no folder .*nowhere"),
    ],
)
def test_files_and_names_that_are_not_there(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_templates(Prompts(**prompts), VENDORED)


def test_no_file_of_promptsources(tmp_path: Path) -> None:
    folder = tmp_path / "promptsource" / "x"
    folder.mkdir(parents=True)
    for text in ("templates: {a: !Template {name: t}}", "- 1", "a: !!python/object/apply:os.getcwd []", "{"):
        (folder / "templates.yaml").write_text(text)
        with pytest.raises(RequestError, match="is no file of promptsource's"):
            read_templates(Prompts(promptsource="x"), tmp_path)
    elsewhere = tmp_path / "promptsource" / "y"
    with pytest.raises(RequestError, match=re.escape(str(elsewhere))):
        read_templates(Prompts(promptsource="y"), tmp_path)
