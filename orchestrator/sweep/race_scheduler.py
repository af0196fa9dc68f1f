"""The race as a scheduler of Ray Tune, for trials of any kind: `orchestrator.RaceScheduler`."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.measures.objectives import NATURAL_DIRECTIONS, Direction
from orchestrator.measures.paired import Parts
from orchestrator.sweep.deciding.race import Race, RaceRules, Rung, Stop

logger = logging.getLogger(__name__)


class RaceScheduler(FIFOScheduler):
    """Stops trials that are behind in several objectives beyond doubt; see `Race`.

    Trials report their objectives and, by objective, the score of each validation example::

        tune.report({"accuracy": 0.75, "cost": 3.0, "per_example": {"accuracy": [1, 1, 0, 1]}})

    All trials have to be scored on the same examples, in the same order. The means of an
    objective's scores are the objective, but for a constant that all trials share; where it is a
    sum over several sets of examples, they may be given by set, `{"set": [...], ...}`, each with
    its weight in its scores. An objective without scores counts in the order of trials, and stops
    none.
    """

    def __init__(
        self,
        objectives: Mapping[str, Direction],
        rungs: Sequence[float],
        *,
        deciding: str | None = None,
        limits: Mapping[str, float] | None = None,
        time_attr: str = "training_iteration",
        examples: str = "per_example",
        keep: float = 1 / 3,
        confidence: float = 0.95,
    ) -> None:
        """Begin without trials.

        Args:
            objectives: By the name under which trials report them, `max` or `min`.
            rungs: The values of `time_attr` at which trials are compared, rising; a trial is at a
                rung with the first report that has come so far.
            deciding: The objective that the best trial is chosen by; None: the first.
            limits: By objective, the most that it may be, or the least where more is better: a
                trial that is beyond one beyond doubt is stopped.
            time_attr: How far a trial is, under which it reports that.
            examples: Under which trials report the scores of examples.
            keep: Share of the trials at a rung that goes on in any case, in (0, 1).
            confidence: With which a trial that is no worse than those is not stopped, in (0, 1).

        Raises:
            ValueError: If an argument is not as said.
        """
        super().__init__()
        chosen = deciding if deciding is not None else next(iter(objectives), "")
        self._names = tuple(dict.fromkeys((*objectives, chosen, *(limits or {}))))
        unknown = [n for n in self._names if n not in objectives and n not in NATURAL_DIRECTIONS]
        if unknown:
            raise ValueError(
                f"`deciding` and `limits` name objectives or measures of this package; {unknown} "
                f"are none. Objectives: {[*objectives]}."
            )
        wrong = {name: way for name, way in objectives.items() if way not in {"max", "min"}}
        if wrong:
            raise ValueError(f"An objective is `max` or `min`; got {wrong}.")
        if not rungs or any(b <= a for a, b in itertools.pairwise(rungs)):
            raise ValueError(f"`rungs` are values of `{time_attr}`, rising; got {list(rungs)}.")
        if not (0.0 < keep < 1.0 and 0.0 < confidence < 1.0):
            raise ValueError(
                f"`keep` and `confidence` lie between 0 and 1; got {keep} and {confidence}."
            )
        self.stopped: dict[str, Stop] = {}
        """By the id of each trial that it has stopped, why. `rung` is the place in `rungs`, and 1;
        `rival` the id of a trial."""
        self._rungs, self._time_attr, self._examples = tuple(rungs), time_attr, examples
        self._reported: dict[tuple[str, Rung], tuple[dict[str, float], dict[str, Parts]]] = {}
        self._sizes: dict[tuple[Rung, str], dict[str, int]] = {}
        self._passed: dict[str, int] = {}
        rules = RaceRules(
            dict(objectives), dict(limits or {}), chosen, rungs=len(self._rungs), keep=keep,
            confidence=confidence,
        )  # fmt: skip
        self._race = Race(rules, self)

    # ------------------------------------------------------------------------- as Ray Tune asks

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
    ) -> str:
        """Decide whether a trial goes on.

        Args:
            tune_controller: Not asked.
            trial: The trial.
            result: What it reports.

        Returns:
            `STOP` or `CONTINUE`.
        """
        name, come = trial.trial_id, float(result.get(self._time_attr, -math.inf))
        place = sum(come >= value for value in self._rungs) - 1
        if place < 0 or self._passed.get(name, -1) >= place:
            return TrialScheduler.CONTINUE
        self._passed[name] = place
        rung = (place, 1.0)
        self._reported[name, rung] = self._read(name, rung, result)
        stop = self._race.look(name, rung)
        if stop is None:
            return TrialScheduler.CONTINUE
        self.stopped[name] = stop
        than = "its limit" if stop.rival is None else stop.rival
        logger.info("%s is stopped: behind %s in %s by %.3g [%.3g, %.3g]", name, than, stop.measure,
                    stop.difference, *stop.interval)  # fmt: skip
        return TrialScheduler.STOP

    def debug_string(self) -> str:
        """What Tune shows of it."""
        trials, stopped = len(self._passed), len(self.stopped)
        return f"Race: {trials} trials at {len(self._rungs)} rungs, {stopped} stopped"

    # ------------------------------------------------------------------------- as the race asks

    def values(self, trial: str, rung: Rung) -> dict[str, float] | None:
        """What a trial reported at a rung; see `Standings`."""
        found = self._reported.get((trial, rung))
        return None if found is None else found[0]

    def parts(self, trial: str, rung: Rung) -> dict[str, Parts]:
        """The scores of its examples; see `Standings`."""
        found = self._reported.get((trial, rung))
        return {} if found is None else found[1]

    def _read(
        self, trial: str, rung: Rung, result: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Parts]]:
        """Objectives and scores of a report; what cannot be used is told and left out."""
        values = {name: _number(result.get(name)) for name in self._names}
        parts: dict[str, Parts] = {}
        for name in self._names:
            sets = _scores(result, self._examples, name)
            if not sets:
                continue
            sizes = {one: len(each) for one, each in sets.items()}
            expected = self._sizes.setdefault((rung, name), sizes)
            if sizes != expected or not all(sizes.values()):
                logger.warning(
                    "%s scored %s on %s examples, and trials before it on %s: it is not compared "
                    "in that. Score all trials on the same examples.",
                    trial, name, [*sizes.values()], [*expected.values()],
                )  # fmt: skip
                continue
            parts[name] = {one: _numbers(each) for one, each in sets.items()}
        return values, parts


def _scores(result: Mapping[str, Any], examples: str, name: str) -> dict[str, Sequence[Any]]:
    """The scores of an objective's examples in a report.

    Returns:
        By set. A report comes as it was made, or as Tune passes it on: flat, with paths as keys.
    """
    given: Any = result.get(examples)
    if isinstance(given, Mapping):
        given = cast("Mapping[str, Any]", given).get(name)
        found: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"": given}
    else:
        path = f"{examples}/{name}"
        found = {key[len(path) + 1 :]: each for key, each in result.items()
                 if key == path or key.startswith(f"{path}/")}  # fmt: skip
    return {one: each for one, each in found.items() if _is_series(each)}


def _is_series(each: Any) -> bool:
    return hasattr(each, "__len__") and not isinstance(each, str | bytes | Mapping)


def _numbers(each: Sequence[Any]) -> Any:
    """float64 (examples,); NaN where something is no number, so that nothing is told by them."""
    import numpy as np

    try:
        return np.asarray(each, dtype=np.float64)
    except (TypeError, ValueError):
        return np.full(len(each), math.nan)


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
