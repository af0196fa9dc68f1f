"""What a pack reads of an adapter that was loaded from its files, to be used and not trained.

A loaded adapter may have fewer layers than the pack, as long as it has no others: on those that it
lacks it is given numbers that add nothing. Which settings its numbers were made with does not
matter, so more kinds fit than can be trained in a pack: whatever is a plain LoRA or DoRA by now
(PiSSA and CorDA are saved as one), and CURLoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from curlora.adapters.curlora_layer import CurloraLinear
from curlora.packing.packed_layer import PackedLayer
from curlora.packing.solo import default_factors, rank_and_scale, tensor_places, tuned_layers
from curlora.peft_bridge import BaseTunerLayer

CurTensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""C (d_out, r), R (r, d_in), rows (r,) and columns (r,) of one layer."""


@dataclass(frozen=True)
class Loaded:
    """An adapter as a pack keeps it."""

    family: str
    """`core`, `low_rank` or `dora`."""
    rank: int
    scale: float
    names: dict[str, tuple[str, str]]
    """From the model's parameter names to layer and part."""
    tensors: dict[str, Tensor]
    """Its numbers by those names."""
    factors: dict[str, CurTensors]
    """Of CURLoRA its frozen factors on every layer of the pack."""
    selection: bytes | None
    """What tells these factors from others; None without."""
    lacking: tuple[str, ...]
    """Layers of the pack that it does not adapt."""


def read_loaded(model: nn.Module, layers: Mapping[str, PackedLayer]) -> Loaded:
    """What a pack needs of a loaded adapter.

    Args:
        model: What `curlora.load_adapter` gave, on a copy of the pack's base.
        layers: Those of the pack, by name.

    Returns:
        Its numbers, exactly as they were loaded.

    Raises:
        ValueError: It is of a form that rows of one pass cannot share, or has other layers.
    """
    if not isinstance(model, PeftModel):
        raise ValueError("It is a whole model, not an adapter beside a base.")  # noqa: TRY004
    tuned = tuned_layers(model)
    adapted = [n for n, m in _base_of(model).named_modules() if isinstance(m, BaseTunerLayer)]
    if not tuned or set(adapted) != set(tuned):
        raise ValueError("It is neither CURLoRA nor LoRA or DoRA on linear layers.")
    if strange := sorted(tuned.keys() - layers.keys()):
        raise ValueError(f"It adapts `{strange[0]}`, which is none of the pack's layers.")
    shapes = {rank_and_scale(layer) for layer in tuned.values()}
    kinds = {_family(layer) for layer in tuned.values()}
    if len(shapes) > 1 or len(kinds) > 1:
        raise ValueError("Its layers differ in rank, scale or form.")
    (rank, scale), family = shapes.pop(), kinds.pop()
    places = tensor_places(tuned)
    parameters = {n: p for n, p in model.named_parameters() if "default" in n.split(".")}
    unplaced = [name for name, p in parameters.items() if id(p) not in places]
    if unplaced:
        raise ValueError(f"It has numbers beside its factors, first `{unplaced[0]}`.")
    lacking = tuple(name for name in layers if name not in tuned)
    factors = _factors(tuned, layers, rank) if family == "core" else {}
    return Loaded(
        family=family,
        rank=rank,
        scale=float(scale),
        names={name: places[id(p)] for name, p in parameters.items()},
        tensors={name: p.detach() for name, p in parameters.items()},
        factors=factors,
        selection=_key(factors, lacking) if factors else None,
        lacking=lacking,
    )


def _base_of(model: PeftModel) -> nn.Module:
    base: Any = model.base_model
    return base.model


def _family(layer: Any) -> str:
    if isinstance(layer, CurloraLinear):
        return "core"
    return "dora" if "default" in layer.lora_magnitude_vector else "low_rank"


def _factors(
    tuned: Mapping[str, Any], layers: Mapping[str, PackedLayer], rank: int
) -> dict[str, CurTensors]:
    found: dict[str, CurTensors] = {}
    for name, layer in layers.items():
        if name in tuned:
            f = default_factors(tuned[name])
            found[name] = f.C, f.R, f.rows, f.columns
            continue
        weight = layer.weight()
        none = torch.zeros(rank, dtype=torch.long, device=weight.device)
        found[name] = (
            weight.new_zeros(layer.d_out, rank), weight.new_zeros(rank, layer.d_in), none, none,
        )  # fmt: skip
    return found


def _key(factors: Mapping[str, CurTensors], lacking: tuple[str, ...]) -> bytes:
    """As the pack tells selections from each other; those that lack layers stand apart."""
    key = b"".join(
        indices.cpu().numpy().tobytes() for _, _, *pair in factors.values() for indices in pair
    )
    return key + "\0".join(lacking).encode()
