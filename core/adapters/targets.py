"""Which linear layers an adapter can stand beside, by model family; what a user may name. No torch here.

Names are ours, the same in all families: `q_proj` is the projection of queries also where others call it `query`.
"""

from collections.abc import Collection

from core.adapters.spec import LoRA
from core.errors import InvalidRequest
from core.models.config import ModelConfig
from core.models.names import stored_tensors
from core.models.shapes import shapes


def linear_layers(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in features, out features) of every linear layer of the blocks; heads and embeddings are not among them."""
    return {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in shapes(config).items()
        if name.endswith("_proj.weight")
    }


def resolved(spec: LoRA, config: ModelConfig) -> LoRA:
    """With the targets named: by their last parts, where all of them are meant.

    Raises:
        InvalidRequest: codes `unknown_target`, `rank_too_high`.
    """
    layers = linear_layers(config)
    known = tuple(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    targets = known if spec.targets is None else spec.targets
    for target in targets:
        if not any(is_named(name, target) for name in layers):
            raise InvalidRequest(
                f"This model ({config.family}) has no linear layer {target!r}; it has {', '.join(known)}.",
                code="unknown_target",
                param="adapter.targets",
                hint="Name some of these, a single one in full (model.layers.0.…), or leave `targets` out for all.",
            )
    spec = spec.model_copy(update={"targets": targets})
    narrowest = min(targeted(spec, config), key=lambda name: min(layers[name]))
    if spec.rank > min(layers[narrowest]):
        raise InvalidRequest(
            f"A rank of {spec.rank} is more than {narrowest} ({' x '.join(map(str, layers[narrowest]))}) can have.",
            code="rank_too_high",
            param="adapter.rank",
            hint=f"Give at most {min(layers[narrowest])}; 8 to 64 is usual. To train all weights, leave `adapter` out.",
        )
    if spec.decomposed:
        _check_joined(spec, config)
    return spec


def _check_joined(spec: LoRA, config: ModelConfig) -> None:
    """Others keep the lengths of joined matrices as one, so none of them can be missing."""
    chosen = set(targeted(spec, config))
    joined: dict[str, list[str]] = {}
    for layer in linear_layers(config):
        joined.setdefault(stored_tensors(config)[f"{layer}.weight"].names[0], []).append(layer)
    for together in joined.values():
        if 0 < len(chosen & set(together)) < len(together):
            short = ", ".join(name.rpartition(".")[2] for name in together)
            raise InvalidRequest(
                f"With `decomposed`, {config.family} takes {short} together: they are one matrix in its files.",
                code="unknown_target",
                param="adapter.targets",
            )


def continued(given: LoRA, before: LoRA, config: ModelConfig) -> LoRA:
    """The spec of a job that goes on with an adapter: `before`'s shape, which what the user said must agree with.

    Raises:
        InvalidRequest: code `adapter_mismatch`.
    """
    for name in LoRA.model_fields:
        if name not in given.model_fields_set - {"kind", "dropout"}:
            continue
        wanted, there = getattr(given, name), getattr(before, name)
        if name == "targets":
            wanted, there = targeted(given, config), targeted(before, config)
        if wanted != there:
            raise InvalidRequest(
                f"The adapter that `model.from` names has {name} {getattr(before, name)!r}, not "
                f"{getattr(given, name)!r}: it can be trained on only in its own shape.",
                code="adapter_mismatch",
                param=f"adapter.{name}",
                hint='Leave these fields out; or train all weights, merged, with `adapter` {"kind": "none"}.',
            )
    dropout = given.dropout if "dropout" in given.model_fields_set else before.dropout
    return before.model_copy(update={"dropout": dropout})


def targeted(spec: LoRA, config: ModelConfig) -> list[str]:
    """The linear layers that get a low-rank part, in the model's order."""
    wanted = spec.targets
    return [name for name in linear_layers(config) if wanted is None or any(is_named(name, t) for t in wanted)]


def trained_whole(config: ModelConfig) -> list[str]:
    """Parameters that are trained beside the low-rank parts: a head, which may be new; BERT's transform."""
    return [name for name in shapes(config) if name.startswith(("head.", "transform."))]


def layers_named(layers: Collection[str], config: ModelConfig) -> tuple[str, ...]:
    """Targets that mean exactly these layers."""
    return tuple(shortest_names(layers, linear_layers(config)))


def shortest_names(chosen: Collection[str], everything: Collection[str]) -> list[str]:
    """Last parts of the names of modules that mean exactly the chosen ones, as few parts as that takes."""
    for count in range(1, 8):
        short = list(dict.fromkeys(".".join(name.split(".")[-count:]) for name in chosen))
        if {name for name in everything if any(is_named(name, s) for s in short)} == set(chosen):
            return short
    return list(chosen)


def is_named(layer: str, target: str) -> bool:
    """By its whole name or by its last parts."""
    return layer == target or layer.endswith(f".{target}")
