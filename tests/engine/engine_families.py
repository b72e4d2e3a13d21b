"""Tiny real transformers models, fine-tuned by a random nudge, and stores made by hand from random activations.

Nothing here measures anything: the sums are drawn directly, so the engine's tests need no curvature room and know every
number that went in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mats.checkpoints import open_checkpoint
from mats.engine import ModelInput
from mats.store import DataIdentity, LayerRecord, Manifest, ModelIdentity, SiteRecord, Sums, write_store


def make_model(family: str, seed: int, layers: int = 2) -> nn.Module:
    """A randomly initialised model of a few thousand parameters."""
    import transformers

    torch.manual_seed(seed)
    if family == "bert":
        config = transformers.BertConfig(
            vocab_size=37, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=20, num_labels=3,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
    elif family == "t5":
        config = transformers.T5Config(
            vocab_size=37, d_model=16, d_kv=8, d_ff=24, num_layers=layers, num_decoder_layers=layers, num_heads=2,
            tie_word_embeddings=False, feed_forward_proj="gated-gelu",
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
        model.lm_head.weight = nn.Parameter(torch.randn(37, 16))  # untied, as in T5 v1.1
    elif family == "gpt2":
        config = transformers.GPT2Config(vocab_size=37, n_positions=20, n_embd=16, n_layer=layers, n_head=2)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24, image_size=8,
            patch_size=4, num_channels=1, num_labels=3,
        )  # fmt: skip
        model = transformers.ViTForImageClassification(config)
    for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def nudge(model: nn.Module, seed: int, size: float = 0.1) -> nn.Module:
    """`model` itself, every parameter moved at random: a specialist."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def save(model: nn.Module, folder: Path) -> None:
    """`save_pretrained`, but with the output head when its content is its own: transformers drops it for every T5."""
    model.config.save_pretrained(folder)
    state = dict(model.named_parameters())
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


@dataclass
class RawStore:
    """The sums drawn for one model, kept for the oracle."""

    examples: int
    sums: Sums
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    layers: dict[str, LayerRecord] = field(default_factory=dict)


@dataclass
class Family:
    """A base, its specialists and their stores on disk, with everything the oracle needs in memory."""

    base: Path
    models: list[Path]
    stores: list[Path]
    raw: list[RawStore]
    states: list[dict[str, Tensor]]
    base_state: dict[str, Tensor]

    def inputs(self, *, metadata: bool = True, weights: tuple[float, ...] | None = None) -> tuple[ModelInput, ...]:
        """The models of a request."""
        return tuple(
            ModelInput(
                f"task{i}", str(path), 1.0 if weights is None else weights[i], self.stores[i] if metadata else None
            )
            for i, path in enumerate(self.models)
        )


def layer_records(model: nn.Module) -> list[tuple[LayerRecord, int]]:
    """Every weight-bearing module, and its input dimension without the homogeneous 1."""
    from transformers.pytorch_utils import Conv1D

    found = []
    first_name = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first_name.setdefault(id(parameter), name)
    for name, module in model.named_modules():
        bias = f"{name}.bias" if getattr(module, "bias", None) is not None else None
        weight = f"{name}.weight"
        if getattr(module, "weight", None) is not None:
            weight = first_name[id(module.weight)]
        if isinstance(module, nn.Linear):
            record = LayerRecord(name, "linear", weight, bias, name, "out_in", module.out_features)
            found.append((record, module.in_features))
        elif isinstance(module, Conv1D):
            record = LayerRecord(name, "conv1d", weight, bias, name, "in_out", module.weight.shape[1])
            found.append((record, module.weight.shape[0]))
        elif isinstance(module, nn.Conv2d):
            record = LayerRecord(name, "conv2d", weight, bias, name, "conv", module.weight.shape[0])
            found.append((record, module.weight[0].numel()))
        elif isinstance(module, nn.Embedding):
            if any(other.weight == weight for other, _ in found):
                continue  # T5's encoder and decoder hold `shared` as modules of their own
            record = LayerRecord(name, "embedding", weight, None, name, "in_out", module.weight.shape[1])
            found.append((record, module.weight.shape[0]))
    return found


def draw_store(
    model: nn.Module,
    seed: int,
    *,
    examples: int = 11,
    rank: int = 40,
    output_gram_limit: int = 1000,
    shared: dict[str, str] | None = None,
    homogeneous: bool = True,
    vectors: tuple[str, ...] = ("diagonal", "block"),
) -> tuple[RawStore, list[str], dict[str, str]]:
    """Random sums for every layer, and diagonal and block sums for vectors."""
    generator = torch.Generator().manual_seed(seed)

    def gram(size: int, tokens: int, one: bool) -> tuple[Tensor, float]:
        rows = torch.randn(tokens, size, generator=generator, dtype=torch.float64)
        rows *= 1 + torch.arange(size) / size  # not isotropic
        if one:
            rows = torch.cat([rows, torch.ones(tokens, 1, dtype=torch.float64)], dim=1)
        return rows.T @ rows, float(rows.square().sum(1).square().sum())

    raw = RawStore(examples, Sums())
    records = layer_records(model)
    shared = shared or {}
    for record, _ in records:
        site = shared.get(record.name, record.name)
        raw.layers[record.name] = LayerRecord(**{**record.__dict__, "site": site})
    for record, size in records:
        site = raw.layers[record.name].site
        counts = record.kind == "embedding"
        readers = [other for other in raw.layers.values() if other.site == site]
        one = homogeneous and not counts and any(other.bias for other in readers)
        if site not in raw.sites:
            raw.sites[site] = SiteRecord(site, "counts" if counts else "gram", size + int(one), one)
            if counts:
                total = torch.randint(0, 9, (size,), generator=generator).double()
                fourth = float(total.sum())
            else:
                total, fourth = gram(size, rank, one)
            raw.sums.tensors[f"input_gram/{site}"] = total
            raw.sums.tokens[f"site:{site}"] = float(total.sum()) if counts else float(rank)
            raw.sums.fourth_moments[f"site:{site}"] = fourth
        raw.sums.tokens[f"layer:{record.name}"] = raw.sums.tokens[f"site:{site}"]
        if record.out_size <= output_gram_limit:
            total, fourth = gram(record.out_size, rank, False)
            raw.sums.tensors[f"output_gram/{record.name}"] = total
            raw.sums.fourth_moments[f"layer:{record.name}"] = fourth
    parameters, uncovered = [], {}
    weights = {record.weight for record, _ in records}
    for name, parameter in model.named_parameters():
        if name in weights or parameter.dim() != 1:
            continue
        if vectors:
            parameters.append(name)
        rows = torch.randn(examples, parameter.numel(), generator=generator, dtype=torch.float64)
        if "diagonal" in vectors:
            raw.sums.tensors[f"diagonal/{name}"] = rows.square().sum(0)
        if "block" in vectors:
            raw.sums.tensors[f"block/{name}"] = rows.T @ rows
    raw.sums.example_ids = [f"{seed}-{i}" for i in range(examples)]
    return raw, parameters, uncovered


def write_raw(
    folder: Path,
    raw: RawStore,
    model_path: Path,
    parameters: list[str],
    base: tuple[str, ...] = (),
    **estimator: object,
) -> None:
    """Write `raw` as a store measured on the checkpoint at `model_path`."""
    with open_checkpoint(model_path) as checkpoint:
        fingerprint = checkpoint.fingerprint()
    manifest = Manifest(
        model=ModelIdentity(model_path.name, str(model_path), None, fingerprint, *base),
        data=DataIdentity("random", "validation", None, {}),
        estimator={"labels": "empirical", "loss": "mean", "homogeneous": True, **estimator},
        examples=raw.examples,
        example_ids=tuple(sorted(raw.sums.example_ids)),
        sites=tuple(raw.sites.values()),
        layers=tuple(raw.layers.values()),
        parameters=tuple(parameters),
        uncovered={},
        tokens=raw.sums.tokens,
        fourth_moments=raw.sums.fourth_moments,
    )
    write_store(folder, manifest, raw.sums, {})


def make_family(
    root: Path, family: str, models: int = 3, *, dtype: torch.dtype = torch.float32, **store: object
) -> Family:
    """A base and `models` specialists with stores, all on disk under `root`."""
    layers = int(store.pop("depth", 2))  # type: ignore[arg-type]
    base = make_model(family, 0, layers).to(dtype)
    save(base, root / "base")
    result = Family(root / "base", [], [], [], [], {k: v.clone() for k, v in base.state_dict().items()})
    for i in range(models):
        model = nudge(make_model(family, 0, layers).to(dtype), 100 + i)
        save(model, root / f"model{i}")
        per_model = {key: value[i] if isinstance(value, list) else value for key, value in store.items()}
        raw, parameters, _ = draw_store(model, 200 + i, **per_model)  # type: ignore[arg-type]
        write_raw(root / f"store{i}", raw, root / f"model{i}", parameters)
        result.models.append(root / f"model{i}")
        result.stores.append(root / f"store{i}")
        result.raw.append(raw)
        result.states.append({k: v.clone() for k, v in model.state_dict().items()})
    return result
