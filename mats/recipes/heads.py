"""The section of a recipe that keeps task heads out of the merge."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mats.recipes.sections import Section

WORDS = ("own", "average", "base")
"""What `from` may say besides the name of a model."""


def heads_spelt_out(word: str) -> dict[str, Any]:
    """The mapping that a bare word stands for: `heads: auto`, or where the head comes from (`heads: average`)."""
    return {"parameters": "auto"} if word == "auto" else {"from": word}


class HeadsSection(Section):
    """Merge bodies alone. `heads: auto` stands for the defaults, another word for `{from: word}`."""

    parameters: Literal["auto"] | tuple[str, ...] = Field(
        default="auto",
        description="Patterns of the heads' names, with * and ?; auto: classifier, score, qa_outputs and the like. "
        "What the base or one of the models lacks counts as head too.",
    )
    source: str = Field(
        default="own",
        alias="from",
        min_length=1,
        description="own: each model's head is kept beside the merged body, and the first one's is on it; the name of "
        "a model: as own, with that model's on it; average; base.",
    )

    @model_validator(mode="before")
    @classmethod
    def _spelt_out(cls, value: Any) -> Any:
        """A bare word, and a single pattern where a list is meant."""
        if isinstance(value, str):
            value = heads_spelt_out(value)
        if isinstance(value, dict) and isinstance(value.get("parameters"), str) and value["parameters"] != "auto":
            value = {**value, "parameters": [value["parameters"]]}
        return value

    @model_validator(mode="after")
    def _some_pattern(self) -> HeadsSection:
        """An empty list would name no head."""
        if not self.parameters:
            raise ValueError("parameters: an empty list names no head; patterns, or auto, would be right")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Under the keys that users write; `from` is a word of Python's own."""
        dumped = dict(handler(self))
        return {"parameters": dumped["parameters"], "from": self.source}

    @classmethod
    def known_fields(cls, _data: Any) -> dict[str, Any]:
        """Every key that may stand in this section, with its annotation."""
        return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns; none for auto."""
        return () if self.parameters == "auto" else tuple(self.parameters)
