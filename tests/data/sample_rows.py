"""Made-up rows in the columns of the hub's datasets, for every dataset file and every vendored template.

The last row of each set is awkward on purpose: a separator inside the text, a passage beyond 2048 characters, letters
outside ASCII, white space at both ends.
"""

from __future__ import annotations

from typing import Any

LONG = "A long passage about the weather in Zürich, told at length. " * 36
PIPES = " The sign ||| stands between — two parts. "
Rows = list[dict[str, Any]]


def _choice_rows(**columns: Any) -> Rows:
    """Two rows: the columns as given, then with long and awkward texts in place of the text columns."""
    awkward = {}
    for index, (name, value) in enumerate(columns.items()):
        text = [LONG, PIPES][index % 2] if not name.startswith("answer") else LONG
        awkward[name] = f"{name} {text}" if isinstance(value, str) and " " in value else value
    return [columns, awkward]


def _pair(first: str, second: str, labels: int) -> Rows:
    """Rows of two texts, one per label, then an awkward one."""
    rows: Rows = [
        {first: f"The cat number {label} sat down.", second: f"An animal rested, case {label}.", "label": label}
        for label in range(labels)
    ]
    return [*rows, {first: LONG, second: PIPES, "label": 0}]


def _single(column: str, labels: int) -> Rows:
    rows: Rows = [{column: f"A film of kind {label}.", "label": label} for label in range(labels)]
    return [*rows, {column: LONG + PIPES, "label": 0}]


_FOUR = ["rain fell", "snow fell", "nothing fell", "hail fell"]
_SUPER_PAIR = _pair("premise", "hypothesis", 2)

# What promptsource calls a dataset → rows in its columns.
ROWS: dict[str, Rows] = {
    "cosmos_qa": _choice_rows(
        id="1",
        context="It was wet outside .",
        question="Why was it wet ?",
        label=2,
        **{f"answer{i}": a for i, a in enumerate(_FOUR)},
    ),
    "social_i_qa": _choice_rows(
        context="Ann lent Bo a book.",
        question="What will Bo do next?",
        answerA="read it soon",
        answerB="lose it soon",
        answerC="sell it soon",
        label="2",
    ),
    "paws/labeled_final": [{"id": i, **row} for i, row in enumerate(_pair("sentence1", "sentence2", 2))],
    "quail": _choice_rows(
        id="q1",
        context_id="c1",
        question_id="1",
        domain="news",
        metadata={"author": "a", "title": "t", "url": "u"},
        context="It was wet outside.",
        question="What fell down?",
        question_type="Factual",
        answers=_FOUR,
        correct_answer_id=1,
    ),
    "wiki_qa": [
        {
            "question_id": "Q1",
            "question": "how are glaciers formed",
            "document_title": "Glacier cave",
            "answer": "A glacier moves slowly.",
            "label": 0,
        },
        {"question_id": "Q2", "question": PIPES, "document_title": "Glacier", "answer": LONG, "label": 1},
    ],
    "quartz": [
        {
            "id": "z1",
            "question": question,
            "choices": {"text": ["scarce", "plentiful"], "label": ["A", "B"]},
            "answerKey": key,
            "para": para,
            "para_id": "p1",
            "para_anno": {},
            "question_anno": {},
        }
        for question, key, para in (
            ("Water became _____ as it rained.", "B", "Rain brings water."),
            ("If it rains, water is", "A", LONG + PIPES),
        )
    ],
    "qasc": [
        {
            "id": "s1",
            "question": question,
            "choices": {"text": [f"{name} thing" for name in "abcdefgh"], "label": list("ABCDEFGH")},
            "answerKey": key,
            "fact1": fact,
            "fact2": "Rain is water.",
            "combinedfact": "Rain fills rivers.",
            "formatted_question": "What? (A) a thing",
        }
        for question, key, fact in (
            ("What fills rivers?", "C", "Water fills rivers."),
            (PIPES, "H", LONG),
        )
    ],
    "ropes": [
        {
            "id": "r1",
            "background": background,
            "situation": situation,
            "question": "Which field was wetter?",
            "answers": {"text": ["field one"]},
        }
        for background, situation in (("Rain makes wet.", "It rained on field one."), (LONG, PIPES))
    ],
    "story_cloze/2016": [
        {
            "story_id": "t1",
            **{f"input_sentence_{i}": f"Sentence {i} of the story." for i in range(1, 5)},
            "sentence_quiz1": "It ended well.",
            "sentence_quiz2": quiz,
            "answer_right_ending": answer,
        }
        for quiz, answer in (("It ended badly.", 1), ("It ended — badly — in Zürich. ", 2))
    ],
    "winogrande/winogrande_xl": [
        {"sentence": sentence, "option1": "the bag", "option2": "the box", "answer": answer}
        for sentence, answer in (
            ("The ball fit the box, for _ was large.", "2"),
            ("The ball left the bag, for _ was torn." + LONG, "1"),
        )
    ],
    "super_glue/wsc.fixed": [
        {
            "text": text,
            "span1_index": 0,
            "span2_index": 4,
            "span1_text": "Mark",
            "span2_text": "he",
            "idx": 0,
            "label": label,
        }
        for text, label in (
            ("Mark told Pete that he was late .", 0),
            ("Mark told Pete that he left . " + LONG, 1),
        )
    ],
    "super_glue/rte": _SUPER_PAIR,
    "super_glue/cb": _pair("premise", "hypothesis", 3),
    "super_glue/wic": [
        {"word": "bank", "start1": 0, "end1": 4, "start2": 0, "end2": 4, "idx": index, **row}
        for index, row in enumerate(_pair("sentence1", "sentence2", 2))
    ],
    "super_glue/copa": [
        {
            "premise": premise,
            "choice1": "It rained.",
            "choice2": "It shone.",
            "question": question,
            "idx": 0,
            "label": label,
        }
        for premise, question, label in (("The street was wet.", "cause", 0), (PIPES, "effect", 1))
    ],
    "super_glue/boolq": [
        {"question": "is rain wet", "passage": passage, "idx": 0, "label": label}
        for passage, label in (("Rain is water.", 1), (LONG + PIPES, 0))
    ],
    "super_glue/multirc": [
        {"paragraph": paragraph, "question": "What is rain?", "answer": "water", "idx": {}, "label": label}
        for paragraph, label in (("Rain is water.", 1), (LONG + PIPES, 0))
    ],
    "hellaswag": [
        {
            "ind": 1,
            "activity_label": "Cleaning snow",
            "ctx_a": ctx_a,
            "ctx_b": "he",
            "ctx": f"{ctx_a} he",
            "endings": ["takes a brush.", "goes away.", "sings loud.", "eats ice."],
            "source_id": "s",
            "split": "train",
            "split_type": "indomain",
            "label": label,
        }
        for ctx_a, label in (("A man stands by a car.", "0"), (LONG, "3"))
    ],
    "anli": [{"uid": "u", "reason": "", **row} for row in _pair("premise", "hypothesis", 3)],
    "glue/mnli": [{"idx": i, **row} for i, row in enumerate(_pair("premise", "hypothesis", 3))],
    "glue/qnli": [{"idx": i, **row} for i, row in enumerate(_pair("question", "sentence", 2))],
    "glue/qqp": [{"idx": i, **row} for i, row in enumerate(_pair("question1", "question2", 2))],
    "glue/rte": [{"idx": i, **row} for i, row in enumerate(_pair("sentence1", "sentence2", 2))],
    "glue/wnli": [{"idx": i, **row} for i, row in enumerate(_pair("sentence1", "sentence2", 2))],
    "glue/mrpc": [{"idx": i, **row} for i, row in enumerate(_pair("sentence1", "sentence2", 2))],
    "glue/cola": [{"idx": i, **row} for i, row in enumerate(_single("sentence", 2))],
    "glue/sst2": [{"idx": i, **row} for i, row in enumerate(_single("sentence", 2))],
}

# The same under the hub's ids (`id` or `id config`), with what promptsource has nothing for.
HUB_ROWS: dict[str, Rows] = {
    "allenai/cosmos_qa": ROWS["cosmos_qa"],
    "lighteval/siqa": ROWS["social_i_qa"],
    "google-research-datasets/paws labeled_final": ROWS["paws/labeled_final"],
    "textmachinelab/quail": ROWS["quail"],
    "microsoft/wiki_qa": ROWS["wiki_qa"],
    "allenai/quartz": ROWS["quartz"],
    "allenai/qasc": ROWS["qasc"],
    "allenai/ropes": ROWS["ropes"],
    "allenai/winogrande winogrande_xl": ROWS["winogrande/winogrande_xl"],
    "Rowan/hellaswag": ROWS["hellaswag"],
    "facebook/anli": ROWS["anli"],
    **{f"aps/super_glue {name.split('/')[1]}": rows for name, rows in ROWS.items() if name.startswith("super_glue/")},
    **{f"nyu-mll/glue {name.split('/')[1]}": rows for name, rows in ROWS.items() if name.startswith("glue/")},
    "nyu-mll/glue stsb": [
        {"sentence1": "A man sings.", "sentence2": "Someone sings.", "label": number, "idx": 0} for number in (4.2, 0.0)
    ],
    "openai/gsm8k main": [{"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}] * 2,
    "DigitalLearningGmbH/MATH-lighteval": [
        {"problem": "What is $2+3$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{5}$."}
    ]
    * 2,
    "tatsu-lab/alpaca_eval": [
        {"dataset": "helpful_base", "instruction": "Name a river.", "output": "The Rhine.", "generator": "g"}
    ]
    * 2,
    "openai/openai_humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": "def add(a, b):\n    '''{sum}'''\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(f): ...",
            "entry_point": "add",
        }
    ]
    * 2,
    "google-research-datasets/mbpp full": [
        {
            "task_id": 11,
            "text": "Write a function that adds.",
            "code": "def add(a, b):\n    return a + b",
            "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
    ]
    * 2,
    "fancyzhx/yelp_polarity": _single("text", 2),
    "fancyzhx/amazon_polarity": [{"title": "A title", **row} for row in _single("content", 2)],
    "google/civil_comments": [{"text": f"You are number {i}.", "toxicity": 0.1 * i} for i in range(11)],
    "Salesforce/wikitext wikitext-2-raw-v1": [
        {"text": text} for text in ("", " = Heading = \n", " A text of words . \n")
    ],
    "tatsu-lab/alpaca": [
        {"instruction": "Name a river.", "input": "", "output": "The Rhine.", "text": "…"},
        {"instruction": "Translate.", "input": "Fluss", "output": "river", "text": "…"},
    ],
}
