"""What LoRA and its variants share: settings, and how PEFT's config names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curlora_kinds.adapters.rank_and_dropout import DROPOUT, RANK
from curlora_kinds.settings import Number, Targets

LORA_CONFIG = "peft:LoraConfig"
LORA_SETTINGS = {
    "r": RANK,
    "target_modules": Targets(),
    "alpha": Number(
        16.0,
        "`lora_alpha`: the update is scaled by alpha / r (rsLoRA: by alpha / sqrt(r)).",
        nonzero=True,
    ),
    "dropout": DROPOUT,
}


def lora_arguments(**options: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make the arguments of PEFT's `LoraConfig` from complete settings.

    Args:
        options: What a variant has besides: the arguments that make it.

    Returns:
        A function from settings to arguments.
    """

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        return {
            "r": values["r"],
            "lora_alpha": values["alpha"],
            "lora_dropout": values["dropout"],
            "target_modules": values["target_modules"],
            **options,
        }

    return arguments


def positive_alpha(kind: str) -> Callable[[dict[str, Any]], None]:
    """Make the check of a variant that starts from singular values.

    Args:
        kind: Its name, for the message.

    Returns:
        A function that refuses complete settings whose `alpha` is negative.
    """

    def check(values: dict[str, Any]) -> None:
        if values["alpha"] < 0:
            raise ValueError(
                f"`alpha` must be positive for {kind!r}, got {values['alpha']!r}: its start "
                "divides singular values by alpha / r and takes the root."
            )

    return check
