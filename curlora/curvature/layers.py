"""The layers of a model whose update is a product of matrices, and the parameters it is made of."""

import re
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from curlora.adapters.curlora_layer import CurloraLinear
from curlora.curvature.observation import AdaptedLayer, Params, statistic

PARAMETER = re.compile(
    r"^(?P<layer>.+)\.(?P<part>lora_A|lora_B|cur_U)\.(?P<adapter>[^.]+)(?:\.weight)?$"
)


def lora_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Give the two parameters of each LoRA layer.

    Args:
        names: Names of parameters.

    Returns:
        (A, B) of each, in order.
    """
    known = set(names)
    pairs = [(name, name.replace(".lora_A.", ".lora_B.")) for name in names if ".lora_A." in name]
    return [(A, B) for A, B in pairs if B in known]


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of a parameter, also of one that ZeRO stage 3 has released, which is empty."""
    return getattr(parameter, "ds_shape", parameter.shape)


def adapted_layers(model: nn.Module, params: Params) -> dict[str, AdaptedLayer]:
    """Describe the layers whose update is a product: those with LoRA's factors or CURLoRA's U.

    Args:
        model: A PEFT model.
        params: Its trainable parameters by name.

    Returns:
        By the layer's name in `model`. Layers adapted in another way are left out.
    """
    layers: dict[str, AdaptedLayer] = {}
    for name, parameter in params.items():
        found = PARAMETER.match(name)
        if found is None or found["part"] == "lora_B":
            continue
        layer = model.get_submodule(found["layer"])
        if isinstance(layer, CurloraLinear):
            factors = layer.factors(found["adapter"])
            C, R = statistic(factors.C), statistic(factors.R)
            layers[found["layer"]] = AdaptedLayer(
                (C.shape[0], R.shape[1]), layer.cur_settings[found["adapter"]].alpha, (C, name, R)
            )
        elif (second := name.replace(".lora_A.", ".lora_B.")) in params:
            layers[found["layer"]] = AdaptedLayer(
                (whole_shape(params[second])[0], whole_shape(parameter)[1]),
                float(cast(Any, layer).scaling[found["adapter"]]),
                (second, name),
            )
    return layers
