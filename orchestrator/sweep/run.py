"""A sweep: from an experiment file to trials, a front and a champion.

The driver (this process) decides and records: it proposes trials, receives their reports, writes
the journal, and lets MLflow catch up with it. Running the same sweep again reads the journal and
does what is missing.
"""

from __future__ import annotations

import functools
import math
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.base.errors import ModelError
from orchestrator.base.facts import vocabulary
from orchestrator.base.files import UNKNOWN
from orchestrator.base.precision import PrecisionChoice, with_precision
from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedData
from orchestrator.executors.cluster_fit import ClusterError, pool_members
from orchestrator.executors.ray_settings import process_environment
from orchestrator.executors.signals import sigterm_as_interrupt
from orchestrator.executors.watching.abandoned_ray import end_abandoned
from orchestrator.planning.forecast import trial_work
from orchestrator.planning.preflight import PreflightError, cautions, check
from orchestrator.planning.resource_problems import own_devices
from orchestrator.records.errors import JournalError
from orchestrator.records.event import Event, Line
from orchestrator.records.event_fold import read_without_series
from orchestrator.records.events import JOURNAL_VERSION, FaultSurvived, SweepEnded, SweepOpened
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import last_line
from orchestrator.records.redaction import redacted, redacted_document
from orchestrator.records.requests.request_files import pending
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder, sweep_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.registry.index.index import open_index
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.conclusion import Ending, Readings, row_0_key, scores_follow_from
from orchestrator.sweep.continuation import continuation, refuse_leftovers, retried_trials
from orchestrator.sweep.deciding.budget import Budget, Forecast
from orchestrator.sweep.deciding.known import Known
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.extending.begin import check_beginning
from orchestrator.sweep.locally import run_trials_locally
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.sweep.on_ray import (
    check_scheduler,
    check_scored_after_each_task,
    run_trials_on_ray,
)
from orchestrator.sweep.precision import as_begun, decide_invariance, decide_precision
from orchestrator.sweep.proposing.warm_start import prior_trials
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.provenance import (
    ChangedSweepError,
    check_provenance,
    check_same,
    provenance_now,
)
from orchestrator.sweep.run_options import SweepOptions, SweepOutcome
from orchestrator.sweep.scores.completion import Completion, score_here
from orchestrator.sweep.scores.readings import read_sides
from orchestrator.sweep.telemetry.structured_log import LOG_VARIABLE, structured_log
from orchestrator.system.content_cache import ContentCache
from orchestrator.system.formatting import count
from orchestrator.system.scratch import remove_abandoned
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.opening import bring_sweep, opened_for_writing
from orchestrator.system.strict_json import without_nan


def _own_workers(resources: ResourceSpec) -> ResourceSpec:
    """A single trial has nobody to share a base with."""
    if not resources.facts.packs:
        return resources
    return resources.model_copy(update={"executor": "train"})


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
    check_scheduler(options.scheduler)
    experiment = loaded.experiment
    if options.kind == "run":
        experiment = experiment.model_copy(
            update={
                "search": None,
                "scoring": "full",
                "name": f"{experiment.name}-run",
                "resources": _own_workers(experiment.resources),
            }
        )
        loaded = loaded.model_copy(update={"experiment": experiment})
    if options.scheduler is not None:
        check_scored_after_each_task(experiment)
    try:
        storage = opened_for_writing(experiment.storage)
        folder = sweep_folder(storage, experiment.name, new=options.new)
        state = SweepState(whole=False)
        with (
            structured_log(observer, os.environ.get(LOG_VARIABLE)) as told,
            sigterm_as_interrupt() as raise_if_interrupted,
            Journal(folder, take=functools.partial(_replay, state, told)) as journal,
        ):
            complaint = _open(loaded, journal, state, told, options, storage, raise_if_interrupted)
            outcome = SweepOutcome(folder, list(journal.lines), complaint)
    except (
        JournalError, ClusterError, DataError, ModelError, PreflightError, ChangedSweepError,
        StoreError,
    ) as error:  # fmt: skip
        raise SweepError(str(error)) from None
    # Lists then find what was appended already read.
    open_index(storage).close()
    return outcome


def _replay(state: SweepState, observer: Observer, line: Line) -> None:
    """Let a line of an earlier process be known: read once, by all who keep what it says."""
    event = read_without_series(line)
    state.take(event)
    observer.event(event, replayed=True)


def _record(journal: Journal, state: SweepState, observer: Observer, event: Event) -> None:
    """Journal what happens before there is a driver, which takes over the state."""
    written = journal.append(event)
    state.take(written)
    observer.event(written)


def _open(
    loaded: LoadedExperiment,
    journal: Journal,
    state: SweepState,
    observer: Observer,
    options: SweepOptions,
    storage: Path,
    raise_if_interrupted: Callable[[], None],
) -> str:
    """Run what is missing; give what is to be mended although the sweep is finished."""
    bring_sweep(journal.folder)
    loaded = as_begun(loaded, journal)
    if journal.lines:
        check_same(loaded, journal)
    else:
        refuse_leftovers(journal.folder)
    if journal.torn and journal.lines:
        cut = f"{count(journal.torn, 'byte')} of a line that was never acknowledged are left out"
        torn = FaultSurvived("journal_torn", journal.path.name, cut)
        _record(journal, state, observer, torn)
    projection = MlflowSync(loaded.experiment, storage, journal, observer)
    retried = retried_trials(state, journal.folder, options)
    finished = state.ended and _finished(loaded.experiment, state)
    asked = pending(SweepFolder(journal.folder))
    if finished and not retried and not state.reading_due and not asked:
        observer.note("this sweep is finished; nothing is left to run")
        return projection.finish(just_decided=False)
    before = len(journal.lines)
    try:
        complaint = _run(
            loaded, journal, state, observer, options, projection, retried, raise_if_interrupted
        )
    except BaseException:
        projection.rest()
        raise
    observer.note("writing what remains to MLflow")
    # A verdict of an earlier session has had its test data read now, and nothing else.
    verdict = last_line(journal.lines, SweepEnded.name)
    decided = verdict is not None and verdict["n"] >= before
    return " ".join(filter(None, (complaint, projection.finish(just_decided=decided))))


def _decided(
    loaded: LoadedExperiment, observer: Observer, options: SweepOptions
) -> tuple[LoadedExperiment, PrecisionChoice | None]:
    """The experiment without what is left to the machine, and how the precision was chosen."""
    choice = None
    if loaded.experiment.training.precision == "auto":
        choice = decide_precision(loaded.experiment, options.address)
        observer.note(choice.words)
        loaded = with_precision(loaded, choice.used)
    return decide_invariance(loaded), choice


def _run(
    loaded: LoadedExperiment,
    journal: Journal,
    state: SweepState,
    observer: Observer,
    options: SweepOptions,
    projection: MlflowSync,
    retried: Sequence[str],
    raise_if_interrupted: Callable[[], None],
) -> str:
    from orchestrator.base.identity import base_sha256, setup_sha256, tokenizer_sha256
    from orchestrator.base.loading import load_tokenizer

    if loaded.experiment.resources.facts.on_ray:
        # Ray reads some of it while it is imported, as the driver does first of all.
        os.environ.update(process_environment())
    observer.note("checking files, machine and storage")
    _remove_what_was_abandoned(observer)
    began = time.monotonic() if options.began is None else options.began
    loaded, choice = _decided(loaded, observer, options)
    experiment = loaded.experiment
    done = {trial.name for trial in state.finished} - {*retried}
    missing = max(1, experiment.expected_trials - len(done))
    check(loaded, journal.folder.parent, trials=missing, address=options.address)
    if experiment.search is not None and experiment.search.left_out is not None:
        observer.note(experiment.search.left_out)
    for caution in cautions(experiment, journal.folder.parent, options.address):
        observer.note(caution)
    observer.note("reading the base model's weights and tokenizer")
    base_hash = base_sha256(experiment.model)
    cache = ContentCache(journal.folder.parent / "cache")
    data = prepare(
        loaded,
        load_tokenizer(experiment.model),
        note=observer.note,
        cache=cache,
        tokenizer_sha256=tokenizer_sha256(experiment.model, base_hash),
        vocabulary=vocabulary(experiment.model),
    )
    provenance = {
        "base": {
            **experiment.model.model_dump(),
            "sha256": base_hash,
            "setup_sha256": setup_sha256(experiment.model),
        },
        "data": data.hashes,
        **provenance_now(),
    }
    check_beginning(experiment, journal.folder.parent, base_hash, data.hashes)
    if not journal.lines:
        opened = SweepOpened(
            sweep=journal.folder.name,
            sweep_id=uuid.uuid4().hex,
            kind=options.kind,
            experiment=redacted_document(experiment.model_dump(mode="json")),
            tasks={n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
            yaml=redacted(loaded.text),
            origin=loaded.origin,
            provenance=provenance,
            controls=data.controls,
            precision=None if choice is None else asdict(choice),
            version=JOURNAL_VERSION,
        )
        _record(journal, state, observer, opened)
    else:
        check_provenance(journal, provenance)
        continued = continuation(state, observer, provenance, retried, search=experiment.search)
        _record(journal, state, observer, continued)
    row_0 = row_0_key(loaded, provenance)

    def keep_row_0(report: StageReport) -> None:
        if base_hash != UNKNOWN:
            cache.write("base", row_0, without_nan(report.as_document()))

    prior, known = prior_trials(experiment, provenance, journal.folder.parent)
    for words in known:
        observer.note(words)
    forecast = _forecast(experiment, data, options)
    follows = None if base_hash == UNKNOWN else scores_follow_from(loaded, provenance)
    driver = Driver(
        loaded, journal, observer, data, keep_row_0,
        budget=functools.partial(Budget, forecast=forecast, began=began),
        known=Known(state, prior, follows),
    )  # fmt: skip
    measured = cache.read("base", row_0)
    if measured is not None and BASE_TRIAL not in driver.trials:
        observer.note("the untouched base was measured on this data before")
        driver.adopt_base(StageReport.from_document(measured))
    base_test = None if base_hash == UNKNOWN else {**row_0, "split": "test"}
    ending = Ending(
        driver,
        projection,
        Completion(driver.ledger, cache, follows),
        Readings(driver, cache, base_test),
    )
    with driver.ledger.cards.following(journal.lines, observer.note):
        return _run_what_is_missing(driver, options, projection, ending, raise_if_interrupted)


def _remove_what_was_abandoned(observer: Observer) -> None:
    """End what killed sweeps have left running on this machine, and remove their files."""
    for words in end_abandoned():
        observer.note(words)
    remove_abandoned()


def _run_what_is_missing(
    driver: Driver,
    options: SweepOptions,
    projection: MlflowSync,
    ending: Ending,
    raise_if_interrupted: Callable[[], None],
) -> str:
    """Run trials, make the verdict, have its test data read: what has not been done yet.

    Args:
        driver: The sweep.
        options: How it is run.
        projection: Its MLflow.
        ending: What comes after its last trial.
        raise_if_interrupted: Asked by what runs in this process.

    Returns:
        What the sweep left on the cluster, as a complaint; empty where nothing.
    """
    if not driver.experiment.resources.facts.on_ray:
        run_trials_locally(driver, projection, raise_if_interrupted)
        ending.come(score_here, read_sides)
        return ""
    if driver.unfinished or ending.needs_models:
        return run_trials_on_ray(driver, options, projection, ending, raise_if_interrupted)
    ending.decide(score_here)  # it ended between its last trial and its last word
    if driver.state.reading_due:
        return run_trials_on_ray(driver, options, projection, ending, raise_if_interrupted)
    return ""


def _forecast(experiment: Experiment, data: PreparedData, options: SweepOptions) -> Forecast | None:
    """What a trial is expected to cost; asked only where there is a budget, on this machine."""
    search, resources = experiment.search, experiment.resources
    if search is None or not search.budgets or options.address is not None:
        return None
    work = trial_work(experiment, data)
    if work is None:
        return None
    cpus, gpus = own_devices(experiment)
    members = pool_members(resources, cpus=cpus, gpus=gpus) if resources.facts.on_ray else 1
    # What another trial has learnt is not learnt again.
    work *= 1.0 - experiment.inherited / len(experiment.tasks)
    return Forecast(
        {
            "time": work / resources.workers / members,
            "core": work * resources.cpus_per_worker,
            "gpu": work * resources.gpus_per_worker,
        },
        alone=work / resources.workers,
    )


def _finished(experiment: Experiment, state: SweepState) -> bool:
    """Whether a sweep that has a verdict has all the trials that it may have."""
    search, ended_by = experiment.search, state.verdict.budget if state.verdict else None
    own = [trial for trial in state.searched if not trial.is_asked_for]
    if search is None or len(own) >= search.count:
        return True
    allowed = search.budgets
    return any(allowed.get(kind, math.inf) <= bound for kind, bound in (ended_by or {}).items())


def _wanted(experiment: Experiment) -> int:
    """How many trials there are to be, the base not counted."""
    return experiment.searched_trials
