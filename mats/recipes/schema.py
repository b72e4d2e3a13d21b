"""The recipe: one frozen, strict schema that drives both steps (docs/recipes.md lists every key)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mats.recipes.adapters import AdaptersSection
from mats.recipes.fitting import fitting_faults
from mats.recipes.flat import DEFAULT_METHOD, FlatMethodSection
from mats.recipes.heads import WORDS, HeadsSection
from mats.recipes.sections import DEVICE_PATTERN, CurvatureSection, EvaluateSection, FloatName, ModelEntry, Section
from mats.recipes.sizes import ByteSize
from mats.recipes.sparsify import SparsifySection
from mats.recipes.vocabulary import TokenizerSection, VocabularyWord


class RuleEntry(FlatMethodSection):
    """Parameters that are merged in another way than the rest; the first rule that matches a name counts."""

    parameters: str = Field(min_length=1, description="Pattern of parameter names, with * and ?.")


class MergeSection(FlatMethodSection):
    """How the models are merged: a method, its settings, and exceptions by parameter name."""

    default_method: ClassVar[str | None] = DEFAULT_METHOD
    preset: Literal["published", "published_cg", "published_ia3"] | None = Field(
        default=None,
        description="What the recipe leaves open is as in the published code: its closed forms, CG, or (IA)³ settings.",
    )
    rules: tuple[RuleEntry, ...] = Field(
        default=(), description="Exceptions: each names `parameters`, a `method` and its settings."
    )


def _default_merge() -> MergeSection:
    """`mats` with its default settings."""
    return MergeSection.model_validate({"method": DEFAULT_METHOD})


class Recipe(Section):
    """Everything that decides a merge. Paths are relative to the folder in which the command runs."""

    base: str | None = Field(default=None, min_length=1, description="The pretrained model: folder or hub id.")
    models: tuple[ModelEntry, ...] = Field(
        min_length=1, description="The fine-tuned models: a list, or a mapping from name to the rest."
    )
    heads: HeadsSection | None = Field(
        default=None, description="Keep task heads out of the merge: auto, or a mapping. null: everything is merged."
    )
    sparsify: SparsifySection | None = Field(
        default=None, description="Drop part of what each model changed, before it is merged; null: nothing."
    )
    adapters: AdaptersSection | None = Field(
        default=None,
        description="LoRA adapters in, LoRA adapter out: how updates are put together; null: a whole model comes out.",
    )
    vocab: VocabularyWord = Field(
        default="error",
        description="When vocabularies differ: error; base: the result has the base's tokens; union: those of all. "
        "Rows are matched by token.",
    )
    tokenizer: TokenizerSection | None = Field(
        default=None, description="More about the result's vocabulary than `vocab` can say; null: what `vocab` says."
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Chat template of the result: auto (what most of the inputs have), alpaca, chatml, llama3, "
        "mistral, exaone, or Jinja text. Default: that of its tokenizer.",
    )
    missing: Literal["base", "error", "zeros", "ones", "copy"] = Field(
        default="base",
        description="Tensors that a model lacks: the result has the base's; an error; or the model is given zeros, "
        "ones, or a copy of the base's (without a base: of the first model's).",
    )
    curvature: CurvatureSection = Field(default=CurvatureSection(), description="What is measured on each model.")
    merge: MergeSection = Field(default_factory=_default_merge, description="How the models are merged.")
    evaluate: EvaluateSection = Field(default=EvaluateSection(), description="What `mats evaluate` scores.")
    output: str | None = Field(
        default=None, min_length=1, description="Folder of the result; `mats merge RECIPE OUT` wins over it."
    )
    dtype: FloatName | None = Field(
        default=None, description="Number format of the result. Default: as each tensor has it in the base."
    )
    device: str = Field(
        default="auto",
        pattern=DEVICE_PATTERN,
        description="Where to compute: auto (cuda where there is one), cpu, cuda or cuda:N.",
    )
    memory_budget: ByteSize | None = Field(
        default=None,
        description="Most memory that one group of layers of all models, or one pass of sums, may take: 8GB, 500MiB.",
    )
    max_shard_size: ByteSize = Field(default=5_000_000_000, description="Largest file of weights in the result.")
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")

    @field_validator("models")
    @classmethod
    def _distinct_names(cls, models: tuple[ModelEntry, ...]) -> tuple[ModelEntry, ...]:
        """Names identify models in reports, stores and overrides."""
        names = [model.name for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {', '.join(map(repr, twice))} is given twice; names must differ")
        return models

    @model_validator(mode="after")
    def _models_that_the_methods_take(self) -> Recipe:
        """Every weight must mean something to every method, and formulas must be over the models that there are."""
        if faults := fitting_faults(self.merge, self.merge.rules, self.models):
            raise ValidationError.from_exception_data("Recipe", faults)
        return self

    @model_validator(mode="after")
    def _head_of_a_known_model(self) -> Recipe:
        """`heads.from` names a model, where it is no word of its own."""
        names = [model.name for model in self.models]
        if self.heads is not None and self.heads.source not in (*WORDS, *names):
            raise ValueError(
                f"heads.from: received {self.heads.source!r}; {', '.join(WORDS)} or a model ({', '.join(names)}) would "
                "be right"
            )
        return self

    def as_written(self) -> dict[str, Any]:
        """The recipe as plain data with every default filled in; `Recipe.model_validate` reads it back."""
        return self.model_dump(mode="json")

    def model_named(self, name: str) -> ModelEntry:
        """The model called `name`.

        Raises:
            KeyError: there is none.
        """
        return {model.name: model for model in self.models}[name]
