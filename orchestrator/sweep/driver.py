"""What a running sweep knows and decides: which trial comes next, what its reports mean, who wins.

The driver process journals everything it is told before it acts on it; reading the journal again
gives the same driver. It knows nothing of Ray.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import PreparedData
from orchestrator.executors.pool.admission import base_refuses, trial_refuses
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.trial_state import BASE_TRIAL
from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.measures.champion import Candidate, best_candidate
from orchestrator.measures.intervals import UNKNOWN
from orchestrator.measures.objectives import ProbeReading, measures, needs_order
from orchestrator.records.events import (
    Event,
    SetAside,
    StageReported,
    TrialEnded,
    TrialProposed,
    TrialStarted,
)  # fmt: skip
from orchestrator.records.journal import Journal
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import refusal
from orchestrator.spec.sections import ResourceSpec
from orchestrator.spec.task_kinds import LanguageModellingTask, computed_fields
from orchestrator.sweep.baselines import Controls, bounds
from orchestrator.sweep.driver_trial import Trial
from orchestrator.sweep.errors import SweepError, is_out_of_room, no_room
from orchestrator.sweep.protocols import WAIT, Capacity, Observer, Seats, Wait
from orchestrator.sweep.readings import Side
from orchestrator.sweep.verdict import Judged, fresh_seeds, judge, reading
from orchestrator.system.durable import copy_folder
from orchestrator.system.seals import UNSEALED, Maker, content_hash, file_hashes, flaw, move_aside
from orchestrator.system.strict_json import fingerprint

SEEN_TRIES, SEEN_SECONDS = 5, 0.2
"""How often, and after what pause, an adapter that was announced is looked for."""
ENOUGH_FAILURES = 3
"""A sweep whose first trials have all failed, this many of them, is stopped."""


class Driver:
    """Everything a running sweep knows; used from the driver's one thread."""

    def __init__(
        self,
        loaded: LoadedExperiment,
        journal: Journal,
        observer: Observer,
        data: PreparedData,
        base_measured: Callable[[StageReport], None] | None = None,
    ) -> None:
        from orchestrator.sweep.search import PastTrial, Proposer

        self._base_measured = base_measured

        self.loaded = loaded
        self.experiment = loaded.experiment
        self.journal = journal
        self.observer = observer
        self.data = data
        self.state = SweepState.of(journal.lines, whole=False)
        self.trials = {name: Trial(record) for name, record in self.state.everything.items()}
        self._by_tune_id: dict[str, str] = {}
        self._running: dict[str, ResourceSpec] = {}
        self.capacity = Capacity()
        self.pool: Seats | None = None
        """Where trials that can be packed run; None: each has workers of its own."""
        self._pool_starts = False
        """Whether members were told to start, and none has been heard of since."""
        self._seats: dict[str, str] = {}
        self._joint_trials: dict[str, bool] = {}
        self.scheduled = False
        """Whether a scheduler of Ray Tune may stop trials."""
        self._proposer: Proposer | None = None
        if self.experiment.search is not None:
            past = [PastTrial(t.name, t.overrides, t.state, t.measures) for t in self._searched()]
            self._proposer = Proposer(
                self.experiment.search,
                self.experiment.objectives,
                past,
                refuses=lambda overrides: refusal(self.experiment, overrides),
            )
        self._waiting = [t.name for t in self.trials.values() if not t.over]
        self._failed_now: list[str] = []
        self._finish_whole_trials()
        self._end_impossible_trials()

    # -- going on ---------------------------------------------------------------------------------

    def _finish_whole_trials(self) -> None:
        """A driver that died between a trial's last report and its end: the end is now."""
        for name in list(self._waiting):
            trial = self.trials[name]
            if trial.last_report(len(self.experiment.tasks)) is None:
                continue
            if name == BASE_TRIAL or self._adapter_flaw(name) is None:
                self._waiting.remove(name)
                self.finish(name)
            else:
                # It is made again, with the report that belongs to it.
                trial.record.forget(trial.last_stage(len(self.experiment.tasks)))

    def _end_impossible_trials(self) -> None:
        """Fail what an older version proposed though it cannot be; the sweep goes on without it."""
        for name in list(self._waiting):
            trial = self.trials[name]
            reason = refusal(self.experiment, trial.overrides)
            if reason is not None:
                self._waiting.remove(name)
                self._end(trial, "FAILED", f"its settings are impossible together: {reason}")
                self._failed_now.remove(name)  # it says nothing of the other trials

    def adopt_base(self, report: StageReport) -> None:
        """Take row 0 from an earlier measurement of the same base on the same data.

        Args:
            report: What that base trial reported.
        """
        base = self.trials.get(BASE_TRIAL)
        if base is not None and (base.over or base.reports):
            return
        if base is None:
            self._propose(BASE_TRIAL, {}, "an earlier sweep")
        else:
            self._waiting.remove(BASE_TRIAL)
        self._started(BASE_TRIAL)
        self._stage(self.trials[BASE_TRIAL], report.as_document(), None)
        self.finish(BASE_TRIAL)

    # -- proposing --------------------------------------------------------------------------------

    def _searched(self) -> list[Trial]:
        """The trials of the search: neither the base nor repetitions of a finalist."""
        return [t for t in self.trials.values() if t.name != BASE_TRIAL and t.of is None]

    @property
    def _total(self) -> int:
        """How many trials the search is to have."""
        return self._proposer.total if self._proposer is not None else 1

    @property
    def _search_over(self) -> bool:
        searched = self._searched()
        total = self._total
        return len(searched) >= total and all(t.over for t in searched)

    @property
    def unfinished(self) -> int:
        """Trials (the base included) that have yet to be run; at most, while the search goes on."""
        total = self._total
        missing = int(BASE_TRIAL not in self.trials) + max(0, total - len(self._searched()))
        return len(self._waiting) + missing + self._missing_repetitions()

    def _missing_repetitions(self) -> int:
        if self._search_over:
            return sum(name not in self.trials for name, _, _ in self._repetitions())
        return self.experiment.repeated_trials

    def finalists(self) -> list[Trial]:
        """The best searched trial of each group; those that keep the champion's limits first."""
        rule, per = self.experiment.champion, self.experiment.finalists.per
        groups: dict[str, list[Candidate]] = {}
        for trial in self._eligible():
            # A choice may be a list, which is no key.
            group = json.dumps(trial.overrides.get(per)) if per is not None else ""
            groups.setdefault(group, []).append(
                Candidate(trial.name, trial.measures or {}, UNKNOWN)
            )
        best = [
            best_candidate(group, maximize=rule.maximize, subject_to=rule.subject_to)
            for group in groups.values()
        ]
        return [self.trials[candidate.name] for candidate in best]

    def _repetitions(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Name, finalist and overrides of every repetition with a fresh seed."""
        own, count = self.experiment.training.seed, self.experiment.finalists.fresh_seeds
        if not count:
            return []
        seeds = fresh_seeds(own, self._seeds_in_the_choice(), count)
        return [
            (f"{t.name}-s{seed - own}", t.name, {**t.overrides, "training.seed": seed})
            for t in self.finalists()
            for seed in seeds
        ]

    def _eligible(self) -> list[Trial]:
        """The searched trials that may become champion: whole, and no controls."""
        return [
            trial
            for trial in self._searched()
            if trial.state == "COMPLETE"
            and trial.measures is not None
            and not self._joint(trial.name)
        ]

    def _seed_of(self, trial: Trial) -> int:
        return int(trial.overrides.get("training.seed", self.experiment.training.seed))

    def _seeds_in_the_choice(self) -> set[int]:
        """The seeds of all trials of the search, whatever became of them."""
        return {self._seed_of(trial) for trial in self._searched()}

    def next_job(self, tune_id: str) -> dict[str, Any] | Wait | None:
        """The next trial's configuration for Ray Tune.

        A trial that does not fit beside those that run lets one other go first: a trial of two
        workers would otherwise leave half of a machine idle until all others have ended.

        Args:
            tune_id: Tune's id for it.

        Returns:
            The configuration, `WAIT` while none fits, or None when there is none left.
        """
        if self.given_up:
            # What runs may still prove us wrong.
            return WAIT if self._running else None
        if len(self._running) >= self.capacity.trials:
            return WAIT
        name = self._next_that_fits()
        if name is None and self._waiting and not self._running and self.pool is not None:
            # What waits needs what the members hold, and they have nothing to do.
            if self.pool.is_open:
                self.pool.shut()
            name = self._next_that_fits()
        if name is None:
            later = self._waiting or (self._running and self._missing_repetitions())
            return WAIT if later else None
        self._by_tune_id[tune_id] = name
        experiment = self.trial_experiment(name)
        ProgressFile(self.journal.folder, name).remove()
        self._running[name] = experiment.resources
        self._started(name)
        job: dict[str, Any] = {
            "trial": name,
            "experiment": experiment.for_workers(),
            "maker": asdict(self.maker(name)),
            "folder": str(self.journal.folder),
            "seat": self.seat(name),
        }
        if self.pool is not None and job["seat"] == "pool":
            if not self.pool.is_open:
                self.pool.open()
                self._pool_starts = True
            job |= {"member": self.pool.assign(name), "row_0": self._row_0()}
        return job

    def _started(self, name: str) -> None:
        attempt = self.trials[name].record.attempts + 1
        self.record(TrialStarted(name, attempt, self.state.versions))

    def _next_that_fits(self) -> str | None:
        """A trial that can start now, proposed if need be; None while none can."""
        name = next((name for name in self._waiting if self._fits(name)), None)
        if name is not None:
            self._waiting.remove(name)
            return name
        # Trials that the pool cannot hold gather while it works, so that it is shut seldom. One
        # that it could hold waits for a place; the next is better proposed when more is known.
        most = 1 if self.pool is None else max(1, self.pool.places)
        while len(self._waiting) <= most and "pool" not in map(self.seat, self._waiting):
            name = self._propose_next()
            if name is None or self._fits(name):
                return name
            self._waiting.append(name)
        return None

    def seat(self, name: str) -> str:
        """Where a trial runs: "pool" or "train" (workers of its own)."""
        if self.pool is None:
            return "train"
        if name not in self._seats:
            self._seats[name] = self._choose_seat(name)
        return self._seats[name]

    def _choose_seat(self, name: str) -> str:
        experiment = self.trial_experiment(name)
        specs = {task: prepared.spec for task, prepared in self.data.tasks.items()}
        if name == BASE_TRIAL:
            refused = base_refuses(experiment, specs)
        else:
            refused = trial_refuses(experiment, specs, sweep=self.experiment)
        return "pool" if refused is None else "train"

    def _row_0(self) -> list[float | None] | None:
        """What trials are compared with, by task; None until it is measured."""
        if self.trials[BASE_TRIAL].state != "COMPLETE":
            return None
        return [v if math.isfinite(v) else None for v in self._controls().reference_row]

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

    def failures_now(self) -> list[Trial]:
        """The trials that failed in this session, in the order in which they did."""
        return [self.trials[name] for name in self._failed_now]

    def running(self) -> list[str]:
        """The trials that run now; safe to ask from another thread."""
        return list(self._running)

    def _fits(self, name: str) -> bool:
        if self.scheduled and name != BASE_TRIAL and self._row_0() is None:
            return False  # a scheduler compares gains over row 0
        seated = {other: self.seat(other) for other in self._running}
        held = [self._running[other] for other, seat in seated.items() if seat == "train"]
        if self.pool is not None and self.seat(name) == "pool":
            if len(seated) - len(held) >= self.pool.places:
                return False
            return self.pool.is_open or self.capacity.holds([*held, *self.pool.resources])
        if self.pool is not None and self.pool.is_open:
            held += self.pool.resources
        return self.capacity.holds([*held, self.trial_experiment(name).resources])

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
        self.experiment.with_overrides(overrides)  # what cannot be must not be recorded
        self.record(TrialProposed(name, overrides, by, of))
        return name

    def trial_experiment(self, name: str) -> Experiment:
        """The experiment of a trial: the sweep's with its overrides."""
        return self.experiment.with_overrides(self.trials[name].overrides)

    # -- whose work is whose ----------------------------------------------------------------------

    def maker(self, name: str) -> Maker:
        """What a trial's checkpoints and adapter are sealed with."""
        experiment = self.trial_experiment(name)
        tasks = [*experiment.tasks, *experiment.probes]
        made_of = {
            "base": [self.state.base_sha256, experiment.model.quantization],
            "data": [self.data.hashes[task] for task in tasks],
            "tasks": [computed_fields(self.loaded.tasks[task]) for task in tasks],
            "settings": experiment.model_dump(
                mode="json",
                include={"method", "head", "training", "data"},
            ),
            "workers": [experiment.resources.executor, experiment.resources.workers],
        }
        unsealed = name in self.state.unsealed
        return Maker(self.state.sweep_id, name, fingerprint(made_of), unsealed=unsealed)

    def adapter_folder(self, name: str) -> Path:
        """Where a trial's adapter is kept."""
        return self.journal.folder / "trials" / name / "adapter"

    def _adapter_flaw(self, name: str) -> str | None:
        """Why the adapter that is kept of a trial is not the one that it made; None if it is."""
        folder, maker = self.adapter_folder(name), self.maker(name)
        if not folder.is_dir():
            return "it is missing"
        wrong = flaw(folder, maker)
        return None if wrong == UNSEALED and maker.unsealed else wrong

    def _keep_adapter(self, name: str, source: Path) -> str | None:
        """Copy the adapter that a trial has made, once it has been found to be whole.

        Args:
            name: The trial.
            source: Where it was saved.

        Returns:
            Why it cannot be used; None when it is kept.

        Raises:
            SweepError: If the disk refuses.
        """
        maker, target = self.maker(name), self.adapter_folder(name)
        wrong = flaw(source, maker) if _is_seen(source) else "it is missing"
        if wrong is not None and not (wrong == UNSEALED and maker.unsealed):
            return f"its adapter in {source} cannot be used: {wrong}"
        try:
            if target.is_dir():
                kept = self._adapter_flaw(name)
                if kept is None and file_hashes(target) == file_hashes(source):
                    return None
                if kept is None:  # of an attempt whose last report was not heard
                    shutil.rmtree(target)
                else:
                    self._heard_set_aside(name, target, move_aside(target), kept)
            copy_folder(source, target)
        except OSError as error:
            raise SweepError(
                no_room(self.journal.folder, f"the adapter of {name}", str(error))
            ) from None
        return None

    def _heard_set_aside(self, name: str, what: Path, kept_as: Path, because: str) -> None:
        """Record, and say, that something foreign or damaged is not used."""
        self.observer.note(f"{what} is not used, and kept as {kept_as.name}: {because}")
        self.record(
            SetAside(
                trial=name,
                what=_within(self.journal.folder, what),
                kept_as=_within(self.journal.folder, kept_as),
                because=because,
            )
        )

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
        if self._pool_starts and self.seat(name) == "pool":
            self._pool_starts = False
            self.observer.note("the pool has started")
        match message.get("kind"):
            case "progress":
                self.observer.progress(name, dict(message["progress"]))
            case "ready":
                self.observer.progress(name, {"phase": "ready", "pid": message["worker_pid"]})
                self._stages(trial, message)
            case "stage":
                self._stage(trial, message["report"], message.get("checkpoint_path"))
            case "finished":
                self._stages(trial, message)
            case "failed":
                self._failed(trial, str(message["reason"]), message)
            case "set_aside":
                places = Path(message["what"]), Path(message["kept_as"])
                self._heard_set_aside(name, *places, str(message["because"]))
            case "lost":
                # The trial is not to blame, and would be lost; left unfinished, it is run again.
                raise SweepError(
                    f"No member of the pool is left to run {name}: {message['reason']}. What is "
                    "finished is kept; once that is mended, the same command goes on."
                )
            case _:
                pass

    def _failed(self, trial: Trial, reason: str, message: Mapping[str, Any]) -> None:
        if is_out_of_room(reason):
            # The trial is not to blame, and would be lost; left unfinished, it is run again.
            raise SweepError(no_room(self.journal.folder, f"trial {trial.name}", reason))
        trial.failure = reason
        trial.log = message.get("log")
        if trial.log is None:
            path = self.journal.folder / "trials" / trial.name / "log.txt"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(
                        f"attempt {trial.record.attempts}: {message.get('details', reason)}\n"
                    )
            except OSError as error:
                raise SweepError(
                    no_room(self.journal.folder, f"the log of {trial.name}", str(error))
                ) from None
            trial.log = str(path)

    def _stages(self, trial: Trial, message: Mapping[str, Any]) -> None:
        """Take in those reports of a checkpoint that never arrived."""
        for report in message.get("reports", ()):
            self._stage(trial, report, message.get("checkpoint_path"))

    def _stage(self, trial: Trial, document: Mapping[str, Any], checkpoint: str | None) -> None:
        report = StageReport.from_document(document)
        if report.stage in trial.reports or trial.over:
            return
        last = report.row is not None and report.task_index == len(self.experiment.tasks) - 1
        if last and checkpoint is not None:
            # Copied before it is journalled: a journalled last report has its adapter. The last
            # message repeats all reports, so that it is looked for twice.
            trial.trouble = self._keep_adapter(trial.name, Path(checkpoint) / "adapter")
            if trial.trouble is not None:
                return
        self.record(StageReported(trial.name, report))

    def ended(self, tune_id: str, error: bool) -> None:
        """Ray Tune says that a trial is over."""
        name = self._by_tune_id[tune_id]
        self._running.pop(name, None)
        if self.pool is not None:
            self.pool.release(name)
        trial = self.trials[name]
        if error and trial.failure is None:
            reason = "the trial's process ended unexpectedly (out of memory, or killed)"
            self._failed(trial, reason, {})
        self.finish(name)

    # -- ending -----------------------------------------------------------------------------------

    def finish(self, name: str) -> None:
        """End a trial, now or, when row 0 is still being measured, as soon as it is known."""
        trial = self.trials[name]
        if trial.over:
            return  # row 0 came between its last report and Ray Tune's word that it is over
        final = trial.last_report(len(self.experiment.tasks))
        if trial.failure is not None or final is None:
            self._end_early(trial)
            return
        if name == BASE_TRIAL:
            self._end(trial, "COMPLETE", "", self._measures(trial, trial, final))
            if self._base_measured is not None:
                self._base_measured(final)
            for other in list(self.trials.values()):
                whole = other.last_report(len(self.experiment.tasks)) is not None
                if not other.over and whole and other.name not in self._waiting:
                    self.finish(other.name)
            return
        base = self.trials.get(BASE_TRIAL)
        base_report = base.last_report(0) if base is not None else None
        if base is None or base_report is None:
            return
        found = self._measures(trial, base, final)
        wanted = set(self.experiment.objectives)
        if self._joint(name):
            wanted -= needs_order()
        bad = [n for n in sorted(wanted) if not math.isfinite(found[n])]
        if bad:
            self._end(trial, "FAILED", f"the objectives {bad} could not be measured")
        else:
            self._end(trial, "COMPLETE", "", found)

    def _end_early(self, trial: Trial) -> None:
        """End a trial that has failed, or was stopped before its last report."""
        if trial.failure is None and self.scheduled and trial.reports:
            self._end(trial, "STOPPED", "stopped by the scheduler")
            return
        reason = trial.failure or trial.trouble or "the trial ended before its last report"
        self._end(trial, "FAILED", reason)

    def _joint(self, name: str) -> bool:
        """Whether a trial learns all tasks at once: a control, for which no trial can be chosen."""
        if name not in self._joint_trials:
            self._joint_trials[name] = self.trial_experiment(name).method.sequence == "joint"
        return self._joint_trials[name]

    def _end(
        self, trial: Trial, state: str, reason: str, measured: dict[str, float] | None = None
    ) -> None:
        """Record the end of a trial; `measured` only if it is complete."""
        adapter = self.adapter_folder(trial.name)
        has_adapter = state == "COMPLETE" and adapter.is_dir()
        compared = measured is not None and trial.name != BASE_TRIAL
        controls = self._controls() if compared else None
        examples = self.examples(trial.name) if compared else None
        self.record(
            TrialEnded(
                trial=trial.name,
                state=state,
                reason=reason,
                measures=None if measured is None else {**measured},
                gain_interval=controls
                and bounds(controls.interval(examples, controls.reference_examples)),
                intervals=controls and controls.intervals(examples),
                adapter=str(adapter.relative_to(self.journal.folder)) if has_adapter else None,
                adapter_sha256=content_hash(file_hashes(adapter)) if has_adapter else None,
                log=trial.log and _within(self.journal.folder, Path(trial.log)),
            )
        )
        if self._proposer is not None and trial.name != BASE_TRIAL and trial.of is None:
            self._proposer.tell(trial.name, measured)
        ProgressFile(self.journal.folder, trial.name).remove()
        if state == "FAILED":
            self._failed_now.append(trial.name)
        self._remove_checkpoint(trial)

    def _remove_checkpoint(self, trial: Trial) -> None:
        """What an ended trial would have gone on from is of no use any more."""
        shutil.rmtree(self.journal.folder / "ray" / trial.name, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what members of the pool have saved of trials that had ended meanwhile."""
        for trial in self.trials.values():
            if trial.over:
                self._remove_checkpoint(trial)

    def _measures(self, trial: Trial, base: Trial, final: StageReport) -> dict[str, float]:
        tasks = self.experiment.tasks
        base_report = base.last_report(0)
        if base_report is None or base_report.row is None:
            raise AssertionError("measures are read only once row 0 is known")
        headed = tuple(self.data.tasks[task].has_head for task in tasks)
        matrix = AccuracyMatrix(tasks, (base_report.row,), headed)
        for index in range(final.task_index + 1):
            report = trial.reports.get((index, DONE))
            row = report.row if report is not None else None
            # Where tasks are learnt jointly, only the last row is ever measured.
            matrix = matrix.with_row(row or (NOT_MEASURED,) * len(tasks))
        experiment = self.trial_experiment(trial.name)
        return measures(
            matrix,
            reference=self._controls().reference_row,
            probes=self._probes(base_report.probes or {}, final.probes or {}),
            cost_s=final.seconds * experiment.resources.workers,
            cost_tokens=float(final.tokens),
        )

    def _controls(self) -> Controls:
        base = self.trials[BASE_TRIAL].last_report(0)
        if base is None:
            raise AssertionError("controls are read only once row 0 is known")
        return Controls([self.data.tasks[name] for name in self.experiment.tasks], base)

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
        """Name the front and the champion when nothing is left to run, unless that is done."""
        if self.state.verdict is not None:
            return
        tried = {t.name: self._judged(t) for t in self._eligible()}
        finalists = {t.name: self._repeats(t) for t in self.finalists()}
        stopped = sum(trial.state == "STOPPED" for trial in self._searched())
        self.record(judge(tried, finalists, self._controls(), self.experiment, stopped=stopped))

    def to_be_read(self) -> dict[str, Side]:
        """Say whose test scores the verdict asks for.

        Returns:
            Trials and the base, by name, without those that an earlier reading has scored.
        """
        verdict = self.state.verdict
        if verdict is None or not self.state.reading_due:
            return {}
        known = self._read_before()
        names = (BASE_TRIAL, verdict.champion, verdict.runner_up)
        for name in names[1:]:
            if name is not None and name not in known:
                self._set_other_adapter_aside(name)
        return {
            name: Side(
                # Without what only the driver needs, such as where MLflow records.
                experiment_received(self.trial_experiment(name).for_workers()),
                None if name == BASE_TRIAL else self.adapter_folder(name),
            )
            for name in names
            if name is not None and name not in known
        }

    def _set_other_adapter_aside(self, name: str) -> None:
        """Let nothing be read from an adapter that the journal does not vouch for."""
        folder = self.adapter_folder(name)
        wrong = adapter_flaw(folder, self.state.trial(name).adapter_sha256, name)
        if wrong is not None and folder.is_dir():
            self._heard_set_aside(name, folder, move_aside(folder), wrong)

    def _read_before(self) -> dict[str, dict[str, Any]]:
        """The test scores that earlier readings have journalled, by trial."""
        return {n: side for read in self.state.readings for n, side in read.sides.items()}

    def test_read(self, sides: Mapping[str, dict[str, Any]]) -> None:
        """Journal a reading of the test data.

        Args:
            sides: What was found of `to_be_read`, by name.
        """
        verdict = self.state.verdict
        assert verdict is not None, "test data are read for a verdict"
        wanted = {BASE_TRIAL, verdict.champion, verdict.runner_up}
        everything = {**self._read_before(), **sides}
        self.record(
            reading(
                verdict,
                {name: side for name, side in everything.items() if name in wanted},
                [self.data.tasks[name] for name in self.experiment.tasks],
                number=1 + sum(bool(read.reading) for read in self.state.readings),
            )
        )

    def _judged(self, trial: Trial) -> Judged:
        return Judged(trial.name, trial.measures or {}, self.examples(trial.name) or {})

    def _repeats(self, finalist: Trial) -> list[Judged]:
        """A finalist's repetitions with seeds that had no part in the choice."""
        used = self._seeds_in_the_choice()
        return [
            self._judged(trial)
            for trial in self.trials.values()
            if trial.of == finalist.name
            and trial.state == "COMPLETE"
            and self._seed_of(trial) not in used
        ]

    def examples(self, name: str) -> dict[str, tuple[float, ...]] | None:
        """What a trial scores on each validation example, read from the journal.

        Args:
            name: The trial.

        Returns:
            By task; None where it has no last report, or that holds none.
        """
        trial = self.trials[name]
        number = trial.record.lines.get(trial.last_stage(len(self.experiment.tasks)))
        if number is None:
            return None
        return StageReport.from_document(self.journal.lines[number]["report"]).per_example

    def record(self, event: Event) -> None:
        """Journal what happens, take it in, then tell the observer."""
        written = self.journal.append(event)
        self.state.take(written)
        if isinstance(written, TrialProposed):
            self.trials[written.trial] = Trial(self.state.trial(written.trial))
        self.observer.event(written)


def _is_seen(folder: Path) -> bool:
    """Whether a folder is there; a network file system may show it only after a moment."""
    for _ in range(SEEN_TRIES):
        if folder.is_dir():
            return True
        if folder.parent.parent.is_dir():
            list(folder.parent.parent.iterdir())  # asks the server anew
        time.sleep(SEEN_SECONDS)
    return folder.is_dir()


def _within(folder: Path, path: Path) -> str:
    """A path as it is journalled: relative to the sweep's folder, which may be moved."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
