"""What the engine is asked to do: plain frozen data, made by the recipe room or by hand."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mats.checkpoints.vocabulary import VocabularyChoice
from mats.checkpoints.vocabulary_chat import check_chat_template
from mats.engine.arrangement import Arrangement
from mats.errors import RequestError
from mats.methods.adapter_settings import AdapterSettings
from mats.methods.assigned import AssignedSettings
from mats.methods.registry import MethodSettings
from mats.methods.sparsify import SparsifySettings

Missing = Literal["base", "error", "zeros", "ones", "copy"]
"""What stands for a tensor that a model lacks: the result has the base's own, an error, or the model gets zeros, ones,
or a copy of the base's (without a base: of the first model's)."""


@dataclass(frozen=True)
class ModelInput:
    """One fine-tuned model.

    Attributes:
        name: how the report calls it; unique within a request.
        path: folder, file or hub id of the checkpoint or adapter.
        weight: λ_i, of those that the method takes: above 0 for quadratics, any number for `linear`, else not 0.
        metadata: folder of the store measured on this model; None where no method needs one.
        measured_on: the checkpoint that the store was measured on, where that is not the model itself: a merged model
            whose statistics replace the model's own. The store is checked against its weights instead, with the
            model's own head on them where the folder keeps heads.
        folds: folders of two stores, each measured on its half of the examples; needed by cross-validation alone.
        sparsify: how the model is thinned out before any method sees it; None: not at all. Its metadata stay those of
            the model itself.
        adapter: folder of an adapter that is laid onto the checkpoint at `path` first; None: none.
    """

    name: str
    path: str
    weight: float = 1.0
    metadata: Path | None = None
    measured_on: str | None = None
    folds: tuple[Path, ...] = ()
    sparsify: SparsifySettings | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Heads:
    """Merge bodies alone, and what becomes of the heads.

    Attributes:
        parameters: patterns (* and ?) of the heads' names; empty: the names that transformers gives to heads. What the
            base or another model lacks counts as head in any case.
        source: `own` (every model's head is kept beside the merged body, and the first one's is on it), `average`,
            `base`, or the name of the model whose head the output has (all are kept, as with `own`).
    """

    parameters: tuple[str, ...] = ()
    source: str = "own"

    @property
    def kept(self) -> bool:
        """Whether every model's own head is kept beside the merged body."""
        return self.source not in ("average", "base")


@dataclass(frozen=True)
class Rule:
    """Parameters whose name matches the glob `parameters` are merged by `method`, not by the request's method."""

    parameters: str
    method: MethodSettings


@dataclass(frozen=True)
class MergeRequest:
    """Everything that decides a merge.

    Attributes:
        models: at least one.
        method: how parameters are merged unless a rule says otherwise.
        output: folder to be made; it appears only when it is complete.
        base: the pretrained checkpoint; needed by task vectors, by starts made of them, and to load adapters.
        rules: exceptions by parameter name; the first that matches counts.
        missing: what stands for tensors that a model lacks: `base` (the result has the base's), `error`, or in the
            model `zeros`, `ones` or `copy` (of the base's, without one of the first model's); what it has stays. Of
            adapters merged into one: `base` (what one of them leaves alone counts as unchanged there) or `error`.
        heads: merge bodies alone, and do so with the heads; None: everything is merged.
        adapters: LoRA adapters come out as one adapter, and how; None: as a whole model, on the base.
        dtype: of the output ("float32", "bfloat16", "float16"); None keeps each tensor's dtype in the base.
        device: "auto" (cuda where there is one), "cpu", "cuda", "cuda:1".
        memory_budget: bytes that one group of layers of all models may take, with what is read and written beside it,
            in each process; None: 4 GiB, and a single larger layer is still solved as long as it fits into the
            machine's memory.
        overwrite: replace an existing output.
        strict: raise NotConverged, after publishing, when a solve missed its tolerance.
        max_shard_bytes: largest weight file; a LoRA adapter is one file in any case, since PEFT loads no other.
        vocab: what to do when vocabularies differ: "error"; "base": the output has the base's tokens; "union": those of
            all. Rows are matched by token.
        tokenizer: more about the output's vocabulary than `vocab` can say; None: what `vocab` says.
        chat_template: of the output: "auto" (the one that most inputs have), the name of a built-in one, or Jinja text;
            None: that of the tokenizer.
        assignments: tensor of the output → its own settings, models and weights; what is not here is merged by `rules`
            and `method`. With assignments the models' own weights do not count.
        arrangement: the output is put together from layers of the inputs; None: it has the layers of its inputs.
        notes: what the plan and the report are to say, a sentence each.
        resolved_recipe: saved with the output as recipe.yaml.
    """

    models: tuple[ModelInput, ...]
    method: MethodSettings
    output: Path
    base: str | None = None
    rules: tuple[Rule, ...] = ()
    missing: Missing = "base"
    heads: Heads | None = None
    adapters: AdapterSettings | None = None
    dtype: str | None = None
    device: str = "auto"
    memory_budget: int | None = None
    overwrite: bool = False
    strict: bool = False
    max_shard_bytes: int = 5_000_000_000
    vocab: Literal["error", "base", "union"] = "error"
    tokenizer: VocabularyChoice | None = None
    chat_template: str | None = None
    assignments: Mapping[str, AssignedSettings] = field(default_factory=dict)
    arrangement: Arrangement | None = None
    notes: tuple[str, ...] = ()
    resolved_recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what needs no file.

        Raises:
            RequestError: no model, two models of one name, a weight that a method does not take, a formula over other
                models, an unknown dtype, heads or tokens of an unknown model, no chat template, what is about a whole
                model where an adapter comes out.
        """
        self._check_models()
        if self.missing not in get_args(Missing):
            raise RequestError(f"missing: {self.missing!r}; one of {', '.join(get_args(Missing))} would be right")
        if self.heads is not None and self.heads.source not in ("own", "average", "base", *self.model_names):
            raise RequestError(
                f"heads.from: {self.heads.source!r}; own, average, base or a model ({', '.join(self.model_names)}) "
                "would be right"
            )
        self._check_vocabulary()
        if self.makes_adapter:
            self._check_adapter()
        if self.dtype not in (None, "float32", "float16", "bfloat16", "float64"):
            raise RequestError(f"dtype: {self.dtype!r} is not one of float32, float16, bfloat16, float64")
        if self.memory_budget is not None and self.memory_budget <= 0:
            raise RequestError(f"memory_budget: {self.memory_budget} bytes must be positive")

    @property
    def methods(self) -> tuple[MethodSettings, ...]:
        """The method and those of the rules; what single tensors are assigned is not among them."""
        return (self.method, *(rule.method for rule in self.rules))

    def method_for(self, name: str) -> MethodSettings:
        """The method of a parameter without an assignment: of the first rule that matches, else the request's."""
        return next((rule.method for rule in self.rules if fnmatch.fnmatchcase(name, rule.parameters)), self.method)

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the models are called."""
        return tuple(model.name for model in self.models)

    @property
    def weights(self) -> tuple[float, ...]:
        """λ_i of the models."""
        return tuple(model.weight for model in self.models)

    @property
    def sources(self) -> tuple[str | Path, ...]:
        """All that is read: checkpoints, adapters and stores, by path or hub id."""
        read: list[str | Path | None] = [self.base]
        for model in self.models:
            read += [model.path, model.metadata, model.measured_on, model.adapter, *model.folds]
        return tuple(source for source in read if source is not None)

    @property
    def makes_adapter(self) -> bool:
        """Whether LoRA adapters come out as one."""
        return self.adapters is not None and self.adapters.output == "adapter"

    @property
    def vocabulary(self) -> VocabularyChoice | None:
        """What the output's vocabulary is to be; None: that of all inputs, which must agree."""
        if self.tokenizer is not None:
            return self.tokenizer
        return None if self.vocab == "error" else VocabularyChoice(self.vocab)

    def _check_models(self) -> None:
        """Names that differ, and models and weights that every method takes."""
        if not self.models:
            raise RequestError("models: the list is empty; a merge needs at least one model")
        names = self.model_names
        for name in names:
            if names.count(name) > 1:
                raise RequestError(f"models: the name {name!r} is given {names.count(name)} times; names must differ")
        for method in () if self.assignments else self.methods:
            if fault := method.models_fault(names):
                raise RequestError(fault)
            for model in self.models:
                if fault := method.weight_fault(model.weight):
                    raise RequestError(
                        f"model {model.name}: weight {model.weight:g} with method {method.name}; {fault}"
                    )

    def _check_vocabulary(self) -> None:
        if self.vocab not in ("error", "base", "union"):
            raise RequestError(f"vocab: {self.vocab!r}; error, base or union would be right")
        if self.tokenizer is not None and self.vocab not in ("error", self.tokenizer.source):
            raise RequestError(
                f"vocab: {self.vocab}, and tokenizer.source: {self.tokenizer.source}; one of them, or both alike, "
                "would be right"
            )
        if self.vocabulary is not None:
            self.vocabulary.check(self.model_names, base=self.base is not None)
        if self.chat_template is not None:
            check_chat_template(self.chat_template)

    def _check_adapter(self) -> None:
        about_whole_models = {
            "vocab": self.vocabulary is not None,
            "chat_template": self.chat_template is not None,
            "slices": self.arrangement is not None,
            "settings by tensor": bool(self.assignments),
            f"missing: {self.missing}": self.missing not in ("base", "error"),
        }
        for key, given in about_whole_models.items():
            if given:
                raise RequestError(
                    f"{key}: is about a whole model, and adapters gives an adapter; adapters: output: dense would do"
                )
