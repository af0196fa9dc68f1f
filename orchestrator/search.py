"""What to try next: our searcher over Optuna's ask and tell, and its face towards Ray Tune.

Tune's own Optuna searcher leaves a trial running for ever when one of several objectives is
missing, and cannot be rebuilt from our journal; hence this one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial
from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.experiment import (
    Choice,
    Domain,
    IntUniform,
    LogUniform,
    SearchSpec,
    SimpleDomain,
    Uniform,
    active,
    grid_points,
    ordered_space,
)
from orchestrator.objectives import Direction

_JSON = "json:"
"""Mark of a choice that Optuna cannot hold itself (a list, say) and that is kept as JSON."""


@dataclass(frozen=True)
class PastTrial:
    """A trial that was proposed before: finished, failed, or still to be run."""

    name: str
    overrides: Mapping[str, Any]
    state: str
    """COMPLETE, FAILED, or RUNNING for one that has not ended."""
    values: Mapping[str, float] | None = None


class Proposer:
    """Proposes overrides and learns from what they scored. Knows nothing of Ray."""

    def __init__(
        self,
        search: SearchSpec,
        objectives: Mapping[str, Direction],
        past: Sequence[PastTrial] = (),
    ) -> None:
        """Set up the search, with what earlier sessions of the sweep found.

        Args:
            search: Space, searcher and seeds.
            objectives: Measures and directions, in the order told to the searcher.
            past: Every trial proposed before, oldest first.
        """
        self._search = search
        self._objectives = dict(objectives)
        self._parameters = _parameters(search.space)
        self._numbers: dict[str, int] = {}
        self._grid = grid_points(search.space) if search.searcher == "grid" else []
        self._proposed = 0
        # Logs of every ask would bury the live display.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            directions=["maximize" if d == "max" else "minimize" for d in objectives.values()],
        )
        for trial in past:
            self._add(trial)

    @property
    def total(self) -> int:
        """How many trials there will be in all."""
        return min(self._search.trials, len(self._grid)) if self._grid else self._search.trials

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """A sampler for the next proposal alone."""
        # Its random numbers depend on the seed and the proposal's number, so that a continued sweep
        # proposes what an uninterrupted one would have proposed.
        seed = self._search.seed + 7919 * self._proposed
        if self._search.searcher != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = self._search.startup_trials or min(10, max(3, self._search.trials // 3))
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=startup,
            constant_liar=True,
        )

    def _add(self, trial: PastTrial) -> None:
        held = [
            (key, path, domain)
            for key, path, domain in self._parameters
            if path in trial.overrides and active(domain, trial.overrides)
        ]
        distributions = {key: _distribution(domain) for key, _, domain in held}
        params = {key: _encode(domain, trial.overrides[path]) for key, path, domain in held}
        states = {"COMPLETE": TrialState.COMPLETE, "RUNNING": TrialState.RUNNING}
        values = self._values(trial.values) if trial.state == "COMPLETE" else None
        state = states.get(trial.state, TrialState.FAIL)
        if state == TrialState.COMPLETE and values is None:
            state = TrialState.FAIL
        self._study.add_trial(
            create_trial(state=state, values=values, params=params, distributions=distributions)
        )
        self._numbers[trial.name] = len(self._study.trials) - 1
        self._proposed += 1

    def _values(self, measures: Mapping[str, float] | None) -> list[float] | None:
        """The objectives in order; None when one is missing or not a number."""
        if measures is None:
            return None
        values = [measures.get(name) for name in self._objectives]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return [float(value) for value in values if value is not None]

    def propose(self, name: str) -> dict[str, Any] | None:
        """The overrides of the next trial.

        Args:
            name: The trial's name, by which it is told later.

        Returns:
            Dotted path to value; None when every trial has been proposed.
        """
        if self._proposed >= self.total:
            return None
        if self._grid:
            point = self._grid[self._proposed]
            self._add(PastTrial(name, point, "RUNNING"))
            return dict(point)
        fixed = self._search.first[self._proposed] if self._has_first() else {}
        searched = {
            key: _encode(domain, fixed[path])
            for key, path, domain in self._parameters
            if path in fixed and active(domain, fixed)
        }
        if searched:
            self._study.enqueue_trial(searched)
        self._study.sampler = self._sampler()
        trial = self._study.ask()
        self._numbers[name] = trial.number
        self._proposed += 1
        chosen: dict[str, Any] = {}
        for key, path, domain in self._parameters:
            if active(domain, chosen):
                chosen[path] = _decode(_suggest(trial, key, domain))
        return {**chosen, **{p: v for p, v in fixed.items() if p not in self._search.space}}

    def _has_first(self) -> bool:
        return self._proposed < len(self._search.first)

    def tell(self, name: str, measures: Mapping[str, float] | None) -> None:
        """Report how a trial ended.

        Args:
            name: The trial.
            measures: Its measures; None when it failed. A trial whose objectives are not all
                finite numbers counts as failed.
        """
        values = self._values(measures)
        if values is None:
            self._study.tell(self._numbers[name], state=TrialState.FAIL)
        else:
            self._study.tell(self._numbers[name], values)


def _parameters(space: Mapping[str, Domain]) -> list[tuple[str, str, SimpleDomain]]:
    """Optuna's name, path and domain of every parameter, parents before what depends on them."""
    found: list[tuple[str, str, SimpleDomain]] = []
    counts: dict[str, int] = {}
    for path, domain in ordered_space(space):
        number = counts.get(path, 0)
        counts[path] = number + 1
        # Alternatives of one path have other values, which Optuna wants under another name.
        found.append((path if number == 0 else f"{path}#{number}", path, domain))
    return found


def _suggest(trial: optuna.Trial, key: str, domain: SimpleDomain) -> Any:
    match domain:
        case Choice():
            return trial.suggest_categorical(key, [_encode(domain, v) for v in domain.choice])
        case Uniform():
            return trial.suggest_float(key, *domain.uniform)
        case LogUniform():
            return trial.suggest_float(key, *domain.log_uniform, log=True)
        case IntUniform():
            return trial.suggest_int(key, *domain.int_uniform)


def _distribution(domain: SimpleDomain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution([_encode(domain, v) for v in domain.choice])
        case Uniform():
            return FloatDistribution(*domain.uniform)
        case LogUniform():
            return FloatDistribution(*domain.log_uniform, log=True)
        case IntUniform():
            return IntDistribution(*domain.int_uniform)


def _encode(domain: SimpleDomain, value: Any) -> Any:
    if isinstance(domain, Choice) and isinstance(value, list | tuple | dict):
        return _JSON + json.dumps(value)
    return value


def _decode(value: Any) -> Any:
    return json.loads(value[len(_JSON) :]) if str(value).startswith(_JSON) else value


class Wait:
    """The next trial exists, but does not fit beside those that run."""


WAIT = Wait()


class TuneSearcher(Searcher):
    """The face towards Ray Tune: hands out jobs that somebody else decides on."""

    def __init__(
        self,
        next_job: Callable[[str], dict[str, Any] | Wait | None],
        ended: Callable[[str, bool], None],
    ) -> None:
        """Connect Tune to the sweep.

        Args:
            next_job: Gives the configuration of the next trial for a Tune trial id, `WAIT` when
                it does not fit beside those that run, None when there is none left.
            ended: Told the Tune trial id, and whether Tune saw an error, when a trial ends.
        """
        super().__init__(metric=None, mode=None)
        self._next_job = next_job
        self._ended = ended

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's configuration; None for "later", or that there is none left."""
        job = self._next_job(trial_id)
        if isinstance(job, Wait):
            return None
        return Searcher.FINISHED if job is None else job

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended."""
        del result  # everything of value came through reports
        self._ended(trial_id, error)

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps a copy of itself on disk; the sweep it talks to stays in this process.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""


class TuneRecorder(Callback):
    """Hands what trials report to the sweep, in the driver's own process."""

    def __init__(
        self,
        hear: Callable[[str, Mapping[str, Any]], None],
        starting: Callable[[str], None],
    ) -> None:
        """Connect Tune to the sweep.

        Args:
            hear: Told the Tune trial id and each message.
            starting: Told the Tune trial id when its process starts.
        """
        self._hear = hear
        self._starting = starting

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is being started."""
        del iteration, trials, info
        self._starting(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        del iteration, trials, info
        self._hear(trial.trial_id, result)
