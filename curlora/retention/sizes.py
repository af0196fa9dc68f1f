"""How many bytes a retention will carry, from shapes alone: no model and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curlora.adapters.table import adapter_kind as known_adapter
from curlora.retention.table import RETENTIONS

_FLOAT = 4
"""Statistics are in float32 (a base in float64 is for tests alone)."""
_WORD = 8
"""Settings are float64, counts and references int64."""

# Settings and counters among the state, beside what grows with the adapter.
_SCALARS = {"none": 0, "ewc": 2, "ewc_weight": 3, "laplace": 3, "replay": 4, "ilora": 7, "olora": 3}

Layers = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Size:
    """What a retention's state takes on each worker."""

    bytes: int
    """Exactly `Retention.state_bytes()`."""
    arithmetic: str
    """How it comes about, in one line."""


@dataclass(frozen=True)
class _Part:
    """So many numbers, and how to say it."""

    text: str
    numbers: int
    width: int = _FLOAT


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
    title, remark, parts = kind, "", []
    if kind == "ewc":
        parts = [_Part(f"2 x {trained:,} parameters", 2 * trained)]
    elif kind == "laplace":
        title = f"laplace {values['curvature']}"
        parts = _laplace(values["curvature"], adapter_kind, r, layers, trained)
    elif kind == "ewc_weight":
        parts = _ewc_weight(adapter_kind, r, layers, trained, tasks)
    elif kind == "olora":
        parts = [_earlier(trained, tasks)]
    elif kind in {"replay", "ilora"}:
        capacity = values["capacity"]
        parts = [_Part(f"{capacity:,} references x 2", 2 * capacity, _WORD)]
        if kind == "ilora":
            parts.append(_Part(f"{trained:,} slow parameters", trained))
        tokens = round(capacity * tokens_per_example)
        remark = f"; the rows referred to, about {tokens:,} tokens, stay in the training sets"
    taken = 1 if kind == "laplace" and values["curvature"] in {"kfac", "tri_kfac"} else 0
    scalars = _SCALARS[kind] + taken
    if scalars:
        parts.append(_Part(f"{scalars} scalars", scalars, _WORD))
    total = sum(part.numbers * part.width for part in parts)
    sums = " + ".join(f"{part.text} x {part.width} bytes" for part in parts) or "nothing"
    return Size(total, f"{title}: {sums} = {_readable(total)}{remark}")


def _laplace(
    curvature: str, adapter_kind: str, r: int, layers: Layers, trained: int
) -> list[_Part]:
    anchor = _Part(f"{trained:,} anchors", trained)
    if curvature == "diag":
        return [anchor, _Part(f"{trained:,} parameters", trained)]
    parts = [anchor]
    two_factors = known_adapter(adapter_kind).linear_factors == "lora"
    for (d_out, d_in), count in Counter(layers.values()).items():
        if curvature == "full":
            sides = {f"({r}^2)^2": r**4}
        elif two_factors:
            sides = {f"{d_in}^2": d_in**2, f"2 x {r}^2": 2 * r**2, f"{d_out}^2": d_out**2}
            if d_in == d_out:
                sides = {f"2 x {d_in}^2": 2 * d_in**2, f"2 x {r}^2": 2 * r**2}
            if curvature == "tri_kfac":
                sides[f"{r} x {d_in + d_out}"] = r * (d_in + d_out)
        else:
            sides = {f"2 x {r}^2": 2 * r**2}
        text = f"{count} layers x ({' + '.join(sides)})"
        parts.append(_Part(text, count * sum(sides.values())))
    return parts


def _ewc_weight(adapter_kind: str, r: int, layers: Layers, trained: int, tasks: int) -> list[_Part]:
    parts = [_earlier(trained, tasks), _Part(f"{len(layers)} scales", len(layers), _WORD)]
    frozen = known_adapter(adapter_kind).linear_factors == "core"
    for (d_out, d_in), count in Counter(layers.values()).items():
        text, numbers = f"{d_out} x {d_in}", d_out * d_in
        if frozen:
            text, numbers = f"({text} + {r} x {d_out + d_in})", numbers + r * (d_out + d_in)
        parts.append(_Part(f"{count} layers x {text}", count * numbers))
    return parts


def _earlier(trained: int, tasks: int) -> _Part:
    return _Part(f"{tasks} tasks x {trained:,} parameters", tasks * trained)


def _readable(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
