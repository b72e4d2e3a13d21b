"""How a dataset file has models write text, and how long texts are read for their perplexity."""

from __future__ import annotations

from pydantic import Field, model_validator

from mats.data.strict import Strict


class GenerationSettings(Strict):
    """How the model writes, and where the gold answers are; the words are those of transformers' `generate`."""

    max_new_tokens: int = Field(ge=1, description="Most tokens written.")
    num_beams: int = Field(default=1, ge=1, description="Beams; 1 is greedy unless do_sample.")
    do_sample: bool = Field(default=False, description="Draw tokens instead of taking the likeliest.")
    temperature: float | None = Field(default=None, gt=0, description="Divides the logits; with do_sample.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Draw from this mass only; with do_sample.")
    stop: tuple[str, ...] = Field(default=(), description="The text ends before the first of these.")
    repetition_penalty: float | None = Field(default=None, gt=0, description="Above 1: repeats become unlikely.")
    answers: str | None = Field(
        default=None, min_length=1, description="Column of the gold answer or list of answers. Default: the target."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of what is drawn.")

    @model_validator(mode="after")
    def _drawing_needs_sampling(self) -> GenerationSettings:
        given = [name for name in ("temperature", "top_p") if getattr(self, name) is not None]
        if given and not self.do_sample:
            raise ValueError(f"{' and '.join(given)} without do_sample; do_sample: true would be right")
        if "" in self.stop:
            raise ValueError("stop: an empty text; a text that ends the answer would be right")
        return self


class PerplexitySettings(Strict):
    """Strided perplexity: all texts as one, read in overlapping windows; each token is scored once."""

    window: int = Field(default=1024, ge=2, description="Tokens seen at once.")
    stride: int = Field(default=512, ge=1, description="Tokens by which the window moves on.")
    separator: str = Field(default="\n\n", description="Between the texts.")

    @model_validator(mode="after")
    def _windows_overlap(self) -> PerplexitySettings:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} is beyond the window of {self.window}; at most that would be right")
        return self
