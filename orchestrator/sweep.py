"""A sweep: from an experiment file to trials, a front and a champion, through Ray Tune.

The driver (this process) decides and records: it proposes trials, receives their reports, writes
the journal, and lets MLflow catch up with it. Running the same sweep again reads the journal and
does what is missing.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.batches import DataError, PreparedData, prepare
from orchestrator.cluster import (
    HEAD_SHARE,
    ClusterError,
    check_storage,
    connected,
    fit,
    largest_resources,
    required_fit,
    sigterm_as_interrupt,
    wait_until_clean,
)
from orchestrator.continual_loop import DONE, StageReport
from orchestrator.encoding import Question
from orchestrator.experiment import Experiment, LoadedExperiment, ResourceSpec
from orchestrator.journal import JOURNAL_NAME, Journal, JournalError, Line, read_journal
from orchestrator.objectives import (
    Candidate,
    Interval,
    ProbeReading,
    best_candidate,
    choose_champion,
    front,
    gain_interval,
    measures,
)
from orchestrator.preflight import PreflightError, check
from orchestrator.tasks import ClassificationTask, LanguageModellingTask
from orchestrator.training import BASE_TRIAL, ProgressFile, run_locally, trial_function

if TYPE_CHECKING:
    from orchestrator.search import Wait


ENOUGH_FAILURES = 3
"""A sweep whose first trials have all failed, this many of them, is stopped."""
MLFLOW_PAUSE_SECONDS = 60.0
"""How long MLflow is left alone after it could not be reached."""
PROGRESS_SECONDS = 0.5
"""How often running trials are asked how far they are."""


_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class SweepError(RuntimeError):
    """A sweep that cannot go on; one message for the user."""


class SweepInterruptedError(RuntimeError):
    """The user stopped the sweep; what is finished is kept."""


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run, as opposed to what it runs."""

    address: str | None = None
    """Address of a running Ray cluster; None starts a local one."""
    new: bool = False
    """Start another sweep of the same name instead of continuing the last."""
    data_root: Path | None = None
    kind: Literal["sweep", "run"] = "sweep"
    """`run` is one trial with the experiment's own method, `search` ignored."""


class Observer(Protocol):
    """Who is told what happens."""

    def note(self, text: str) -> None:
        """What the driver is doing."""

    def line(self, line: Line) -> None:
        """A journal line: each old one of a continued sweep at its start, then each new one."""

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """How far a trial is."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left in its journal."""

    folder: Path
    lines: list[Line]


def sweep_folders(storage: Path) -> list[Path]:
    """The sweeps in a storage folder, oldest first."""
    found = [path.parent for path in storage.glob(f"*/{JOURNAL_NAME}")]
    return sorted(found, key=lambda folder: (read_journal(folder) or [{}])[0].get("time", 0.0))


def sweep_folder(storage: Path, name: str, *, new: bool) -> Path:
    """The folder of the last sweep of a name, or of the next one.

    Args:
        storage: The storage folder.
        name: The experiment's name.
        new: Whether another sweep is wanted.

    Returns:
        `<storage>/<name>`, or `<storage>/<name>-2` and so on.
    """
    number = 1
    while (storage / _numbered(name, number + 1) / JOURNAL_NAME).is_file():
        number += 1
    if new and (storage / _numbered(name, number) / JOURNAL_NAME).is_file():
        number += 1
    return storage / _numbered(name, number)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


# --- one trial as the driver sees it -------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """What may run at a time."""

    cpus: float = math.inf
    gpus: float = math.inf
    trials: float = math.inf

    def holds(self, trials: Sequence[ResourceSpec]) -> bool:
        """Whether these trials fit side by side."""
        cpus = sum(r.workers * r.cpus_per_worker for r in trials)
        gpus = sum(r.workers * r.gpus_per_worker for r in trials)
        return cpus <= self.cpus and gpus <= self.gpus


@dataclass
class _Trial:
    name: str
    overrides: dict[str, Any]
    of: str | None = None
    """The finalist that this trial repeats with a fresh seed."""
    attempts: int = 0
    reports: dict[tuple[int, float], StageReport] = field(
        default_factory=dict[tuple[int, float], StageReport]
    )
    state: str = "RUNNING"
    measures: dict[str, float] | None = None
    interval: Interval | None = None
    failure: str | None = None
    log: str | None = None
    adapter_at: Path | None = None
    """Checkpoint folder that holds the adapter."""

    def last_report(self, tasks: int) -> StageReport | None:
        """The report after the last task, which makes a trial whole."""
        index = -1 if self.name == BASE_TRIAL else tasks - 1
        return self.reports.get((index, DONE))


class _Driver:
    """Everything a running sweep knows; used from the driver's one thread."""

    def __init__(
        self,
        loaded: LoadedExperiment,
        journal: Journal,
        observer: Observer,
        data: PreparedData,
    ) -> None:
        from orchestrator.search import PastTrial, Proposer

        self.loaded = loaded
        self.experiment = loaded.experiment
        self.journal = journal
        self.observer = observer
        self.data = data
        self.trials: dict[str, _Trial] = {}
        self._by_tune_id: dict[str, str] = {}
        self._running: dict[str, ResourceSpec] = {}
        self.capacity = Capacity()
        for line in journal.lines:
            self._replay(line)
        self._proposer: Proposer | None = None
        if self.experiment.search is not None:
            past = [PastTrial(t.name, t.overrides, t.state, t.measures) for t in self._searched()]
            self._proposer = Proposer(self.experiment.search, self.experiment.objectives, past)
        base = self.trials.get(BASE_TRIAL)
        if base is not None and base.state == "FAILED":
            # Without row 0 no trial can be judged, so it is the one failure that is tried again.
            base.state, base.failure, base.log = "RUNNING", None, None
        self._waiting = [t.name for t in self.trials.values() if t.state == "RUNNING"]
        self._failed_now: list[str] = []
        self._finish_whole_trials()

    # -- reading the journal ----------------------------------------------------------------------

    def _replay(self, line: Line) -> None:
        match line["event"]:
            case "trial_proposed":
                self.trials[line["trial"]] = _Trial(
                    line["trial"], line["overrides"], of=line.get("of")
                )
            case "trial_started":
                self.trials[line["trial"]].attempts = line["attempt"]
            case "stage_report":
                report = StageReport.from_document(line["report"])
                trial = self.trials[line["trial"]]
                trial.reports[report.task_index, report.fraction] = report
            case "trial_ended":
                trial = self.trials[line["trial"]]
                trial.state = line["state"]
                trial.measures = {
                    k: math.nan if v is None else v for k, v in (line["measures"] or {}).items()
                } or None
                if line["gain_interval"]:
                    trial.interval = Interval(*line["gain_interval"])
            case _:
                pass

    def _finish_whole_trials(self) -> None:
        """A driver that died between a trial's last report and its end: the end is now."""
        for name in list(self._waiting):
            trial = self.trials[name]
            kept = name == BASE_TRIAL or self.adapter_folder(name).is_dir()
            if trial.last_report(len(self.experiment.tasks)) is not None and kept:
                self._waiting.remove(name)
                self.finish(name)

    # -- proposing --------------------------------------------------------------------------------

    def _searched(self) -> list[_Trial]:
        """The trials of the search: neither the base nor repetitions of a finalist."""
        return [t for t in self.trials.values() if t.name != BASE_TRIAL and t.of is None]

    @property
    def _search_over(self) -> bool:
        searched = self._searched()
        total = self.experiment.searched_trials
        return len(searched) >= total and all(t.state != "RUNNING" for t in searched)

    @property
    def unfinished(self) -> int:
        """Trials (the base included) that have yet to be run; at most, while the search goes on."""
        total = self.experiment.searched_trials
        missing = int(BASE_TRIAL not in self.trials) + max(0, total - len(self._searched()))
        return len(self._waiting) + missing + self._missing_repetitions()

    def _missing_repetitions(self) -> int:
        if self._search_over:
            return sum(name not in self.trials for name, _, _ in self._repetitions())
        return self.experiment.repeated_trials

    def finalists(self) -> list[_Trial]:
        """The best searched trial of each group; those that keep the champion's limits first."""
        rule, per = self.experiment.champion, self.experiment.finalists.per
        groups: dict[Any, list[Candidate]] = {}
        for trial in self._searched():
            if trial.state == "COMPLETE" and trial.measures is not None:
                group = trial.overrides.get(per) if per is not None else None
                groups.setdefault(group, []).append(
                    Candidate(trial.name, trial.measures, trial.interval or _UNKNOWN)
                )
        best = [
            best_candidate(group, maximize=rule.maximize, subject_to=rule.subject_to)
            for group in groups.values()
        ]
        return [self.trials[candidate.name] for candidate in best]

    def _repetitions(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Name, finalist and overrides of every repetition with a fresh seed."""
        seeds = range(1, self.experiment.finalists.fresh_seeds + 1)
        if not seeds:
            return []
        seed = self.experiment.training.seed
        return [
            (f"{t.name}-s{k}", t.name, {**t.overrides, "training.seed": seed + k})
            for t in self.finalists()
            for k in seeds
        ]

    def next_job(self, tune_id: str) -> dict[str, Any] | Wait | None:
        """The next trial's configuration for Ray Tune.

        A trial that does not fit beside those that run lets one other go first: a trial of two
        workers would otherwise leave half of a machine idle until all others have ended.

        Args:
            tune_id: Tune's id for it.

        Returns:
            The configuration, `WAIT` while none fits, or None when there is none left.
        """
        from orchestrator.search import WAIT

        if self.given_up:
            # What runs may still prove us wrong.
            return WAIT if self._running else None
        if len(self._running) >= self.capacity.trials:
            return WAIT
        name = next((name for name in self._waiting if self._fits(name)), None)
        if name is not None:
            self._waiting.remove(name)
        elif len(self._waiting) > 1:
            return WAIT
        else:
            name = self._propose_next()
            if name is None:
                later = self._waiting or (self._running and self._missing_repetitions())
                return WAIT if later else None
            if not self._fits(name):
                self._waiting.append(name)
                return WAIT
        trial = self.trials[name]
        trial.attempts += 1
        self._by_tune_id[tune_id] = name
        experiment = self.trial_experiment(name)
        ProgressFile(self.journal.folder, name).remove()
        self._running[name] = experiment.resources
        self.record("trial_started", trial=name, attempt=trial.attempts)
        return {
            "trial": name,
            "experiment": experiment.model_dump(mode="json"),
            "folder": str(self.journal.folder),
        }

    @property
    def given_up(self) -> bool:
        """Whether nothing more is begun: the base, or every trial of this session, has failed.

        A trial that was completed in any session shows that trials can be.
        """
        if BASE_TRIAL in self._failed_now:
            return True
        fine = any(
            trial.state == "COMPLETE" or trial.last_report(len(self.experiment.tasks)) is not None
            for trial in self.trials.values()
            if trial.name != BASE_TRIAL
        )
        return len(self._failed_now) >= ENOUGH_FAILURES and not fine

    def failures_now(self) -> list[_Trial]:
        """The trials that failed in this session, in the order in which they did."""
        return [self.trials[name] for name in self._failed_now]

    def running(self) -> list[str]:
        """The trials that run now; safe to ask from another thread."""
        return list(self._running)

    def _fits(self, name: str) -> bool:
        mine = self.trial_experiment(name).resources
        return self.capacity.holds([*self._running.values(), mine])

    def _propose_next(self) -> str | None:
        if BASE_TRIAL not in self.trials:
            return self._propose(BASE_TRIAL, {}, "control")
        name = f"t{len(self.trials):03d}"
        if self._proposer is None:
            return (
                self._propose(name, {}, "user")
                if not self._searched()
                else self._propose_repetition()
            )
        overrides = self._proposer.propose(name)
        if overrides is None:
            return self._propose_repetition()
        search = self.experiment.search
        return self._propose(name, overrides, search.searcher if search is not None else "user")

    def _propose_repetition(self) -> str | None:
        if not self._search_over:
            return None
        for name, finalist, overrides in self._repetitions():
            if name not in self.trials:
                return self._propose(name, overrides, "fresh seed", of=finalist)
        return None

    def _propose(self, name: str, overrides: dict[str, Any], by: str, of: str | None = None) -> str:
        self.trials[name] = _Trial(name, overrides, of=of)
        extra = {} if of is None else {"of": of}
        self.record("trial_proposed", trial=name, overrides=overrides, by=by, **extra)
        return name

    def trial_experiment(self, name: str) -> Experiment:
        """The experiment of a trial: the sweep's with its overrides."""
        return self.experiment.with_overrides(self.trials[name].overrides)

    # -- what trials say --------------------------------------------------------------------------

    def hear(self, tune_id: str, message: Mapping[str, Any]) -> None:
        """Take in a message of a trial that Ray Tune knows by its id."""
        self.hear_trial(self._by_tune_id[tune_id], message)

    def starting(self, tune_id: str) -> None:
        """Ray Tune starts a trial's process."""
        self.observer.progress(self._by_tune_id[tune_id], {"phase": "starting"})

    def hear_trial(self, name: str, message: Mapping[str, Any]) -> None:
        """Take in a message of a trial."""
        trial = self.trials[name]
        match message.get("kind"):
            case "progress":
                self.observer.progress(name, dict(message["progress"]))
            case "ready":
                self.observer.progress(name, {"phase": "ready", "pid": message["worker_pid"]})
            case "stage":
                self._stage(trial, message["report"], message.get("checkpoint_path"))
            case "finished":
                for report in message["reports"]:
                    self._stage(trial, report, message["checkpoint_path"])
            case "failed":
                self._failed(trial, str(message["reason"]), message)
            case _:
                pass

    def _failed(self, trial: _Trial, reason: str, message: Mapping[str, Any]) -> None:
        if _is_out_of_room(reason):
            # The trial is not to blame, and would be lost; left unfinished, it is run again.
            raise SweepError(_no_room(self.journal.folder, f"trial {trial.name}", reason))
        trial.failure = reason
        trial.log = message.get("log")
        if trial.log is None:
            path = self.journal.folder / "trials" / trial.name / "log.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"attempt {trial.attempts}: {message.get('details', reason)}\n")
            trial.log = str(path)

    def _stage(self, trial: _Trial, document: Mapping[str, Any], checkpoint: str | None) -> None:
        report = StageReport.from_document(document)
        key = (report.task_index, report.fraction)
        if key in trial.reports:
            return
        trial.reports[key] = report
        last = report.row is not None and report.task_index == len(self.experiment.tasks) - 1
        if last and checkpoint is not None:
            # Copied before it is journalled: a journalled last report has its adapter.
            try:
                _copy_adapter(Path(checkpoint) / "adapter", self.adapter_folder(trial.name))
            except OSError as error:
                raise SweepError(
                    _no_room(self.journal.folder, f"the adapter of {trial.name}", str(error))
                ) from None
        self.record("stage_report", trial=trial.name, report=report.as_document())

    def ended(self, tune_id: str, error: bool) -> None:
        """Ray Tune says that a trial is over."""
        name = self._by_tune_id[tune_id]
        self._running.pop(name, None)
        trial = self.trials[name]
        if error and trial.failure is None:
            reason = "the trial's process ended unexpectedly (out of memory, or killed)"
            self._failed(trial, reason, {})
        self.finish(name)

    def adapter_folder(self, name: str) -> Path:
        """Where a trial's adapter is kept."""
        return self.journal.folder / "trials" / name / "adapter"

    # -- ending -----------------------------------------------------------------------------------

    def finish(self, name: str) -> None:
        """End a trial, now or, when row 0 is still being measured, as soon as it is known."""
        trial = self.trials[name]
        final = trial.last_report(len(self.experiment.tasks))
        if trial.failure is not None or final is None:
            reason = trial.failure or "the trial ended before its last report"
            self._end(trial, "FAILED", reason)
            return
        if name == BASE_TRIAL:
            trial.measures = self._measures(trial, trial, final)
            self._end(trial, "COMPLETE", "")
            for other in list(self.trials.values()):
                whole = other.last_report(len(self.experiment.tasks)) is not None
                if other.state == "RUNNING" and whole and other.name not in self._waiting:
                    self.finish(other.name)
            return
        base = self.trials.get(BASE_TRIAL)
        base_report = base.last_report(0) if base is not None else None
        if base is None or base_report is None:
            return
        trial.measures = self._measures(trial, base, final)
        trial.interval = self._interval_to(final.per_example, self._reference_examples())
        bad = [n for n in self.experiment.objectives if not math.isfinite(trial.measures[n])]
        if bad:
            self._end(trial, "FAILED", f"the objectives {bad} could not be measured")
        else:
            self._end(trial, "COMPLETE", "")

    def _end(self, trial: _Trial, state: str, reason: str) -> None:
        trial.state = state
        complete = state == "COMPLETE"
        adapter = self.adapter_folder(trial.name)
        self.record(
            "trial_ended",
            trial=trial.name,
            state=state,
            reason=reason,
            measures=trial.measures if complete else None,
            gain_interval=[trial.interval.low, trial.interval.high]
            if complete and trial.interval is not None
            else None,
            intervals=self._intervals(trial) if complete and trial.name != BASE_TRIAL else None,
            adapter=str(adapter.relative_to(self.journal.folder))
            if complete and adapter.is_dir()
            else None,
            log=trial.log,
        )
        if self._proposer is not None and trial.name != BASE_TRIAL and trial.of is None:
            self._proposer.tell(trial.name, trial.measures if complete else None)
        ProgressFile(self.journal.folder, trial.name).remove()
        if state == "FAILED":
            self._failed_now.append(trial.name)
        if complete:
            shutil.rmtree(self.journal.folder / "ray" / trial.name, ignore_errors=True)

    def _measures(self, trial: _Trial, base: _Trial, final: StageReport) -> dict[str, float]:
        tasks = self.experiment.tasks
        base_report = base.last_report(0)
        if base_report is None or base_report.row is None:
            raise AssertionError("measures are read only once row 0 is known")
        headed = tuple(self.data.tasks[task].has_head for task in tasks)
        matrix = AccuracyMatrix(tasks, (base_report.row,), headed)
        for index in range(len(tasks)):
            report = trial.reports.get((index, DONE))
            if report is not None and report.row is not None:
                matrix = matrix.with_row(report.row)
        experiment = self.trial_experiment(trial.name)
        return measures(
            matrix,
            reference=self._reference_row(base_report),
            probes=self._probes(base_report.probes or {}, final.probes or {}),
            cost_s=final.seconds * experiment.resources.workers,
            cost_tokens=float(final.tokens),
        )

    # -- controls ---------------------------------------------------------------------------------

    def _base_report(self) -> StageReport:
        base = self.trials.get(BASE_TRIAL)
        report = base.last_report(0) if base is not None else None
        if report is None:
            raise AssertionError("controls are read only once row 0 is known")
        return report

    def _reference_row(self, base: StageReport) -> list[float]:
        """What `gain` is measured against: zero-shot, or head-only for a task with a head."""
        if base.row is None:
            raise AssertionError("the base's report has a row")
        return [
            (base.head_only or {}).get(task, {}).get("accuracy", math.nan)
            if self.data.tasks[task].has_head
            else score
            for task, score in zip(self.experiment.tasks, base.row, strict=True)
        ]

    def _reference_examples(self) -> dict[str, Sequence[float]]:
        base = self._base_report()
        zero_shot, head_only = base.per_example or {}, base.head_only_per_example or {}
        return {
            task: (head_only if self.data.tasks[task].has_head else zero_shot).get(task, ())
            for task in self.experiment.tasks
        }

    def _majority_examples(self) -> dict[str, Sequence[float]]:
        """What always saying the commonest label of train scores on each example."""
        return {
            task.name: [
                float(q.answer == task.labels.index(task.facts["majority_label"]))
                for q in task.validation
                if isinstance(q, Question)
            ]
            for task in (self.data.tasks[name] for name in self.experiment.tasks)
            if isinstance(task.spec, ClassificationTask)
        }

    def _interval_to(
        self,
        mine: Mapping[str, Sequence[float]] | None,
        control: Mapping[str, Sequence[float]] | None,
    ) -> Interval | None:
        """The paired interval over the tasks that both sides have; None when there is none."""
        tasks = [t for t in self.experiment.tasks if (mine or {}).get(t) and (control or {}).get(t)]
        if mine is None or control is None or not tasks:
            return None
        return gain_interval([mine[t] for t in tasks], [control[t] for t in tasks])

    def _intervals(self, trial: _Trial) -> dict[str, list[float] | None]:
        """The paired interval of a trial's final scores over each control."""
        final = trial.last_report(len(self.experiment.tasks))
        mine = final.per_example if final is not None else None
        base = self._base_report()
        controls = {
            "zero_shot": base.per_example,
            "majority": self._majority_examples(),
            "head_only": base.head_only_per_example,
        }
        found = {name: self._interval_to(mine, control) for name, control in controls.items()}
        return {name: _bounds(interval) for name, interval in found.items()}

    def _probes(
        self, before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
    ) -> list[ProbeReading]:
        readings: list[ProbeReading] = []
        for name in self.experiment.probes:
            spec = self.loaded.tasks[name]
            if isinstance(spec, LanguageModellingTask):
                readings.append(
                    ProbeReading(
                        "language_modelling",
                        before[name]["cross_entropy"],
                        after[name]["cross_entropy"],
                    )
                )
            else:
                chance = float(self.data.controls[name].get("chance", 0.0))
                metric = spec.metric
                readings.append(
                    ProbeReading("choice", before[name][metric], after[name][metric], chance)
                )
        return readings

    def conclude(self) -> None:
        """Name the front and the champion, when nothing is left to run."""
        whole = {
            t.name: t.measures
            for t in self._searched()
            if t.state == "COMPLETE" and t.measures is not None
        }
        finalists = [self._finalist(trial) for trial in self.finalists()]
        repeated = [finalist for finalist in finalists if finalist["repeats"]]
        candidates = [
            Candidate(
                finalist["trial"],
                {**whole[finalist["trial"]], **finalist["mean"]},
                self._interval_to(
                    self._mean_examples(finalist["repeats"]), self._reference_examples()
                )
                or _UNKNOWN,
            )
            for finalist in repeated
        ] or [
            Candidate(name, values, self.trials[name].interval or _UNKNOWN)
            for name, values in whole.items()
        ]
        rule = self.experiment.champion
        verdict = choose_champion(
            candidates,
            maximize=rule.maximize,
            subject_to=rule.subject_to,
            basis=_seeds_words(repeated),
        )
        others = [c for c in candidates if c.name != verdict.champion]
        runner_up = (
            best_candidate(others, maximize=rule.maximize, subject_to=rule.subject_to).name
            if others and verdict.champion is not None
            else None
        )
        self.record(
            "sweep_ended",
            front=front(whole, self.experiment.objectives),
            champion=verdict.champion,
            reason=verdict.reason,
            finalists=repeated,
            runner_up=runner_up,
            runner_up_interval=_bounds(
                self._interval_to(
                    self._candidate_examples(verdict.champion, repeated),
                    self._candidate_examples(runner_up, repeated),
                )
                if verdict.champion is not None and runner_up is not None
                else None
            ),
        )

    def _finalist(self, trial: _Trial) -> dict[str, Any]:
        """A finalist's repetitions: their mean measures, and the spread over seeds."""
        repeats = [t for t in self.trials.values() if t.of == trial.name and t.state == "COMPLETE"]
        values = [t.measures for t in repeats if t.measures is not None]
        names = list(values[0]) if values else []
        mean = {name: statistics.fmean(v[name] for v in values) for name in names}
        spread = {name: _spread([v[name] for v in values]) for name in names}
        return {
            "trial": trial.name,
            "repeats": [t.name for t in repeats],
            "mean": mean,
            "spread": spread,
        }

    def _candidate_examples(
        self, name: str, repeated: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[float]]:
        repeats = next((f["repeats"] for f in repeated if f["trial"] == name), [name])
        return self._mean_examples(repeats)

    def _mean_examples(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Each example's mean score over some trials, by task."""
        reports = [self.trials[n].last_report(len(self.experiment.tasks)) for n in names]
        each = [r.per_example for r in reports if r is not None and r.per_example is not None]
        return {
            task: [
                statistics.fmean(scores) for scores in zip(*(e[task] for e in each), strict=True)
            ]
            for task in (each[0] if each else ())
        }

    def record(self, event: str, **fields: Any) -> Line:
        """Journal a line, then tell the observer."""
        line = self.journal.append(event, **fields)
        self.observer.line(line)
        return line


_UNKNOWN = Interval(-math.inf, math.inf)


def _bounds(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; NaN where it is not known."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) if known else math.nan


def _seeds_words(repeated: Sequence[Mapping[str, Any]]) -> str:
    """On which seeds a verdict stands, in words."""
    counts = sorted({len(finalist["repeats"]) for finalist in repeated})
    if not counts:
        return ""
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "seed that had" if counts == [1] else "seeds that had"
    return f"on {number} fresh {noun} no part in the choice"


def _is_out_of_room(reason: str) -> bool:
    return any(os.strerror(number) in reason for number in (errno.ENOSPC, errno.EDQUOT))


def _no_room(folder: Path, what: str, reason: str) -> str:
    return (
        f"Cannot write {what} to {folder}: {reason.rstrip('.')}. Everything that was finished "
        "before is kept. Make room, then go on with the same command."
    )


def _copy_adapter(source: Path, target: Path) -> None:
    """Copy an adapter's files, whole or not at all."""
    if target.is_dir() or not source.is_dir():
        return
    half = target.with_name("adapter.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half)
    half.replace(target)


# --- running -------------------------------------------------------------------------------------


def run_sweep(loaded: LoadedExperiment, options: SweepOptions, observer: Observer) -> SweepOutcome:
    """Run a sweep, or what is missing of it.

    Args:
        loaded: The experiment and its tasks.
        options: How to run it.
        observer: Who is told what happens.

    Returns:
        The sweep's folder and its journal.

    Raises:
        SweepError: If it cannot be run; one message for the user.
        SweepInterruptedError: If the user stopped it; what is finished is kept.
    """
    experiment = loaded.experiment
    if options.kind == "run":
        experiment = experiment.model_copy(
            update={"search": None, "name": f"{experiment.name}-run"}
        )
        loaded = loaded.model_copy(update={"experiment": experiment})
    storage = Path(experiment.storage).expanduser().resolve()
    folder = sweep_folder(storage, experiment.name, new=options.new)
    from orchestrator.engine import ModelError

    try:
        with sigterm_as_interrupt(), Journal(folder) as journal:
            _open(loaded, journal, observer, options, storage)
            return SweepOutcome(folder, journal.lines)
    except (JournalError, ClusterError, DataError, ModelError, PreflightError) as error:
        raise SweepError(str(error)) from None


def _open(
    loaded: LoadedExperiment,
    journal: Journal,
    observer: Observer,
    options: SweepOptions,
    storage: Path,
) -> None:
    for line in journal.lines:
        observer.line(line)
    if journal.lines:
        _check_same(loaded, journal)
    projection = _Projection(loaded.experiment, storage, journal, observer)
    if journal.lines and journal.lines[-1]["event"] in {"sweep_ended", "champion_registered"}:
        searched = [x for x in journal.lines if x["event"] == "trial_proposed" and not x.get("of")]
        proposed = len(searched) - 1  # the base is one of them
        wanted = _wanted(loaded.experiment)
        if loaded.experiment.search is None or proposed >= wanted or _grid_done(loaded, proposed):
            observer.note("this sweep is finished; nothing is left to run")
            projection.finish()
            return
    _run(loaded, journal, observer, options, projection)


def _grid_done(loaded: LoadedExperiment, proposed: int) -> bool:
    from orchestrator.experiment import grid_points

    search = loaded.experiment.search
    if search is None or search.searcher != "grid":
        return False
    return proposed >= len(grid_points(search.space))


def _run(
    loaded: LoadedExperiment,
    journal: Journal,
    observer: Observer,
    options: SweepOptions,
    projection: _Projection,
) -> None:
    from orchestrator.engine import base_sha256, load_tokenizer
    from orchestrator.model_registry import redacted, redacted_document

    experiment = loaded.experiment
    observer.note("checking that nothing is in the way")
    ended = {line["trial"] for line in journal.lines if line["event"] == "trial_ended"}
    missing = max(1, _wanted(experiment) - len(ended - {BASE_TRIAL}))
    check(loaded, journal.folder.parent, trials=missing, address=options.address)
    observer.note("reading the base model's weights and tokenizer")
    base_hash = base_sha256(experiment.model)
    data = prepare(loaded, load_tokenizer(experiment.model), note=observer.note)
    provenance = {
        "base": {**experiment.model.model_dump(), "sha256": base_hash},
        "data": data.hashes,
        **_provenance(),
    }
    if not journal.lines:
        observer.line(
            journal.append(
                "sweep_opened",
                sweep=journal.folder.name,
                kind=options.kind,
                experiment=redacted_document(experiment.model_dump(mode="json")),
                tasks={n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
                yaml=redacted(loaded.text),
                origin=loaded.origin,
                provenance=provenance,
                controls=data.controls,
            )
        )
    else:
        _check_provenance(journal, provenance)
        observer.line(
            journal.append("sweep_continued", trials=_wanted(experiment), code=provenance["code"])
        )
    driver = _Driver(loaded, journal, observer, data)
    if driver.unfinished:
        if experiment.resources.executor == "local":
            _run_trials_locally(driver, projection)
        else:
            _run_trials_on_ray(driver, options, projection)
    if driver.given_up and (driver.unfinished or driver.trials[BASE_TRIAL].state == "FAILED"):
        _give_up(driver, projection)
    driver.conclude()
    observer.note("writing what remains to MLflow")
    projection.finish()


def _wanted(experiment: Experiment) -> int:
    """How many trials there are to be, the base not counted."""
    return experiment.search.trials if experiment.search is not None else 1


def _give_up(driver: _Driver, projection: _Projection) -> NoReturn:
    """End a sweep in which nothing can be measured; it can be continued once that is mended.

    Args:
        driver: The sweep.
        projection: Its MLflow.

    Raises:
        SweepError: Always, with the commonest reason and a log.
    """
    failed = driver.failures_now()
    base = next((trial for trial in failed if trial.name == BASE_TRIAL), None)
    if base is not None:
        why = (
            "The untouched base could not be measured, so no trial can be compared with it: "
            f"{base.failure}."
        )
        log = base.log
    else:
        reason, count = Counter(str(trial.failure) for trial in failed).most_common(1)[0]
        log = next(trial.log for trial in failed if trial.failure == reason)
        why = (
            f"All {len(failed)} trials that were begun have failed, {count} of them with: "
            f"{reason.rstrip('.')}."
        )
    driver.record("sweep_stopped", reason=why, trials=[trial.name for trial in failed])
    projection.catch_up()
    raise SweepError(
        f"{why} Log: {log}. Nothing more was begun. When the cause is mended, the same command "
        f"goes on with what is left ({driver.unfinished + (base is not None)} to run), and the "
        "same command with `--new` starts over."
    )


def _run_trials_locally(driver: _Driver, projection: _Projection) -> None:
    number = 0
    while isinstance(job := driver.next_job(str(number)), dict):
        name = job["trial"]
        driver.observer.progress(name, {"phase": "starting"})
        _run_one_locally(driver, name)
        driver.ended(str(number), error=False)
        projection.catch_up()
        number += 1


def _run_one_locally(driver: _Driver, name: str) -> None:
    """Run a trial in this process; whatever fails in it, the sweep goes on."""
    own: list[BaseException] = []

    def tell(message: dict[str, Any]) -> None:
        try:
            driver.hear_trial(name, message)
        except BaseException as error:
            own.append(error)  # the driver's failure, not the trial's
            raise

    folder = driver.journal.folder / "ray" / name
    try:
        run_locally(name, driver.trial_experiment(name), driver.data, folder, tell)
    except Exception as error:
        if own:
            raise
        said = str(error).strip().splitlines()
        driver.hear_trial(
            name,
            {
                "kind": "failed",
                "reason": said[-1] if said else repr(error),
                "details": "".join(traceback.format_exception(error)),
            },
        )


def _run_trials_on_ray(driver: _Driver, options: SweepOptions, projection: _Projection) -> None:
    experiment = driver.experiment
    driver.observer.note(
        "starting Ray on this machine" if options.address is None else "joining the Ray cluster"
    )
    with connected(options.address) as resources:
        check_storage(driver.journal.folder)
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        required_fit(largest_resources(experiment), cpus=cpus, gpus=gpus)
        limit = experiment.search.max_concurrent if experiment.search is not None else None
        driver.capacity = Capacity(cpus, gpus, limit or math.inf)
        driver.observer.note(fit(experiment.resources, cpus=cpus, gpus=gpus).arithmetic)
        _fit(driver, projection)
        left = wait_until_clean()
        if left:
            raise SweepError(f"The sweep left something on the cluster: {left}.")


def _fit(driver: _Driver, projection: _Projection) -> None:
    import ray
    from ray import tune

    from orchestrator.search import TuneRecorder, TuneSearcher

    own = _FirstError()

    @own.kept
    def starting(tune_id: str) -> None:
        driver.starting(tune_id)
        # MLflow takes seconds to open; the workers are starting meanwhile.
        projection.catch_up()

    @own.kept
    def ended(tune_id: str, error: bool) -> None:
        driver.ended(tune_id, error)
        projection.catch_up()

    shared = [ray.put(driver.data)]
    before = driver.unfinished
    trainable = tune.with_resources(
        tune.with_parameters(trial_function, shared=shared),
        {"node:__internal_head__": HEAD_SHARE},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(own.kept(driver.next_job), ended),
            num_samples=before,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"tune-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(driver.journal.folder / "ray"),
            callbacks=[TuneRecorder(own.kept(driver.hear), starting)],
            verbose=0,
        ),
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with _progress_read(driver):
            tuner.fit()
    except Exception:
        if own.error is not None:
            raise own.error from None  # Tune would wrap it in its own traceback
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)  # Tune leaves its own behind
        shutil.rmtree(driver.journal.folder / "ray" / "tune", ignore_errors=True)
    if driver.given_up:
        return
    if driver.unfinished or any(t.state == "RUNNING" for t in driver.trials.values()):
        raise SweepInterruptedError("The sweep was stopped before all of its trials had run.")


class _FirstError:
    """Remembers the driver's own first error, which Ray Tune turns into text."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def kept(self, function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
        """The same function, whose error is remembered."""

        @functools.wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self.error = self.error or error
                raise

        return call


@contextmanager
def _progress_read(driver: _Driver) -> Iterator[None]:
    """Meanwhile, tell the observer how far the running trials say they are."""
    stop = threading.Event()

    def read() -> None:
        said: dict[str, Any] = {}
        while not stop.wait(PROGRESS_SECONDS):
            for name in driver.running():
                progress = ProgressFile(driver.journal.folder, name).read()
                if progress is not None and progress != said.get(name):
                    said[name] = progress
                    driver.observer.progress(name, progress)

    reader = threading.Thread(target=read, name="progress", daemon=True)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()


# --- continuing ----------------------------------------------------------------------------------


_MAY_CHANGE = {
    ("search", "trials"),
    ("search", "max_concurrent"),
    ("storage",),
    ("tracking", "uri"),
    ("resources", "max_failures"),
}
"""Fields that may differ when a sweep is continued: they change no trial's result."""


def _check_same(loaded: LoadedExperiment, journal: Journal) -> None:
    """Refuse to continue a sweep with another experiment."""
    opened = journal.lines[0]
    old = {"experiment": opened["experiment"], "tasks": opened["tasks"]}
    new = {
        "experiment": loaded.experiment.model_dump(mode="json"),
        "tasks": {n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
    }
    differences = [
        (path, a, b)
        for path, a, b in _differences(old, new, ())
        if path[1:] not in _MAY_CHANGE and path[-1] not in {"description", "source"}
    ]
    if differences:
        shown = "\n".join(
            f"  {'.'.join(path[1:] if path[0] == 'experiment' else path)}: "
            f"{_short(old_value)} -> {_short(new_value)}"
            for path, old_value, new_value in differences[:10]
        )
        raise SweepError(
            f"{loaded.origin} differs from the sweep in {journal.folder}, whose trials could not "
            f"be compared with new ones:\n{shown}\nStart another sweep with --new, or undo the "
            "change to continue this one."
        )


def _differences(
    old: Any, new: Any, path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted({*old, *new}, key=str)
            for difference in _differences(old.get(key), new.get(key), (*path, str(key)))
        ]
    return [] if old == new else [(path, old, new)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_provenance(journal: Journal, provenance: Mapping[str, Any]) -> None:
    old = journal.lines[0]["provenance"]
    changed = [name for name, digest in provenance["data"].items() if old["data"][name] != digest]
    if old["base"]["sha256"] != provenance["base"]["sha256"]:
        changed.insert(0, "the base model's weights")
    if changed:
        raise SweepError(
            f"Since the sweep in {journal.folder} began, this has changed: {', '.join(changed)}. "
            "Its trials could not be compared with new ones; start another sweep with --new."
        )


def _provenance() -> dict[str, Any]:
    packages = ("torch", "transformers", "peft", "ray", "deepspeed", "mlflow", "optuna")
    return {
        "code": {"version": _version("curlora-orchestrator"), "commit": _commit()},
        "packages": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this code when it runs from a checkout, `+` when it was changed since."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if changes else ''}" if commit else None


# --- MLflow --------------------------------------------------------------------------------------


class _Projection:
    """Lets MLflow catch up with the journal; a server that is down costs no finished work."""

    def __init__(
        self, experiment: Experiment, storage: Path, journal: Journal, observer: Observer
    ) -> None:
        from orchestrator.tracking import Projection, tracking_uri

        self._uri = tracking_uri(experiment, storage)
        self._journal = journal
        self._observer = observer
        self._mlflow: Projection | None = None
        self._make = lambda: Projection(self._uri, journal.folder)
        self._again_at = -math.inf

    def catch_up(self) -> None:
        """Write what MLflow lacks; say so and go on when it cannot be reached."""
        from orchestrator.tracking import TrackingError

        if time.monotonic() < self._again_at:
            return
        try:
            if self._mlflow is None:
                self._mlflow = self._make()
            self._mlflow.catch_up(self._journal.lines)
        except TrackingError as error:
            if self._again_at < 0:
                self._observer.note(f"MLflow lags behind: {error}")
            # A server that is down takes half a minute to say so, and trials wait meanwhile.
            self._again_at = time.monotonic() + MLFLOW_PAUSE_SECONDS
        else:
            self._again_at = -math.inf

    def finish(self) -> None:
        """Write everything, register the champion; refuse to end silently without it.

        Raises:
            SweepError: If MLflow cannot be reached.
        """
        from orchestrator.model_registry import register_champion
        from orchestrator.tracking import Projection, TrackingError

        try:
            if self._mlflow is None:
                self._mlflow = Projection(self._uri, self._journal.folder)
            self._mlflow.catch_up(self._journal.lines)
            ends = [line for line in self._journal.lines if line["event"] == "sweep_ended"]
            champion = ends[-1]["champion"] if ends else None
            last = self._journal.lines[-1]["event"]
            if champion is not None and last == "sweep_ended":
                registered = register_champion(
                    self._uri, sweep_folder=self._journal.folder, lines=self._journal.lines
                )
                line = self._journal.append(
                    "champion_registered",
                    trial=champion,
                    model=registered.model,
                    version=registered.version,
                )
                self._observer.line(line)
                self._mlflow.catch_up(self._journal.lines)
        except TrackingError as error:
            raise SweepError(
                f"All trials are finished and kept in {self._journal.folder}, and MLflow lags "
                f"behind. {error}"
            ) from None
