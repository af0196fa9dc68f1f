"""How soon a sweep knows, with and without early stopping: recorded trials replayed in seconds.

    python -m benchmarks.decisions benchmarks/decisions/*.parquet [--write]

Each recorded trial costs what it did (tokens learnt and scored); several run at a time. A policy is
asked at every rung, and what it stops frees its place. All policies get the same random order of
the recorded configurations, 20 seeds, and each sequence is replayed by itself. Of the trials that
are whole at a budget: the hypervolume of their objectives, and the regret of the pick, the best
gain that keeps the champion's limits. `--write` puts what comes out into
`benchmarks/decisions.json` and `benchmarks/decisions.md`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decision_curves import Curve, Moment, read
from benchmarks.decision_policies import policy
from benchmarks.decision_searchers import AtRandom, Nsga, Ours, Searcher
from orchestrator.measures.objectives import Direction
from orchestrator.measures.pareto import hypervolume
from orchestrator.sweep.deciding.race import Rung, pessimistic

OBJECTIVES: dict[str, Direction] = {"gain": "max", "forgetting": "min", "probe_drift": "min"}
LIMITS = {"probe_drift": 0.2}
POLICIES = (
    "no stopping", "race", "asha", "hyperband", "median", "moasha", "nsga-ii", "select",
    "select, stopped trials dropped", "select, no stopping",
)  # fmt: skip
"""What stops trials, in a random order; and who proposes them as well."""
AT_A_TIME = 4
SEEDS = 20
BUDGETS = tuple(share / 10 for share in range(1, 11))
"""Of what all trials cost without stopping."""
ENOUGH = 0.95
"""Of the hypervolume of all trials."""


@dataclass(frozen=True)
class Replay:
    """What happened in one replay."""

    whole: tuple[tuple[float, Curve], ...]
    """When each trial was whole: compute spent by all until then."""
    stopped: tuple[Curve, ...]
    spent: float


def replay(curves: Sequence[Curve], name: str, seed: int) -> Replay:
    """Run recorded trials under a policy.

    Args:
        curves: Of one sequence.
        name: The policy's.
        seed: Of the order.

    Returns:
        What came out.
    """
    rungs = list(curves[0].rungs)
    searcher = _searcher(curves, name, seed)
    asked = policy(_STOPPING.get(name, name), OBJECTIVES, LIMITS, len(rungs))
    running: list[tuple[float, int, Curve, int]] = []
    spent, whole, stopped = 0.0, list[tuple[float, Curve]](), list[Curve]()
    begun = 0

    def begin(now: float) -> None:
        nonlocal begun
        while len(running) < AT_A_TIME and (curve := searcher.next()) is not None:
            begun += 1
            heapq.heappush(running, (now + _cost(curve, 0), begun, curve, 0))

    begin(0.0)
    while running:
        now, ticket, curve, place = heapq.heappop(running)
        spent += _cost(curve, place)
        rung, moment = list(curve.rungs.items())[place]
        if place + 1 == len(curve.rungs):
            asked.ends(curve)
            whole.append((spent, curve))
            searcher.tell(curve, curve.end.values, moment.cost)
        elif asked.stops(curve, rung, rungs.index(rung) + 1, moment):
            asked.ends(curve)
            stopped.append(curve)
            told = None if "dropped" in name else _told(moment, rung, [c for _, c in whole])
            searcher.tell(curve, told, moment.cost)
        else:
            heapq.heappush(running, (now + _cost(curve, place + 1), ticket, curve, place + 1))
        begin(now)
    return Replay(tuple(whole), tuple(stopped), spent)


_STOPPING = {
    "nsga-ii": "no stopping", "select": "race", "select, stopped trials dropped": "race",
    "select, no stopping": "no stopping",
}  # fmt: skip


def _searcher(curves: Sequence[Curve], name: str, seed: int) -> Searcher:
    if name == "nsga-ii":
        return Nsga(curves, OBJECTIVES, seed)
    return Ours(curves, OBJECTIVES, seed) if name.startswith("select") else AtRandom(curves, seed)


def _told(moment: Moment, rung: Rung, whole: Sequence[Curve]) -> dict[str, float] | None:
    """What a searcher is told of a stopped trial."""
    finished = [(c.rungs[rung].values, c.end.values) for c in whole if rung in c.rungs]
    return pessimistic(OBJECTIVES, moment.values, finished)


def _cost(curve: Curve, place: int) -> float:
    """Of the way from the rung before to a rung."""
    moments = list(curve.rungs.values())
    return moments[place].cost - (moments[place - 1].cost if place else 0.0)


def pick(curves: Sequence[Curve]) -> Curve | None:
    """The trial of the largest gain that keeps the limits."""
    kept = [c for c in curves if all(c.end.values[n] <= bound for n, bound in LIMITS.items())]
    return max(kept, key=lambda curve: curve.end.values["gain"], default=None)


def reference(curves: Sequence[Curve]) -> dict[str, float]:
    """The worst value that counts: of the untouched base, or at the limit. Gain 0 is the base's."""
    worst = max((c.end.values["forgetting"] for c in curves), default=0.0)
    return {"gain": -0.02, "forgetting": max(0.02, worst), "probe_drift": LIMITS["probe_drift"]}


def volume(curves: Sequence[Curve], bound: Mapping[str, float]) -> float:
    """The hypervolume of some whole trials."""
    return hypervolume([curve.end.values for curve in curves], OBJECTIVES, bound)


def summary(curves: Sequence[Curve], name: str, seeds: int = SEEDS) -> dict[str, Any]:
    """What a policy makes of a sequence, over all seeds.

    Args:
        curves: Of one sequence.
        name: The policy's.
        seeds: How many.

    Returns:
        By seed: share of the whole compute until 95 % of the hypervolume, share spent in all,
        whether the pick of all was stopped; and for each budget hypervolume and regret.
    """
    everything = sum(curve.end.cost for curve in curves)
    bound = reference(curves)
    most, best = volume(curves, bound), pick(curves)
    found: dict[str, Any] = {"enough": [], "spent": [], "lost": [], "volume": [], "regret": []}
    for seed in range(seeds):
        ran = replay(curves, name, seed)
        at = math.inf
        for place in range(1, len(ran.whole) + 1):
            if volume([c for _, c in ran.whole[:place]], bound) >= ENOUGH * most:
                at = ran.whole[place - 1][0] / everything
                break
        found["enough"].append(at)
        found["spent"].append(ran.spent / everything)
        found["lost"].append(best is not None and best in ran.stopped)
        reached = [
            [c for t, c in ran.whole if t <= share * everything * (1 + 1e-9)] for share in BUDGETS
        ]
        found["volume"].append([volume(own, bound) / most if most else 1.0 for own in reached])
        found["regret"].append([_regret(own, best) for own in reached])
    return found


def _regret(own: Sequence[Curve], best: Curve | None) -> float:
    """By how much less the pick gains than the best; picking nothing is the untouched base."""
    mine = pick(own)
    gained = 0.0 if mine is None else mine.end.values["gain"]
    return (0.0 if best is None else best.end.values["gain"]) - gained


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of a mean over seeds (bootstrap, 2,000 resamples)."""
    values = np.asarray(differences, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def available(name: str) -> bool:
    """Whether a policy's package is installed here."""
    if name != "moasha":
        return True
    try:
        import syne_tune  # noqa: F401
    except ImportError:
        return False
    return True


def compare(curves: Sequence[Curve], seeds: int = SEEDS) -> dict[str, dict[str, Any]]:
    """Every policy on one sequence: means over seeds, and what the race is beside each.

    Args:
        curves: Of the sequence.
        seeds: How many.

    Returns:
        By policy.
    """
    raw = {name: summary(curves, name, seeds) for name in POLICIES if available(name)}
    race = raw["race"]
    table: dict[str, dict[str, Any]] = {}
    for name, found in raw.items():
        enough = [value for value in found["enough"] if math.isfinite(value)]
        table[name] = {
            "compute to 95 % of the hypervolume": statistics.fmean(enough) if enough else None,
            "seeds": len(found["enough"]),
            "seeds that reached it": len(enough),
            "compute in all": statistics.fmean(found["spent"]),
            "seeds whose pick was stopped": sum(found["lost"]),
            "volume": [statistics.fmean(column) for column in zip(*found["volume"], strict=True)],
            "regret": [statistics.fmean(column) for column in zip(*found["regret"], strict=True)],
        }
        if name != "race":
            for what in ("volume", "regret"):
                columns = zip(
                    zip(*race[what], strict=True), zip(*found[what], strict=True), strict=True
                )
                table[name][f"race minus this, {what}"] = [
                    interval([a - b for a, b in zip(mine, other, strict=True)])
                    for mine, other in columns
                ]
    return table


def page(results: Mapping[str, Mapping[str, dict[str, Any]]], counts: Mapping[str, int]) -> str:
    """The results as Markdown."""
    lines = [
        "# Decisions: recorded trials replayed", "",
        "Written by `python -m benchmarks.decisions benchmarks/decisions/*.parquet --write`; what "
        "it does stands at the top of `benchmarks/decisions.py`.", "",
    ]  # fmt: skip
    for sequence, table in results.items():
        lines += [f"## {sequence}: {counts[sequence]} recorded trials", ""]
        lines += ["| policy | compute to 95 % of the hypervolume | compute in all | seeds that "
                  "stopped the best pick | regret at 10 %, 30 %, 50 %, 100 % |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for name, row in table.items():
            enough = row["compute to 95 % of the hypervolume"]
            reached = row["seeds that reached it"]
            shown = "-" if enough is None else f"{enough:.2f}"
            seeds = row["seeds"]
            shown += "" if reached == seeds else f" ({reached} of {seeds} seeds)"
            regret = ", ".join(f"{row['regret'][place]:.3f}" for place in (0, 2, 4, 9))
            lines.append(
                f"| {name} | {shown} | {row['compute in all']:.2f} | "
                f"{row['seeds whose pick was stopped']} | {regret} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Replay the recordings that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    by_sequence: dict[str, list[Curve]] = {}
    for curve in read(asked.recordings):
        if all(math.isfinite(curve.end.values.get(name, math.nan)) for name in OBJECTIVES):
            by_sequence.setdefault(curve.sequence, []).append(curve)
    results = {name: compare(curves, asked.seeds) for name, curves in by_sequence.items()}
    text = page(results, {name: len(curves) for name, curves in by_sequence.items()})
    print(text)
    if asked.write:
        folder = Path(__file__).parent
        (folder / "decisions.json").write_text(json.dumps(results, indent=1) + "\n")
        (folder / "decisions.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
