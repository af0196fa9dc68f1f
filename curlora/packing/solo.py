"""What a pack reads of one adapter that was attached alone: its layers, rank, scale and tensors."""

import copy
from collections.abc import Mapping
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curlora.adapters.curlora_layer import CurloraLinear
from curlora.peft_bridge import LoraLayer


def check_layer(name: str, module: nn.Module) -> None:
    """Refuse a layer that is not plain, has hooks, or is in another pack."""
    if type(module) not in {nn.Linear, Conv1D}:
        raise TypeError(
            f"A pack adapts plain linear layers and Conv1D, but `{name}` is a "
            f"{type(module).__name__}. Drop it from `target_modules`, or train its adapters alone."
        )
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    # ZeRO-3's hooks gather and release parameters; the values pass through.
    odd = [h for h in hooks if not getattr(h, "__module__", "").startswith("deepspeed.")]
    if odd or "forward" in vars(module):
        raise TypeError(
            f"`{name}` has hooks or is in another pack, so its output is not x W' + bias. Remove "
            "them before packing."
        )


def copy_around_tensors(model: nn.Module) -> nn.Module:
    """Copy modules and settings, but share every parameter and buffer."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def tuned_layers(model: nn.Module) -> dict[str, CurloraLinear | LoraLayer]:
    """Give the adapted layers of a solo model by their name in the base."""
    base = cast(PeftModel, model).base_model.model
    return {
        name: module
        for name, module in cast(nn.Module, base).named_modules()
        if isinstance(module, CurloraLinear | LoraLayer)
    }


def rank_and_scale(layer: CurloraLinear | LoraLayer) -> tuple[int, float]:
    """Give the rank and the scale of a solo model's adapter on one layer."""
    if isinstance(layer, CurloraLinear):
        return len(default_factors(layer).rows), layer.cur_settings["default"].alpha
    return layer.r["default"], layer.scaling["default"]


def default_factors(layer: Any) -> Any:
    """Give the frozen factors of a solo model's CURLoRA adapter on one layer."""
    return layer.factors("default")


def tensor_places(tuned: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    """Give the layer and the part of every trained tensor of some tuned layers, by its `id`."""
    places: dict[int, tuple[str, str]] = {}
    for name, layer in tuned.items():
        if isinstance(layer, CurloraLinear):
            parts: dict[str, Any] = {"U": layer.cur_U["default"]}
        else:
            parts = {"A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight}
            if "default" in layer.lora_magnitude_vector:
                parts["M"] = layer.lora_magnitude_vector["default"].weight
        places |= {id(tensor): (name, part) for part, tensor in parts.items()}
    return places


def trained_tensors(model: nn.Module) -> tuple[dict[str, tuple[str, str]], dict[str, Tensor]]:
    """Give where each trained parameter of a solo model belongs, and its numbers."""
    places = tensor_places(tuned_layers(model))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: places[id(p)] for name, p in trained.items()}, {
        name: p.detach() for name, p in trained.items()
    }
