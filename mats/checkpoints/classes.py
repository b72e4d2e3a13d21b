"""Classes of models by the name that a configuration gives (`architectures`)."""

from __future__ import annotations

from typing import Any

from mats.checkpoints.loading import AUTO_CLASSES


def model_class(name: str) -> Any | None:
    """The class of that name: of transformers, or one that was registered with its Auto classes; None: neither."""
    import transformers

    if (found := getattr(transformers, name, None)) is not None:
        return found
    for auto in ("AutoModel", *dict.fromkeys(AUTO_CLASSES.values())):
        registered = getattr(transformers, auto)._model_mapping._extra_content.values()
        if (found := next((each for each in registered if each.__name__ == name), None)) is not None:
            return found
    return None
