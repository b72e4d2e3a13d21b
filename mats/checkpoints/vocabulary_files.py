"""Tokenizer files and configuration of an output whose vocabulary is chosen: ids, rows and files say the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.vocabulary_tokens import FAST_FILE, SETTINGS_FILE, SLOW_FILES, TokenizerFiles
from mats.files import explain_os_error, read_json_object, write_bytes_atomically, write_json_atomically

OTHER_FILES = ("tokenizer*.json", "special_tokens_map.json", "chat_template.*")
GENERATION_FILE = "generation_config.json"
NESTED = ("text_config", "encoder", "decoder")
"""Keys under which a composed model keeps the configurations of its parts."""


@dataclass(frozen=True)
class OutputVocabulary:
    """What an output's files must say.

    Attributes:
        source: whose ids are the output's.
        tokenizer: its tokenizer, which the output has, perhaps with more tokens.
        rows: of the output's embedding.
        definition: text of its `tokenizer.json`, where tokens were added to the source's; None: files are copied.
        added: id → entry of the added tokens that the source does not have.
    """

    source: Checkpoint
    tokenizer: TokenizerFiles
    rows: int
    definition: str | None
    added: Mapping[int, Mapping[str, Any]]

    def write(self, folder: Path) -> None:
        """Make tokenizer, `config.json` and `generation_config.json` in a model folder those of this vocabulary.

        Raises:
            WorkFailed, OutOfSpace: from the disk.
            CheckpointCorrupt: a file there that is no JSON.
        """
        self._copy_tokenizer(folder)
        if self.definition is not None:
            write_bytes_atomically(folder / FAST_FILE, self.definition.encode())
            _remove(folder, SLOW_FILES)
            self._tell_settings(folder / SETTINGS_FILE)
        own = self.source.config or {}
        for name, ids in (
            ("config.json", own),
            (GENERATION_FILE, {**own, **_read(self.source.path / GENERATION_FILE)}),
        ):
            file = folder / name
            if file.is_file():
                content = _read(file)
                changed = self._with_ids(content, ids)
                if name == "config.json":
                    changed = self._with_rows(changed)
                if changed != content:
                    write_json_atomically(file, changed)

    def configuration(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of one of the merged models, with the rows and the special ids of this vocabulary."""
        return self._with_rows(self._with_ids(config, self.source.config or {}))

    def _with_ids(self, config: Mapping[str, Any], of_source: Mapping[str, Any]) -> dict[str, Any]:
        """Special ids as the source has them, whose ids are the output's; what it does not say is left to its class."""
        changed = {key: value for key, value in config.items() if not _is_special(key) or key in of_source}
        for key, value in of_source.items():
            if _is_special(key):
                changed[key] = value
        for key in NESTED:
            inner, of_inner = config.get(key), of_source.get(key)
            if isinstance(inner, dict) and isinstance(of_inner, dict):
                changed[key] = self._with_ids(inner, of_inner)
        return changed

    def _with_rows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        nested = {
            key: config[key] for key in NESTED if isinstance(config.get(key), dict) and "vocab_size" in config[key]
        }
        changed = {**config, **{key: {**inner, "vocab_size": self.rows} for key, inner in nested.items()}}
        if "vocab_size" in config or not nested:
            changed["vocab_size"] = self.rows
        return changed

    def _copy_tokenizer(self, folder: Path) -> None:
        """The source's tokenizer files in place of whatever lies there."""
        _remove(folder, (*SLOW_FILES, *OTHER_FILES))
        for file in sorted(self.tokenizer.folder.iterdir()):
            if file.is_file() and any(fnmatch(file.name, pattern) for pattern in (*SLOW_FILES, *OTHER_FILES)):
                try:
                    shutil.copyfile(file, folder / file.name)
                except OSError as error:
                    raise explain_os_error(error, folder / file.name) from error

    def _tell_settings(self, file: Path) -> None:
        """Older versions of transformers take added tokens from the settings as well."""
        settings = _read(file)
        known = settings.get("added_tokens_decoder")
        if isinstance(known, dict):
            entries = {
                str(number): {k: v for k, v in entry.items() if k != "id"} for number, entry in self.added.items()
            }
            write_json_atomically(file, {**settings, "added_tokens_decoder": {**known, **entries}})


def _is_special(key: str) -> bool:
    """Whether a configuration's key holds ids of special tokens."""
    return key.endswith(("_token_id", "_token_ids"))


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    return read_json_object(file) if file.is_file() else {}


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for file in folder.glob(pattern):
            try:
                file.unlink()
            except OSError as error:
                raise explain_os_error(error, file) from error
