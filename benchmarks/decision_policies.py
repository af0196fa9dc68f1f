"""What stops trials in the replays: the race of this project, and the schedulers of others.

Each is asked after every rung with what the trial has scored there, and told its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from benchmarks.decision_curves import Curve, Moment
from orchestrator.measures.objectives import Direction
from orchestrator.sweep.deciding.race import Race, RaceRules, Rung


class Policy(Protocol):
    """Decides whether trials go on."""

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """Whether a trial is stopped at a rung, the `number`-th from 1."""
        ...

    def ends(self, curve: Curve) -> None:
        """A trial is over, whole or stopped."""
        ...


class NoStopping:
    """Every trial is trained to its end."""

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """Never."""
        del curve, rung, number, moment
        return False

    def ends(self, curve: Curve) -> None:
        """Nothing."""


class Racing:
    """The race, as sweeps run it."""

    def __init__(
        self, objectives: Mapping[str, Direction], limits: Mapping[str, float], rungs: int,
        **settings: float,
    ) -> None:  # fmt: skip
        """Begin with empty rungs; `settings` are those of `search.early_stopping`."""
        self._at: dict[str, Curve] = {}
        rules = RaceRules(objectives, limits, "gain", rungs=rungs, **settings)
        self._race = Race(rules, self)

    def values(self, trial: str, rung: Rung) -> Mapping[str, float] | None:
        """See `Standings`."""
        return self._at[trial].rungs[rung].values if rung in self._at[trial].rungs else None

    def parts(self, trial: str, rung: Rung) -> Mapping[str, Any]:
        """See `Standings`."""
        return self._at[trial].rungs[rung].parts

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """As the race says."""
        del number, moment
        self._at[curve.trial] = curve
        return self._race.look(curve.trial, rung) is not None

    def ends(self, curve: Curve) -> None:
        """Nothing."""


class OfRay:
    """A scheduler of Ray Tune, asked about `gain`."""

    def __init__(self, scheduler: Any) -> None:
        """Begin without trials."""
        self._scheduler = scheduler
        self._trials: dict[str, Any] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """As the scheduler says."""
        from ray.tune.experiment import Trial
        from ray.tune.schedulers import TrialScheduler

        del rung
        trial = self._trials.get(curve.trial)
        if trial is None:
            trial = Trial("sweep", stub=True, trial_id=curve.trial, _setup_default_resource=False)
            trial.set_status(Trial.RUNNING)
            self._trials[curve.trial] = trial
            self._scheduler.on_trial_add(self, trial)
        self._last[curve.trial] = {
            "gain": moment.values["gain"], "training_iteration": number,
            "time_total_s": moment.cost, "trial_id": curve.trial,
        }  # fmt: skip
        decided = self._scheduler.on_trial_result(self, trial, self._last[curve.trial])
        return decided == TrialScheduler.STOP

    def ends(self, curve: Curve) -> None:
        """Tell the scheduler."""
        from ray.tune.experiment import Trial

        trial = self._trials.pop(curve.trial, None)
        if trial is not None:
            trial.set_status(Trial.TERMINATED)
            self._scheduler.on_trial_complete(self, trial, self._last.pop(curve.trial))

    def get_trials(self) -> list[Any]:
        """What a scheduler may ask of Tune's controller."""
        return list(self._trials.values())

    def get_live_trials(self) -> list[Any]:
        """The same."""
        return self.get_trials()


class OfSyneTune:
    """Syne Tune's MOASHA, asked about all objectives that are known at every rung."""

    def __init__(self, objectives: Mapping[str, Direction], rungs: int) -> None:
        """Begin without trials."""
        from syne_tune.config_space import uniform
        from syne_tune.optimizer.schedulers.multiobjective import MOASHA

        self._objectives = dict(objectives)
        self._scheduler = MOASHA(
            config_space={"x": uniform(0, 1)}, metrics=[*objectives], mode=[*objectives.values()],
            time_attr="training_iteration", max_t=rungs, grace_period=1, reduction_factor=3,
        )  # fmt: skip
        self._trials: dict[str, Any] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """As the scheduler says."""
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.scheduler import SchedulerDecision

        del rung
        trial = self._trials.get(curve.trial)
        if trial is None:
            trial = Trial(len(self._trials), {"x": 0.5}, datetime(2026, 1, 1))
            self._trials[curve.trial] = trial
            self._scheduler.on_trial_add(trial)
        result = {name: moment.values[name] for name in self._objectives}
        self._last[curve.trial] = {**result, "training_iteration": number}
        decided = self._scheduler.on_trial_result(trial, self._last[curve.trial])
        return decided != SchedulerDecision.CONTINUE

    def ends(self, curve: Curve) -> None:
        """Tell the scheduler."""
        if curve.trial in self._last:
            self._scheduler.on_trial_complete(
                self._trials[curve.trial], self._last.pop(curve.trial)
            )


def policy(name: str, objectives: Mapping[str, Direction], limits: Mapping[str, float],
           rungs: int) -> Policy:  # fmt: skip
    """A policy by its name in the tables.

    Args:
        name: `no stopping`, `race`, `asha`, `hyperband`, `median` or `moasha`.
        objectives: Of the sweep.
        limits: The champion's.
        rungs: How many there are, ends included.

    Returns:
        One without trials.
    """
    if name == "no stopping":
        return NoStopping()
    if name.startswith("race"):
        return Racing(objectives, limits, rungs - 1)
    if name == "moasha":
        known = {n: d for n, d in objectives.items() if n in {"gain", "forgetting"}}
        return OfSyneTune(known, rungs)
    from ray.tune import schedulers

    shared = {"metric": "gain", "mode": "max", "time_attr": "training_iteration"}
    if name == "median":
        return OfRay(
            schedulers.MedianStoppingRule(**shared, grace_period=1, min_samples_required=3)
        )
    brackets = {"asha": 1, "hyperband": 3}[name]
    return OfRay(
        schedulers.AsyncHyperBandScheduler(
            **shared, max_t=rungs, grace_period=1, reduction_factor=3, brackets=brackets
        )
    )
