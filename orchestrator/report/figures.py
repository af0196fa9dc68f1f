"""What the pictures of a report show, whatever draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COLOURS = ("#009E73", "#0072B2", "#D55E00", "#B5528C", "#C88A00", "#3A8FBF")
"""For the trials that stand out, the champion first (after Okabe and Ito, some darker)."""


MEASURE_WORDS = {
    "forgetting": "forgetting",
    "probe_drift": "probe drift (nats)",
    "cost_s": "device seconds",
    "cost_tokens": "training tokens",
}


def measure_words(name: str) -> str:
    """A measure as an axis names it."""
    return MEASURE_WORDS.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Dot:
    """One trial of a trade-off."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None
    """Of y."""
    role: str
    """champion, front, trial, or repeat (another trial with a fresh seed)."""
    group: str
    """The adapter's kind: its marker."""


@dataclass(frozen=True)
class TradeOff:
    """Two measures against each other."""

    x: str
    y: str
    dots: tuple[Dot, ...]
    best: tuple[str, ...]
    """The trials that no other beats in these two measures, by x."""
    missing: int
    """Trials that lack one of the two."""
    base: bool
    """Whether the untouched base stands at (0, 0)."""


@dataclass(frozen=True)
class Series:
    """One line of a picture."""

    name: str
    points: tuple[tuple[float, float], ...]
    """NaN in y breaks the line."""
    role: str
    """A trial's role, or control."""
    colour: int | None
    """Index into `COLOURS`, None for the many in the background."""


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()
    """Names of x = 0, 1, ... where x counts things; empty where it is a number."""
    marks: tuple[tuple[float, str], ...] = ()
    """Upright lines with a name, e.g. where a task begins."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Axis:
    """One upright axis of the parallel coordinates."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    """Place from 0 (bottom) to 1 and text."""
    searched: bool
    """A setting; otherwise a measure."""


@dataclass(frozen=True)
class Parallel:
    """Settings and measures of every trial side by side."""

    axes: tuple[Axis, ...]
    lines: tuple[tuple[Series, float], ...]
    """Points are (axis, place), NaN where the trial has no value; the number is the place of its
    gain from 0 to 1, NaN without one."""


@dataclass(frozen=True)
class Figures:
    """Every picture of a report."""

    trade_offs: tuple[TradeOff, ...]
    learning: Curves | None
    forgetting: tuple[Curves, ...]
    parallel: Parallel | None
    colours: Mapping[str, int] = field(default_factory=dict)
    """The trials that stand out, and their colours in every picture."""
    undrawn: int = 0
    """Trials that the curves leave out."""
