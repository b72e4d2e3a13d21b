"""Chat templates: the ones that a word stands for, the one that most inputs have, and where an output keeps its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mats.checkpoints.vocabulary_tokens import SETTINGS_FILE
from mats.errors import RequestError
from mats.files import explain_os_error, read_json_object, write_bytes_atomically, write_json_atomically

TEMPLATE_FILE = "chat_template.jinja"
SHORTEST = 20  # characters; what is shorter, or holds no brace, is meant as a name

BUILT_IN = {
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}"
        "{% set ahead = namespace(text='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ahead.text = message['content'] + '\\n\\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{{ '[INST] ' + ahead.text + message['content'] + ' [/INST]' }}{% set ahead.text = '' %}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{{ '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
}
"""Name → Jinja text, in the variables that transformers gives to templates."""


def check_chat_template(value: str) -> None:
    """Check `auto`, the name of a built-in template, or Jinja text.

    Raises:
        RequestError: an unknown name, or text that is no template.
    """
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if value == "auto" or value in BUILT_IN:
        return
    if len(value) < SHORTEST or "{" not in value:
        nearest = get_close_matches(value, ["auto", *BUILT_IN], n=1)
        hint = f"; nearest: {nearest[0]}" if nearest else ""
        raise RequestError(
            f"chat_template: {value!r}; auto, {', '.join(BUILT_IN)} or the text of a Jinja template would be "
            f"right{hint}"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        environment.parse(value.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    except TemplateSyntaxError as error:
        raise RequestError(f"chat_template: line {error.lineno} of the Jinja text: {error.message}") from error


def chosen_template(value: str, inputs: Sequence[Path]) -> str | None:
    """The text of a template; for `auto` the one that most of the folders `inputs` have (of equals, the first).

    Raises:
        CheckpointCorrupt: a tokenizer_config.json that is not JSON.
    """
    if value != "auto":
        return BUILT_IN.get(value, value)
    found = [template for template in map(read_template, inputs) if template is not None]
    return Counter(found).most_common(1)[0][0] if found else None


def read_template(folder: Path) -> str | None:
    """The chat template of a model folder, from the file of its own or the tokenizer's settings; None without one."""
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    for name in ("chat_template.json", SETTINGS_FILE):
        file = folder / name
        if not file.is_file():
            continue
        template = read_json_object(file).get("chat_template")
        if isinstance(template, list):  # several templates by name
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def write_template(folder: Path, template: str) -> None:
    """Make `template` the one chat template of a model folder, where transformers looks for it.

    Raises:
        WorkFailed, OutOfSpace: from the disk.
        CheckpointCorrupt: a tokenizer_config.json that is not JSON.
    """
    write_bytes_atomically(folder / TEMPLATE_FILE, template.encode())
    try:
        (folder / "chat_template.json").unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    settings_file = folder / SETTINGS_FILE
    settings = read_json_object(settings_file) if settings_file.is_file() else {}
    if "chat_template" in settings:  # a second, older place, which must not contradict
        write_json_atomically(settings_file, {key: each for key, each in settings.items() if key != "chat_template"})
