"""The adapters a run can name, each from the plain settings of an experiment file.

This module imports neither torch nor PEFT until a config is built. Every adapter in `ADAPTERS` goes
through the same tests (`tests/curlora/test_every_adapter.py`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig

_CURLORA_SETTINGS = (
    "r",
    "alpha",
    "temperature",
    "target_modules",
    "selection_seed",
    "selection",
    "eps",
    "with_replacement",
    "preset",
)
_LORA_SETTINGS = ("r", "alpha", "dropout", "target_modules")
_LORA_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}


def _curlora(settings: Mapping[str, Any]) -> PeftConfig:
    from curlora.curlora import CurloraConfig

    return CurloraConfig(**_only("curlora", settings, _CURLORA_SETTINGS))


def _lora(settings: Mapping[str, Any]) -> PeftConfig:
    from peft import LoraConfig

    known = _only("lora", settings, _LORA_SETTINGS)
    return LoraConfig(**{_LORA_NAMES.get(name, name): value for name, value in known.items()})


ADAPTERS: dict[str, Callable[[Mapping[str, Any]], PeftConfig]] = {
    "curlora": _curlora,
    "lora": _lora,
}
"""From the name of a kind to what builds its PEFT config from a mapping of settings."""


def adapter_config(kind: str, settings: Mapping[str, Any]) -> PeftConfig:
    """Build the PEFT config of an adapter.

    Args:
        kind: A key of `ADAPTERS`.
        settings: For `curlora`: r, alpha, temperature, target_modules, selection_seed, selection,
            eps, with_replacement, preset. For `lora`: r, alpha, dropout, target_modules. All
            optional.

    Returns:
        A config for `peft.get_peft_model`.

    Raises:
        ValueError: The kind or a setting is unknown, or a setting is outside its range.
    """
    if kind not in ADAPTERS:
        raise ValueError(f"Unknown adapter {kind!r}.{_nearest(kind, ADAPTERS)}")
    return ADAPTERS[kind](settings)


def _only(kind: str, settings: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    for name in settings:
        if name not in known:
            raise ValueError(f"Adapter {kind!r} has no setting {name!r}.{_nearest(name, known)}")
    values = dict(settings)
    rank = values.get("r", 1)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`r` must be a whole number of at least 1, got {rank!r}.")
    alpha = values.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"`alpha` must be a finite number, got {alpha!r}.")
    if isinstance(values.get("target_modules"), tuple):
        values["target_modules"] = list(values["target_modules"])
    return values


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."
