"""Which trial of a finished sweep is preferred, by another rule than the one that it was run with.

Nothing is trained or scored for it: another preference is another reading of the same trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.measures.objectives import MEASURES, NATURAL_DIRECTIONS, Direction, front
from orchestrator.measures.pareto import hypervolume
from orchestrator.system.wording import suggestion

Values = Mapping[str, float]

FORMS = (
    "`knee`, `hypervolume`, `weighted:gain=1,forgetting=-2` or "
    "`gain`, also with limits: `gain,forgetting<=0.05`"
)


@dataclass(frozen=True)
class Preference:
    """A rule by which one of several trials is picked."""

    text: str
    """As it was asked for."""
    kind: str
    """`measure`, `knee`, `weighted` or `hypervolume`."""
    measure: str = ""
    limits: tuple[tuple[str, str, float], ...] = ()
    """Of `measure`: measure, `<=` or `>=`, and number."""
    weights: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Preference:
        """Read a preference as a user writes it.

        Args:
            text: One of `FORMS`.

        Returns:
            The preference.

        Raises:
            ValueError: If it is none; the message says what was expected.
        """
        asked = text.strip()
        if asked in {"knee", "hypervolume"}:
            return cls(asked, asked)
        head, colon, rest = asked.partition(":")
        if colon and head == "weighted":
            pairs = [part.partition("=") for part in rest.split(",")]
            weights = tuple((_measure(name, asked), _number(v, asked)) for name, _, v in pairs)
            return cls(asked, "weighted", weights=weights)
        first, *others = asked.split(",")
        limits = tuple(_limit(part, asked) for part in others)
        return cls(asked, "measure", _measure(first, asked), limits)

    def pick(self, trials: Mapping[str, Values], objectives: Mapping[str, Direction]) -> str | None:
        """The trial that is preferred.

        Args:
            trials: By name, what each measured.
            objectives: The sweep's, with the direction that is better.

        Returns:
            Its name; None where none keeps the limits, or has every measure that is needed.
        """
        known = {n: v for n, v in trials.items() if not math.isnan(self._need(v, objectives))}
        kept = {n: v for n, v in known.items() if all(_keeps(v, *limit) for limit in self.limits)}
        if not kept:
            return None
        if self.kind == "measure":
            sign = 1.0 if NATURAL_DIRECTIONS[self.measure] == "max" else -1.0
            return max(kept, key=lambda name: sign * kept[name][self.measure])
        if self.kind == "weighted":
            return max(kept, key=lambda name: sum(w * kept[name][m] for m, w in self.weights))
        names = front(kept, objectives)
        goodness = _scaled([kept[name] for name in names], objectives)
        if self.kind == "hypervolume":
            unit: dict[str, Direction] = dict.fromkeys(objectives, "max")
            below = dict.fromkeys(objectives, -0.1)
            volumes = [hypervolume([values], unit, below) for values in goodness]
            return names[volumes.index(max(volumes))]
        sums = [sum(values.values()) for values in goodness]
        return names[sums.index(max(sums))]

    def _need(self, values: Values, objectives: Mapping[str, Direction]) -> float:
        """NaN where something that is needed of a trial was not measured."""
        names = {self.measure} if self.kind == "measure" else {name for name, _ in self.weights}
        names |= {name for name, _, _ in self.limits}
        if self.kind in {"knee", "hypervolume"}:
            names = {*objectives}
        return sum(values.get(name, math.nan) for name in names)


def _scaled(front_values: Sequence[Values], objectives: Mapping[str, Direction]) -> list[Values]:
    """Values from 0, the worst on the front, to 1, the best."""
    scaled: list[dict[str, float]] = [{} for _ in front_values]
    for name, direction in objectives.items():
        column = [values[name] for values in front_values]
        worst, best = (
            (min(column), max(column)) if direction == "max" else (max(column), min(column))
        )
        for place, value in enumerate(column):
            scaled[place][name] = (value - worst) / (best - worst) if best != worst else 1.0
    return list[Values](scaled)


def _keeps(values: Values, name: str, sign: str, bound: float) -> bool:
    return values[name] <= bound if sign == "<=" else values[name] >= bound


def _limit(part: str, asked: str) -> tuple[str, str, float]:
    for sign in ("<=", ">="):
        name, found, bound = part.partition(sign)
        if found:
            return _measure(name, asked), sign, _number(bound, asked)
    raise ValueError(f"{part.strip()!r} in {asked!r} is no limit, such as `forgetting<=0.05`")


def _measure(name: str, asked: str) -> str:
    if name.strip() in MEASURES:
        return name.strip()
    raise ValueError(
        f"{asked!r} is no preference: {name.strip()!r} is no measure."
        f"{suggestion(name.strip(), [*MEASURES, 'knee', 'hypervolume'])} A preference is {FORMS}; "
        f"measures: {', '.join(MEASURES)}"
    )


def _number(text: str, asked: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if math.isfinite(found):
        return found
    raise ValueError(f"{text.strip()!r} in {asked!r} is no number; a preference is {FORMS}")
