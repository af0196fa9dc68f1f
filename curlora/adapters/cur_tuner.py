"""What the tuners of CURLoRA and SECURA share: default targets, and weights held by two modules."""

from typing import Any

from torch import nn

from curlora.targets import known_targets

TARGETS_BY_FAMILY: dict[str, Any] = {
    family: names if isinstance(names, str) else list(names)
    for family, names in known_targets().items()
}


def holds_shared_weight(model: nn.Module, layer: nn.Module) -> bool:
    """Say whether another module holds a layer's weight too, as an embedding does a tied head's.

    Args:
        model: The whole model.
        layer: One of its layers.

    Returns:
        Whether writing into the weight would change another module.
    """
    weight = getattr(layer, "weight", None)
    return isinstance(weight, nn.Parameter) and any(
        parameter is weight
        for module in model.modules()
        if module is not layer
        for parameter in module._parameters.values()
    )
