"""What a model's parameters are called in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class ParameterNames:
    """Checkpoint names of a model's parameters; tied parameters have one name.

    Attributes:
        by_name: checkpoint name → parameter, in the model's order.
        absent: Names of parameters that the checkpoint does not hold.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str] | None) -> None:
        """Look every parameter up.

        Args:
            model: The model.
            names: Parameter name in the model → name in the checkpoint; None when they are the same.
        """
        self.by_name: dict[str, nn.Parameter] = {}
        self._by_identity: dict[int, str] = {}
        missing: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            target = name if names is None else names.get(name)
            if target is None:
                missing.setdefault(id(parameter), name)
            elif id(parameter) not in self._by_identity:
                self._by_identity[id(parameter)] = target
                self.by_name[target] = parameter
        self.absent = tuple(name for key, name in missing.items() if key not in self._by_identity)

    def of(self, parameter: nn.Parameter | None) -> str | None:
        """The checkpoint name of `parameter`, or None when the checkpoint does not hold it."""
        return None if parameter is None else self._by_identity.get(id(parameter))


def holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """For each parameter (by identity), the modules that hold it directly, with their names."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((name, module))
    return found
