"""The Python code inside a model's answer, by the published rules: texts in, texts out. Nothing here runs any code.

The rules are those of WizardCoder (arXiv 2306.08568) and DARE (arXiv 2311.03099), with one difference that matters: the
indentation of the first line stays, because a HumanEval answer may be the inside of a function.
"""

from __future__ import annotations

import re

CODE_BLOCK = re.compile(r"```python\b[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
MAIN_GUARD = re.compile(r"""^[^\n]*__name__\s*==\s*(["'])__main__\1""", re.MULTILINE)
EXAMPLE_COMMENT = re.compile(r"^[ \t]*#[ \t]*(?:Example usage|Test examples)\b", re.MULTILINE | re.IGNORECASE)
SOLUTION_CUE = re.compile(r"\b(?:The solution is|The answer is):[ \t]*\n?", re.IGNORECASE)

TAB, FOUR_SPACES = "\t", "    "


def extract_code(answer: str) -> str:
    r"""The code in an answer: its block, without what shows how to use it.

    In order: carriage returns go; the first ```` ```python ```` block is taken, closed or not; without one, what
    follows "The solution is:" or "The answer is:"; all goes from the line with `__name__ == "__main__"` on, and from a
    comment "# Example usage" or "# Test examples" on; blank lines around it go.

    Example:
        >>> extract_code("Sure!\n```python\ndef f():\n    return 1\n\n# Example usage\nprint(f())\n```\nDone.")
        'def f():\n    return 1'
    """
    code = first_block(answer.replace("\r", ""))
    for cut in (without_main_guard, without_examples):
        code = cut(code)
    return strip_blank_lines(code)


def first_block(text: str) -> str:
    """What is inside the first ```` ```python ```` block; without one, what follows a cue; without one, the text."""
    found = CODE_BLOCK.search(text)
    return found.group(1) if found else after_cue(text)


def after_cue(text: str) -> str:
    """What follows the first "The solution is:" or "The answer is:"; the text where there is none."""
    found = SOLUTION_CUE.search(text)
    return text[found.end() :] if found else text


def without_main_guard(code: str) -> str:
    """The code above the line that tests `__name__ == "__main__"`."""
    found = MAIN_GUARD.search(code)
    return code[: found.start()] if found else code


def without_examples(code: str) -> str:
    """The code above a comment that announces examples of its use."""
    found = EXAMPLE_COMMENT.search(code)
    return code[: found.start()] if found else code


def strip_blank_lines(code: str) -> str:
    """Without empty lines before and after; the first line keeps its indentation."""
    return re.sub(r"\A(?:[ \t]*\n)+", "", code).rstrip()


def spaces_to_tabs(text: str) -> str:
    """Every four spaces as a tab: how the published prompts show code."""
    return text.replace(FOUR_SPACES, TAB)


def tabs_to_spaces(text: str) -> str:
    """Every tab as four spaces: how answers to such prompts come back."""
    return text.replace(TAB, FOUR_SPACES)
