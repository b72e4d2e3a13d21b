"""`mats.MergeProblem`: what `mats.solve` solves, made from tensors or from checkpoints and their stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from mats.errors import RequestError, ShapeMismatch
from mats.quadratics import Quadratic
from mats.solvers import SolverSettings
from mats.tensor_problem import Curvatures, Stack, tensor_systems

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest
    from mats.recipes import Recipe

TENSOR_DEFAULTS = SolverSettings(anchor=0.0, damping=0.1)
"""How plain tensors are solved unless `mats.solve` is told otherwise."""


@dataclass(frozen=True)
class SystemGroup:
    """Systems of one shape, solved as one batch.

    Attributes:
        names: of the systems.
        quadratic: Σ λ C.
        targets: W_i, m tensors [L, out, in] or one [m, L, out, in].
        start: x0 [L, out, in].
        settings: how they are solved unless `mats.solve` is told otherwise.
        stored: (position, solution [out, in]) → tensors by name, as their checkpoint stores them.
    """

    names: tuple[str, ...]
    quadratic: Quadratic
    targets: Sequence[Tensor] | Tensor
    start: Tensor
    settings: SolverSettings
    stored: Callable[[int, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class MergeProblem:
    """Linear systems Σ_i λ_i C_i (X − W_i) + (D + μI)(X − x0) = 0, ready to be solved by `mats.solve`.

    Attributes:
        groups: the systems, by shape.
        models: names of the m models.
        shape: of one target, where the problem is made of plain tensors; else None.
    """

    groups: tuple[SystemGroup, ...]
    models: tuple[str, ...]
    shape: torch.Size | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all systems."""
        return tuple(name for group in self.groups for name in group.names)

    @classmethod
    def from_tensors(cls, targets: Stack, **given: Unpack[Curvatures]) -> MergeProblem:
        """The problem of merging m plain tensors W_i by their curvatures C_i.

        What is given decides what C_i is: `input_grams` A_i alone, X A_i (RegMean); with `output_grams` G_i, G_i X A_i
        (K-FAC, as in MaTS); `diagonals` F_i, F_i ∘ X (diagonal Fisher); or any `quadratic` of your own.

        Args:
            targets: W_i, m tensors [out, in], or [L, out, in] for L systems solved as one batch, or [n] for vectors
                (then `input_grams` are the [n, n] Fisher blocks).
            input_grams: A_i [in, in] (or [L, in, in]), or their diagonals [in] ([L, in]). A mean over rows or examples:
                a model measured on more data must not weigh more for it (`mats.quadratics.scaling`).
            output_grams: G_i [out, out] (or [L, out, out]), or their diagonals; likewise.
            diagonals: F_i, in the shape of the targets; likewise.
            quadratic: a `mats.quadratics.Quadratic` of shape (L, out, in); excludes the three above.
            start: x0, in the shape of one target: where the merge stays in directions that no model sees. None: mean.
            model_weights: λ_i, finite and at least 0; None: all 1.
            shrinkage: pull of every Gram toward a multiple of the identity: a share in [0, 1], `ledoit_wolf` (needs the
                moments, and Grams that are means over rows), or `oas` (needs the rows).
            input_moments: row counts behind `input_grams`.
            output_moments: row counts behind `output_grams`.
            models: what the models are called in tables; None: model 0, model 1, …
            names: what the L systems are called; None: system 0, system 1, …

        Raises:
            ShapeMismatch: shapes that do not fit together, with the index.
            NonFiniteStatistic: NaN or infinity in Grams that are to be shrunk, with the place.
            RequestError: a curvature that cannot be one, or none.

        Example:
            >>> import torch, mats
            >>> weights = [torch.ones(3, 4), -torch.ones(3, 4)]
            >>> grams = [torch.diag(torch.tensor([1.0, 1, 0, 0])), torch.diag(torch.tensor([0.0, 0, 1, 1]))]
            >>> problem = mats.MergeProblem.from_tensors(weights, input_grams=grams, models=["left", "right"])
            >>> mats.solve(problem, damping=1e-6).value[0].round(decimals=3).tolist()
            [1.0, 1.0, -1.0, -1.0]
        """
        made = tensor_systems(targets, given)
        systems = made.quadratic.shape[0]
        names = _named("names", given.get("names"), "system", systems)
        models = _named("models", given.get("models"), "model", made.quadratic.models)
        shape = made.shape[1:] if len(made.shape) == 3 else made.shape

        def stored(position: int, matrix: Tensor) -> dict[str, Tensor]:
            return {names[position]: matrix.reshape(shape)}

        group = SystemGroup(names, made.quadratic, made.targets, made.start, TENSOR_DEFAULTS, stored)
        return cls((group,), models, made.shape)

    @classmethod
    def from_stores(
        cls,
        source: str | Path | Recipe | MergeRequest | Mapping[str, str | Path],
        weights: str | Sequence[str] = "*",
        *,
        stores: Mapping[str, str | Path] | None = None,
        base: str | Path | None = None,
        method: str | Mapping[str, Any] = "mats",
        device: str = "auto",
    ) -> MergeProblem:
        """The problem of merging some weights of real checkpoints, exactly as `mats merge` would.

        Everything it needs is read into memory; choose weights whose factors fit there.

        Args:
            source: a recipe (its file, or loaded), a `MergeRequest`, or checkpoints by the names of the models. With
                the last, the next three arguments say what a recipe would.
            weights: names of weights in the checkpoint, or globs: `encoder.layer.*.weight`. A bias is solved with its
                weight where the metadata allow it.
            stores: model → folder of its metadata.
            base: the pretrained checkpoint that starts made of task vectors need.
            method: a quadratic method (`mats`, `regmean`, `fisher`), or a mapping with its settings.
            device: where it is solved.

        Raises:
            RequestError, RecipeError: a fault in the recipe or the arguments, or weights that no curvature covers.
            MatsError: whatever planning and reading the merge would raise.
        """
        from mats.engine.stored_systems import load_systems

        request = _request(source, stores, base, method, device)
        patterns = [weights] if isinstance(weights, str) else list(weights)
        groups = [
            SystemGroup(
                tuple(system.weight for system in group.systems),
                group.problem.quadratic,
                group.problem.targets,
                group.problem.start,
                group.settings,
                group.stored,
            )
            for group in load_systems(request, patterns)
        ]
        return cls(tuple(groups), request.model_names)


def _named(argument: str, given: Sequence[str] | None, word: str, count: int) -> tuple[str, ...]:
    """Names as given, or numbered ones."""
    if given is None:
        return tuple(f"{word} {number}" for number in range(count))
    if len(given) != count or len(set(given)) != count:
        raise ShapeMismatch(f"{argument}: {len(set(given))} different names for {count}; expected one each")
    return tuple(given)


def _request(
    source: str | Path | Recipe | MergeRequest | Mapping[str, str | Path],
    stores: Mapping[str, str | Path] | None,
    base: str | Path | None,
    method: str | Mapping[str, Any],
    device: str,
) -> MergeRequest:
    """Whatever says what to merge, as the engine's request."""
    from mats.engine.request import MergeRequest, ModelInput
    from mats.methods.registry import parse_method
    from mats.recipes import Recipe, load_recipe
    from mats.recipes.requests import merge_request

    if not isinstance(source, Mapping):
        if stores is not None or base is not None or method != "mats":
            raise RequestError("from_stores: stores, base and method go with checkpoints; a recipe says them itself")
        if isinstance(source, (str, Path)):
            source = load_recipe(source)
        return merge_request(source, "unwritten") if isinstance(source, Recipe) else source
    folders = {name: Path(folder) for name, folder in (stores or {}).items()}
    for name in source:
        if name not in folders:
            raise RequestError(f"from_stores: stores lacks model {name!r}; a folder of its metadata would be right")
    if extra := [name for name in folders if name not in source]:
        raise RequestError(f"from_stores: stores names {extra[0]!r}, which is no model ({', '.join(source)})")
    models = tuple(ModelInput(name, str(path), metadata=folders[name]) for name, path in source.items())
    base = None if base is None else str(base)
    return MergeRequest(models, parse_method(method), Path("unwritten"), base=base, device=device)
