"""Code cut out of answers, against hand-worked cases."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.evaluation import code_answers
from mats.evaluation.code_answers import extract_code, spaces_to_tabs, tabs_to_spaces
from mats.evaluation.exports_formats import signature

BODY = "def f(x):\n    return x + 1"
CASES = {
    "bare code": (BODY, BODY),
    "block": (f"Sure! Here it is.\n```python\n{BODY}\n```\nIt adds one.", BODY),
    "block in capitals": (f"```Python\n{BODY}\n```", BODY),
    "block never closed": (f"Here:\n```python\n{BODY}\n", BODY),
    "first of two blocks": (f"```python\n{BODY}\n```\nor\n```python\ndef g(): pass\n```", BODY),
    "carriage returns": (f"```python\r\n{BODY}\r\n```".replace("\n    ", "\r\n    "), BODY),
    "main guard": (f'{BODY}\n\nif __name__ == "__main__":\n    print(f(1))\n', BODY),
    "main guard with single quotes": (f"{BODY}\nif __name__=='__main__':\n    f(1)", BODY),
    "example usage": (f"{BODY}\n\n# Example usage:\nprint(f(1))", BODY),
    "test examples": (f"{BODY}\n\n#Test examples\nassert f(1) == 2", BODY),
    "indented example comment": (f"{BODY}\n    # Example usage\n    f(2)", BODY),
    "solution cue": (f"The solution is:\n{BODY}", BODY),
    "answer cue": (f"Let me think. The answer is: {BODY}", BODY),
    "a block beats a cue": (f"The solution is: easy\n```python\n{BODY}\n```", BODY),
    "all at once": (
        f'The solution is:\n```python\n{BODY}\n# Example usage\nif __name__ == "__main__":\n    f(1)\n```',
        BODY,
    ),
    "inside of a function": ("    return x + 1\n", "    return x + 1"),
    "inside of a function in a block": ("```python\n    return x + 1\n```", "    return x + 1"),
    "nothing": ("", ""),
    "a name in passing": ("x = __name__\n# an example usage counter", "x = __name__\n# an example usage counter"),
}


@pytest.mark.parametrize(("answer", "code"), CASES.values(), ids=CASES)
def test_by_hand(answer: str, code: str) -> None:
    assert extract_code(answer) == code


LINES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="`\r_:#"), max_size=12), min_size=1, max_size=6
)


@given(LINES)
def test_whatever_is_in_a_block_comes_out(lines: list[str]) -> None:
    code = "\n".join(lines)
    wrapped = extract_code(f"Certainly.\n```python\n{code}\n```\nDone.")
    assert wrapped == code_answers.strip_blank_lines(code)
    assert extract_code(wrapped) == code_answers.strip_blank_lines(wrapped)


@given(st.text(st.sampled_from("ab \n\t"), max_size=40))
def test_tabs_come_back_as_spaces(text: str) -> None:
    assert tabs_to_spaces(spaces_to_tabs(text)) == tabs_to_spaces(text)


def test_signatures_are_parsed_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "run"
    code = f"open({str(touched)!r}, 'w')\r\ndef inner(): pass\r\ndef f(first, second=2):\r\n    return first"
    assert signature(code, "f") == "f(first, second)"
    assert signature(code, "g") is None
    assert signature("def broken(:", "broken") is None
    assert not touched.exists()


def test_no_code_is_run_anywhere_in_the_room() -> None:
    """No call of exec, eval, compile or an interpreter in the files that handle what models wrote."""
    folder = Path(code_answers.__file__).parent
    files = [folder / "code_answers.py", *folder.glob("exports*.py")]
    assert len(files) > 5
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert not called & {"exec", "eval", "compile", "__import__"}, file
        assert not imported & {"subprocess", "importlib", "runpy"}, file
