"""What stops trials in the replays: the race of this project, and the schedulers of others.

Each is asked after every rung with what the trial has scored there, and told its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from benchmarks.decision_curves import Curve, Moment
from orchestrator.measures.objectives import Direction
from orchestrator.sweep.deciding.race import Rung
from orchestrator.sweep.race_scheduler import RaceScheduler


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


class Adapted:
    """A scheduler of trials of another library: it is shown each trial when that has a result."""

    def __init__(self) -> None:
        """Begin without trials."""
        self._trials: dict[str, Any] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def stops(self, curve: Curve, rung: Rung, number: int, moment: Moment) -> bool:
        """As the scheduler says."""
        del rung
        if curve.trial not in self._trials:
            self._trials[curve.trial] = self._begun(curve.trial)
        self._last[curve.trial] = self._result(curve.trial, number, moment)
        return self._asked(self._trials[curve.trial], self._last[curve.trial])

    def ends(self, curve: Curve) -> None:
        """Tell the scheduler."""
        trial = self._trials.pop(curve.trial, None)
        if trial is not None:
            self._ended(trial, self._last.pop(curve.trial))

    def _begun(self, name: str) -> Any:
        """The library's own trial, which the scheduler has been told of."""
        raise NotImplementedError

    def _result(self, name: str, number: int, moment: Moment) -> dict[str, Any]:
        """What is reported to it."""
        raise NotImplementedError

    def _asked(self, trial: Any, result: dict[str, Any]) -> bool:
        """Whether it stops the trial."""
        raise NotImplementedError

    def _ended(self, trial: Any, result: dict[str, Any]) -> None:
        """Tell it of the trial's end, with its last result."""
        raise NotImplementedError


class OfRay(Adapted):
    """A scheduler of Ray Tune: the race of this project, and those that are asked about `gain`."""

    def __init__(self, scheduler: Any) -> None:
        """Begin without trials."""
        super().__init__()
        self._scheduler = scheduler

    def _begun(self, name: str) -> Any:
        from ray.tune.experiment import Trial

        trial = Trial("sweep", stub=True, trial_id=name, _setup_default_resource=False)
        trial.set_status(Trial.RUNNING)
        self._scheduler.on_trial_add(self, trial)
        return trial

    def _result(self, name: str, number: int, moment: Moment) -> dict[str, Any]:
        return {
            **moment.values, "per_example": moment.parts, "training_iteration": number,
            "time_total_s": moment.cost, "trial_id": name,
        }  # fmt: skip

    def _asked(self, trial: Any, result: dict[str, Any]) -> bool:
        from ray.tune.schedulers import TrialScheduler

        return self._scheduler.on_trial_result(self, trial, result) == TrialScheduler.STOP

    def _ended(self, trial: Any, result: dict[str, Any]) -> None:
        from ray.tune.experiment import Trial

        trial.set_status(Trial.TERMINATED)
        self._scheduler.on_trial_complete(self, trial, result)

    def get_trials(self) -> list[Any]:
        """What a scheduler may ask of Tune's controller."""
        return list(self._trials.values())

    def get_live_trials(self) -> list[Any]:
        """The same."""
        return self.get_trials()


class OfSyneTune(Adapted):
    """Syne Tune's MOASHA, asked about the objectives that are known at every rung, as losses."""

    def __init__(self, objectives: Mapping[str, Direction], rungs: int) -> None:
        """Begin without trials."""
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        super().__init__()
        self._signs = {name: -1.0 if d == "max" else 1.0 for name, d in objectives.items()}
        self._scheduler = MOASHA(
            config_space={}, metrics=[*objectives], do_minimize=True,
            time_attr="training_iteration", max_t=rungs, grace_period=1, reduction_factor=3,
            random_seed=0,
        )  # fmt: skip
        self._begun_so_far = 0

    def _begun(self, name: str) -> Any:
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial

        del name
        trial = Trial(self._begun_so_far, {}, datetime(2026, 1, 1))
        self._begun_so_far += 1
        self._scheduler.on_trial_add(trial)
        return trial

    def _result(self, name: str, number: int, moment: Moment) -> dict[str, Any]:
        del name
        result = {name: sign * moment.values[name] for name, sign in self._signs.items()}
        return {**result, "training_iteration": number}

    def _asked(self, trial: Any, result: dict[str, Any]) -> bool:
        from syne_tune.optimizer.scheduler import SchedulerDecision

        return self._scheduler.on_trial_result(trial, result) != SchedulerDecision.CONTINUE

    def _ended(self, trial: Any, result: dict[str, Any]) -> None:
        self._scheduler.on_trial_complete(trial, result)


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
        return OfRay(RaceScheduler(objectives, range(1, rungs), deciding="gain", limits=limits))
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
