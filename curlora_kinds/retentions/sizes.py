"""How many bytes a retention will carry, from shapes alone: no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curlora_kinds.adapters.table import adapter_kind as known_adapter
from curlora_kinds.retentions.state import WORD_BYTES, Layers, Part, Setup
from curlora_kinds.retentions.table import RETENTIONS


@dataclass(frozen=True)
class Size:
    """What a retention's state takes on each worker."""

    bytes: int
    """Exactly `Retention.state_bytes()`."""
    arithmetic: str
    """How it comes about, in one line."""


def state_size(
    kind: str,
    settings: Mapping[str, Any],
    *,
    adapter_kind: str,
    r: int,
    layers: Layers,
    trained: int,
    tasks: int,
    tokens_per_example: float,
) -> Size:
    """Predict the size of a retention's state after any number of tasks.

    Each layer's input factor counts on its own, also where q, k and v are given the same input and
    could share one.

    Args:
        kind: A key of `RETENTIONS`.
        settings: Some of its settings.
        adapter_kind: A key of `ADAPTERS`.
        r: The adapter's rank; not read where the adapter has none.
        layers: (d_out, d_in) of each adapted layer by name.
        trained: Trained parameters of the adapter.
        tasks: How many tasks the sequence has.
        tokens_per_example: Mean length of a training example. Replay keeps references, so it only
            says what they stand for.

    Returns:
        Bytes and arithmetic, for parameters in float32 or below.

    Raises:
        ValueError: The kind is unknown or does not go with the adapter, or a setting is wrong.
    """
    if kind not in RETENTIONS:
        raise ValueError(f"Unknown retention {kind!r}. Known: {', '.join(RETENTIONS)}.")
    reason = RETENTIONS[kind].refuses(adapter_kind, {**settings, "r": r})
    if reason:
        raise ValueError(f"Retention {kind!r} does not go with adapter {adapter_kind!r}. {reason}")
    values = RETENTIONS[kind].complete(settings)
    adapter = known_adapter(adapter_kind)
    state = RETENTIONS[kind].state(
        Setup(values, adapter, r, layers, trained, tasks, tokens_per_example)
    )
    parts = list(state.parts)
    if state.scalars:
        parts.append(Part(f"{state.scalars} scalars", state.scalars, WORD_BYTES))
    total = sum(part.numbers * part.width for part in parts)
    sums = " + ".join(f"{part.text} x {part.width} bytes" for part in parts) or "nothing"
    title = f"{kind} {state.form}".strip()
    return Size(total, f"{title}: {sums} = {_readable(total)}{state.remark}")


def _readable(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
