"""The choice of a champion among candidates: by a stated preference within limits, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.measures.intervals import Interval
from orchestrator.measures.objectives import NATURAL_DIRECTIONS


@dataclass(frozen=True)
class Candidate:
    """A finished trial as the choice of a champion sees it."""

    name: str
    values: Mapping[str, float]
    gain_interval: Interval


@dataclass(frozen=True)
class Verdict:
    """Who is champion and why, or why nobody is."""

    champion: str | None
    reason: str


def best_candidate(
    candidates: Sequence[Candidate], *, maximize: str, subject_to: Mapping[str, float]
) -> Candidate:
    """The best of some candidates: those that keep every limit come first.

    Args:
        candidates: At least one.
        maximize: The measure that decides, as in `choose_champion`.
        subject_to: Limits by measure.

    Returns:
        The candidate.
    """
    sign = 1.0 if NATURAL_DIRECTIONS[maximize] == "max" else -1.0
    return max(
        candidates,
        key=lambda c: (
            all(_keeps(c, name, limit) for name, limit in subject_to.items()),
            _or_worst(sign * c.values[maximize]),
        ),
    )


def best_candidates(
    candidates: Sequence[Candidate], most: int, *, maximize: str, subject_to: Mapping[str, float]
) -> list[Candidate]:
    """The best so many of some candidates, in the order that they were given in."""
    left, chosen = list(candidates), list[Candidate]()
    while left and len(chosen) < most:
        chosen.append(best_candidate(left, maximize=maximize, subject_to=subject_to))
        left.remove(chosen[-1])
    return [candidate for candidate in candidates if candidate in chosen]


def choose_champion(
    candidates: Sequence[Candidate],
    *,
    maximize: str,
    subject_to: Mapping[str, float],
    compared: int = 1,
    basis: str = "",
    reference: str = "the untouched base",
) -> Verdict:
    """Choose the champion by a stated preference, or nobody.

    A champion must beat the untouched base beyond doubt (its interval of `gain`, made together with
    those of all that were tried, lies above 0) and keep every limit; among those, the largest
    `maximize` wins.

    Args:
        candidates: The finished trials.
        maximize: The measure that decides; for measures where less is better, the least wins.
            A trial of which it was not measured is never chosen.
        subject_to: Limits by measure: at most, or at least where more is better.
        compared: For how many trials the intervals allow, for the reason.
        basis: What the values stand on ("on 2 fresh seeds ..."), for the reason.
        reference: What `gain` is measured against, for the reason.

    Returns:
        The verdict, whose reason is a sentence for people.
    """
    if not candidates:
        return Verdict(None, "no trial finished")
    choice = f" that allows for the choice among {compared} trials" if compared > 1 else ""
    stands = f" ({basis})" if basis else ""
    convincing = [c for c in candidates if c.gain_interval.excludes_zero_from_below]
    if not convincing:
        best = max(candidates, key=lambda c: _or_worst(c.values["gain"]))
        joined = " and" if choice else " that"
        return Verdict(
            None,
            f"no method beats {reference}: even the largest gain, "
            f"{best.values['gain']:+.3f} of {best.name}{stands}, has a 95 % interval "
            f"{_interval_words(best.gain_interval)}{choice}{joined} does not lie above 0",
        )
    limits = ", ".join(
        f"{name} {_limit_sign(name)} {limit:g}" for name, limit in subject_to.items()
    )
    allowed = [
        c
        for c in convincing
        if all(_keeps(c, n, limit) for n, limit in subject_to.items())
        and math.isfinite(c.values[maximize])
    ]
    if not allowed:
        return Verdict(
            None,
            f"{len(convincing)} of {len(candidates)} trials beat {reference}, "
            f"but none keeps {limits or f'a measured {maximize}'}{stands}",
        )
    winner = best_candidate(allowed, maximize=maximize, subject_to=subject_to)
    word = "largest" if NATURAL_DIRECTIONS[maximize] == "max" else "smallest"
    of_all = f" among the {len(allowed)} of {len(candidates)} that beat {reference}"
    among = f"{of_all} and keep {limits}" if limits else of_all
    return Verdict(
        winner.name,
        f"{word} {maximize} ({winner.values[maximize]:+.3f}){among}; its gain of "
        f"{winner.values['gain']:+.3f} has a 95 % interval "
        f"{_interval_words(winner.gain_interval)}{choice}{stands}",
    )


def _interval_words(interval: Interval) -> str:
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]"


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _limit_sign(measure: str) -> str:
    return ">=" if NATURAL_DIRECTIONS[measure] == "max" else "<="


def _keeps(candidate: Candidate, measure: str, limit: float) -> bool:
    value = candidate.values[measure]
    # NaN keeps no limit: what was not measured cannot be vouched for.
    return value >= limit if NATURAL_DIRECTIONS[measure] == "max" else value <= limit
