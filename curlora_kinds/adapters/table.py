"""The adapters a run can name: one table, from a kind to all that is known of it in advance.

A kind says how its PEFT config is made of the plain settings of an experiment file, which settings
it has and what they may be, whether it touches the base, how many numbers it will train, and what
it does not go with. Every kind goes through the same tests (`tests/curlora/adapters/test_table.py`,
`tests/orchestrator/spec/test_setting_bounds.py`); `curlora.attach` puts one on a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from curlora_kinds.adapters import (
    curlora,
    full,
    head_only,
    miss,
    osf,
    randlora,
    secura,
    tinylora,
)
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family import corda, dora, lora, mica, pissa, rslora
from curlora_kinds.settings import nearest
from curlora_kinds.table import Table

if TYPE_CHECKING:
    from peft import PeftConfig


def _is_kind(thing: object) -> TypeGuard[AdapterKind]:
    return isinstance(thing, AdapterKind)


ADAPTERS: Table[AdapterKind] = Table(
    "adapter",
    (
        curlora.KIND,
        secura.KIND,
        lora.KIND,
        rslora.KIND,
        dora.KIND,
        pissa.KIND,
        corda.KIND,
        mica.KIND,
        miss.KIND,
        osf.KIND,
        tinylora.KIND,
        randlora.KIND,
        full.KIND,
        head_only.KIND,
    ),
    takes=_is_kind,
    name_of=lambda kind: kind.name,
)
"""From the name of a kind to what is known of it."""


def adapter_kind(kind: str) -> AdapterKind:
    """Give an entry of the table.

    Args:
        kind: A key of `ADAPTERS`.

    Returns:
        What is known of it.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in ADAPTERS:
        raise ValueError(f"Unknown adapter {kind!r}.{nearest(kind, ADAPTERS)}")
    return ADAPTERS[kind]


def adapter_config(kind: str, settings: Mapping[str, Any]) -> PeftConfig:
    """Build the PEFT config of an adapter.

    Args:
        kind: A key of `ADAPTERS`.
        settings: Some of the names of the kind's `settings`.

    Returns:
        A config for `peft.get_peft_model`.

    Raises:
        ValueError: The kind or a setting is unknown, a setting is outside its range, or the kind
            adds nothing to the base.
    """
    config = adapter_kind(kind).build(settings)
    if config is None:
        raise ValueError(
            f"Adapter {kind!r} adds nothing to the base, so it has no PEFT config. "
            "Use `curlora.attach`, which prepares the base for it."
        )
    return config


def packed_adapters() -> tuple[str, ...]:
    """Name the kinds that many of can be trained on one base (`curlora.packing`)."""
    return tuple(kind.name for kind in ADAPTERS.values() if kind.packs_as)


def quantisation_refuses(adapter_kind: str, quantization: str | None) -> str | None:
    """Why an adapter cannot be trained on a quantised base.

    Args:
        adapter_kind: A kind of `ADAPTERS`.
        quantization: The form of quantisation, or None for a base of floating-point numbers.

    Returns:
        A sentence, or None where nothing is in the way.
    """
    reason = ADAPTERS[adapter_kind].quantised
    if quantization is None or reason is None:
        return None
    fitting = ", ".join(name for name, kind in ADAPTERS.items() if kind.quantised is None)
    return (
        f"the adapter {adapter_kind!r} {reason}; remove `model.quantization` (now "
        f"{quantization!r}), or use one of: {fitting}"
    )


def sharding_refuses(adapter_kind: str, stage: int | None) -> str | None:
    """Why an adapter cannot be trained by DeepSpeed over a base that ZeRO stage 3 has sharded.

    Args:
        adapter_kind: A kind of `ADAPTERS`.
        stage: ZeRO stage of the DeepSpeed engine, None for the plain engine of one process.

    Returns:
        A sentence, or None where nothing is in the way.
    """
    reason = ADAPTERS[adapter_kind].partitioned
    if reason is None or stage != 3:
        return None
    return (
        f"the adapter {adapter_kind!r} {reason}, and ZeRO stage 3 has sharded them; use stage 0, 1 "
        "or 2"
    )
