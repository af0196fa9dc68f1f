"""What a retention carries from task to task, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curlora_kinds.adapters.kind import AdapterKind

FLOAT_BYTES = 4
"""Statistics are in float32 (a base in float64 is for tests alone)."""
WORD_BYTES = 8
"""Settings are float64, counts and references int64."""

Layers = Mapping[str, tuple[int, int]]
"""(d_out, d_in) of each adapted layer by name."""


@dataclass(frozen=True)
class Setup:
    """What the size of a state follows from."""

    values: Mapping[str, Any]
    """A full set of the retention's settings."""
    adapter: AdapterKind
    r: int
    """The adapter's rank."""
    layers: Layers
    trained: int
    """Trained parameters of the adapter."""
    tasks: int
    """How many tasks the sequence has."""
    tokens_per_example: float
    """Mean length of a training example."""


@dataclass(frozen=True)
class Part:
    """So many numbers, and how to say it."""

    text: str
    numbers: int
    width: int = FLOAT_BYTES


@dataclass(frozen=True)
class State:
    """All that is carried."""

    parts: tuple[Part, ...] = ()
    """What grows with the adapter, or with what is kept of examples."""
    scalars: int = 0
    """Settings and counters among it."""
    form: str = ""
    """Which form of the retention, where it has several."""
    remark: str = ""
    """What else is to be known of its size."""


def earlier_adapters(setup: Setup) -> Part:
    """Give the room for an adapter of every task.

    Args:
        setup: What it follows from.

    Returns:
        One part.
    """
    text = f"{setup.tasks} tasks x {setup.trained:,} parameters"
    return Part(text, setup.tasks * setup.trained)


def references(setup: Setup) -> Part:
    """Give what is kept of earlier examples: where they stand.

    Args:
        setup: What it follows from.

    Returns:
        One part.
    """
    capacity = int(setup.values["capacity"])
    return Part(f"{capacity:,} references x 2", 2 * capacity, WORD_BYTES)


def rows_elsewhere(setup: Setup) -> str:
    """Say what the references stand for.

    Args:
        setup: What it follows from.

    Returns:
        The end of a sentence.
    """
    tokens = round(setup.values["capacity"] * setup.tokens_per_example)
    return f"; the rows referred to, about {tokens:,} tokens, stay in the training sets"
