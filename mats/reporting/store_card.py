"""`README.md` of a published metadata store: what was measured, on what, and how to merge with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from mats.reporting.card import looks_like_hub_id, markdown_table
from mats.reporting.numbers import whole
from mats.store import Manifest
from mats.store.compression import compression_line
from mats.store.manifest import statistic_of

MEANINGS = {
    "input_gram": "Σ a aᵀ over the inputs of each layer, every token once",
    "output_gram": "Σ δ δᵀ over the gradients at each layer's outputs",
    "diagonal": "Σ (∂ log p / ∂θ)² over examples, entry by entry",
    "block": "Σ g gᵀ over examples, for whole parameters",
}


def store_card(manifest: Manifest, run: dict[str, Any], *, license_id: str | None, repository: str) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        manifest: as published: without local paths.
        run: what run.json keeps.
        license_id: the hub's word for the license (`apache-2.0`), or None.
        repository: the hub id under which it will lie, for the lines that show how to use it.
    """
    proxy = manifest.estimator.get("proxy")
    what = "no data was shown" if proxy else f"{whole(manifest.examples)} examples of {manifest.data.name}"
    sections = [
        _front_matter(manifest, license_id),
        f"# Merging metadata of {manifest.model.name}\n\nCurvature statistics of one fine-tuned model ({what}), for "
        "merging it with others of its base by `mats`, without its data. The folder holds no weights and no example.",
        _measured(manifest, run),
        _statistics(manifest),
        _use(manifest, repository),
        _limits(manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(manifest: Manifest, license_id: str | None) -> str:
    values: dict[str, Any] = {"library_name": "mats"}
    if license_id is not None:
        values["license"] = license_id
    if "/" in manifest.model.source and looks_like_hub_id(manifest.model.source):
        values["base_model"] = [manifest.model.source]
    source = manifest.data.settings.get("source", {})
    if isinstance(source, dict) and source.get("format") == "hub" and isinstance(source.get("dataset"), str):
        values["datasets"] = [source["dataset"]]
    values["tags"] = ["mats", "model-merging", "metadata", *(["proxy"] if manifest.estimator.get("proxy") else [])]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _measured(manifest: Manifest, run: dict[str, Any]) -> str:
    data, model, estimator = manifest.data, manifest.model, manifest.estimator
    rows = [["model", f"`{model.source}`" + (f" at {model.revision}" if model.revision else "")]]
    rows.append(["content of its weights", f"`{model.fingerprint}`"])
    if model.base is not None:
        rows += [["base", f"`{model.base}`"], ["content of the base", f"`{model.base_fingerprint}`"]]
    if (proxy := estimator.get("proxy")) is not None:
        rows += [["**proxy**", f"`{proxy}`: made without data, no measurement ({estimator.get('of', '')})"]]
    else:
        rows += [
            ["data", f"{data.name}, split `{data.split}`" + (f", fold {data.fold}" if data.fold else "")],
            ["content of the examples", f"`{data.fingerprint}`"],
            ["examples", whole(manifest.examples)],
            ["tokens (most at one layer)", whole(round(max(manifest.tokens.values(), default=0.0)))],
            ["labels, loss", f"{estimator.get('labels')}, {estimator.get('loss')}"],
        ]
        if (position := estimator.get("position")) is not None:
            rows.append(["where", f"{position:g} of the way from the base to the model"])
        rows += [["template", f"`{data.template}`"]] if data.template else []
    if manifest.compression is not None:
        rows.append(["compressed", compression_line(manifest.compression)])
    if libraries := run.get("libraries"):
        rows.append(["made with", ", ".join(f"{name} {number}" for name, number in libraries.items())])
    return "## What was measured\n\n" + markdown_table(["", ""], rows).replace("| --: |", "| --- |")


def _statistics(manifest: Manifest) -> str:
    counts = Counter(statistic_of(key) for key in manifest.tensors)
    sizes = Counter(dict.fromkeys(counts, 0))
    for name, record in manifest.files.items():
        sizes[name.partition("-")[0]] += record.bytes
    rows = [[name, whole(counts[name]), whole(sizes[name]), MEANINGS[name]] for name in sorted(counts)]
    return (
        "## What is in it\n\n"
        + markdown_table(["statistic", "sums", "bytes", "what"], rows)
        + f"\n\n{whole(len(manifest.layers))} layers, {whole(len(manifest.parameters))} single parameters; nothing for "
        f"{whole(len(manifest.uncovered))} parameters, each with its reason in `manifest.json`."
    )


def _use(manifest: Manifest, repository: str) -> str:
    entry = {"name": manifest.model.name, "path": manifest.model.source, "metadata": repository}
    recipe = {"base": manifest.model.base or "…", "models": [entry, "…"], "merge": {"method": _method(manifest)}}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return (
        f"## How to use it\n\nName it under `metadata:` in a recipe, beside the very weights that were measured:\n\n"
        f"```yaml\n{text}```\n\n```sh\nmats metadata verify {repository}   # every byte, against the manifest\n"
        "mats merge recipe.yaml\n```\n\nWithout `mats`: `sha256sum -c checksums.sha256`."
    )


def _method(manifest: Manifest) -> str:
    found = {statistic_of(key) for key in manifest.tensors}
    if "output_gram" in found or "block" in found:
        return "mats"
    return "regmean" if "input_gram" in found else "fisher"


def _limits(manifest: Manifest) -> str:
    lines = [
        "* It belongs to these weights alone: a merge of others is refused by their content.",
        "* The quadratic is local; far from these weights it tells little.",
    ]
    if manifest.estimator.get("proxy"):
        lines.append("* A proxy knows nothing of the task's loss; measured metadata would be better.")
    else:
        lines += [
            "* The statistics are sums over the data above; on other data they would be others.",
            "* Sums are no examples, but they tell of them: `manifest.json` lists example ids, and token counts of an "
            "embedding say which words occurred. Do not publish them for data that must stay secret.",
        ]
    if manifest.compression is not None:
        lines.append("* Compressed: see above for the error. Copies like this do not add exactly.")
    return "## Limits\n\n" + "\n".join(lines)


def license_note(license_id: str | None, name: str) -> str:
    """Content of `LICENSE`."""
    if license_id is None:
        return (
            f"No license was named for the merging metadata of {name} when they were exported. Whoever publishes them\n"
            "should name one (mats metadata export --license ID) that the model's and the data's licenses allow.\n"
        )
    return (
        f"The merging metadata of {name} in this folder are published under the license {license_id}\n"
        f"(https://spdx.org/licenses/, by that identifier). The model and the data that they were measured on have\n"
        "licenses of their own, which this note does not change.\n"
    )
