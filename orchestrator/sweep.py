"""A sweep: from an experiment file to trials, a front and a champion, through Ray Tune.

The driver (this process) decides and records: it proposes trials, receives their reports, writes
the journal, and lets MLflow catch up with it. Running the same sweep again reads the journal and
does what is missing.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import signal
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from pydantic import ValidationError

from orchestrator.base_facts import UNKNOWN
from orchestrator.batches import DataError, PreparedData, prepare
from orchestrator.cluster import (
    HEAD_RESOURCE,
    HEAD_SHARE,
    ClusterError,
    Leftovers,
    check_driver,
    check_storage,
    connected,
    fit,
    head_fit,
    largest_resources,
    pool_members,
    process_environment,
    required_fit,
    sigterm_as_interrupt,
    wait_until_clean,
    worker_places,
)
from orchestrator.content_cache import ContentCache
from orchestrator.continual_loop import StageReport
from orchestrator.driver import (
    Capacity,
    Driver,
    Observer,
    SweepError,
    SweepInterruptedError,
)
from orchestrator.experiment import Experiment, LoadedExperiment, ResourceSpec, SearchSpec
from orchestrator.foreign_settings import set_aside
from orchestrator.journal import (
    JOURNAL_NAME,
    Journal,
    JournalError,
    Line,
    last_line,
    path_within,
    read_journal,
    reading_due,
    standing_verdict,
    without_nan,
    without_series,
)
from orchestrator.model_registry import adapter_flaw
from orchestrator.preflight import PreflightError, cautions, check
from orchestrator.provenance import (
    ChangedSweepError,
    check_provenance,
    check_same,
    differing_versions,
    provenance_now,
)
from orchestrator.readings import ReadingError, Side, read_on_ray, read_sides
from orchestrator.seals import move_aside
from orchestrator.sweep_view import SweepView, versions
from orchestrator.tasks import computed_fields
from orchestrator.tracking_address import (
    TrackingError,
    redacted,
    redacted_document,
    tracking_uri,
)
from orchestrator.training import BASE_TRIAL, ProgressFile, run_locally

if TYPE_CHECKING:
    from orchestrator.tracking import Projection

MLFLOW_PAUSE_SECONDS = 60.0
"""How long MLflow is left alone after it could not be reached."""
_REGISTERED = {"sweep_ended", "test_read", "champion_registered"}
"""Lines after which the registry lacks something, and the one that says that it has it."""
PROGRESS_SECONDS = 0.5
"""How often running trials are asked how far they are."""


_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run, as opposed to what it runs."""

    address: str | None = None
    """Address of a running Ray cluster; None starts a local one."""
    new: bool = False
    """Start another sweep of the same name instead of continuing the last."""
    retry_failed: bool = False
    """Run trials that had failed once more, from their beginning."""
    data_root: Path | None = None
    scheduler: Any = None
    """A scheduler of `ray.tune` that may stop trials. After each task they report `gain` over the
    untouched base and `tasks_learnt`."""
    kind: Literal["sweep", "run"] = "sweep"
    """`run` is one trial with the experiment's own method, `search` ignored."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left in its journal."""

    folder: Path
    lines: list[Line]
    complaint: str = ""
    """What is to be mended although the sweep is finished; empty where nothing is."""


def _own_workers(resources: ResourceSpec) -> ResourceSpec:
    """A single trial has nobody to share a base with."""
    if resources.executor != "pool":
        return resources
    return resources.model_copy(update={"executor": "train"})


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
        `<storage>/<name>`, or `<storage>/<name>-2` and so on; never the folder of a sweep of
        another name, which may be `<name>-2` itself.
    """
    pattern = re.compile(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?")
    numbers = [
        int(match[1] or 1)
        for path in storage.glob(f"{name}*/{JOURNAL_NAME}")
        if (match := pattern.fullmatch(path.parent.name)) and _name_in(path) in {name, None}
    ]
    if numbers and not new:
        return storage / _numbered(name, max(numbers))
    number = max(numbers, default=0) + 1
    while (storage / _numbered(name, number) / JOURNAL_NAME).is_file():
        number += 1
    return storage / _numbered(name, number)


def _name_in(journal: Path) -> str | None:
    """The name of the experiment that a journal was opened for; None where it does not say."""
    with journal.open("rb") as file:
        first = file.readline()
    try:
        return str(json.loads(first)["experiment"]["name"])
    except (ValueError, KeyError, TypeError):  # empty or damaged, which opening it says
        return None


def has_begun(experiment: Experiment) -> bool:
    """Whether there is a sweep of this name that searches this space, so that it can be continued.

    Args:
        experiment: The experiment as the file has it now.

    Returns:
        False as well where it cannot be told.
    """
    storage = Path(experiment.storage).expanduser().resolve()
    lines = read_journal(sweep_folder(storage, experiment.name, new=False))
    try:
        begun = SearchSpec.model_validate(lines[0]["experiment"]["search"]) if lines else None
    except (ValidationError, KeyError):
        return False
    now = experiment.search
    return begun is not None and now is not None and (begun.space, begun.first) == (
        now.space, now.first,
    )  # fmt: skip


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


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
    _check_scheduler(options.scheduler)
    experiment = loaded.experiment
    if options.kind == "run":
        experiment = experiment.model_copy(
            update={
                "search": None,
                "name": f"{experiment.name}-run",
                "resources": _own_workers(experiment.resources),
            }
        )
        loaded = loaded.model_copy(update={"experiment": experiment})
    storage = Path(experiment.storage).expanduser().resolve()
    folder = sweep_folder(storage, experiment.name, new=options.new)
    from orchestrator.base_model import ModelError

    try:
        with sigterm_as_interrupt() as raise_if_interrupted, Journal(folder) as journal:
            complaint = _open(loaded, journal, observer, options, storage, raise_if_interrupted)
            return SweepOutcome(folder, list(journal.lines), complaint)
    except (
        JournalError, ClusterError, DataError, ModelError, PreflightError, ChangedSweepError,
    ) as error:  # fmt: skip
        raise SweepError(str(error)) from None


def _check_scheduler(scheduler: Any) -> None:
    """Refuse schedulers that pause trials, or change what they run on."""
    if scheduler is None:
        return
    from ray.tune import schedulers

    refused = (
        schedulers.HyperBandScheduler, schedulers.PopulationBasedTraining,
        schedulers.PopulationBasedTrainingReplay, schedulers.ResourceChangingScheduler,
    )  # fmt: skip
    if isinstance(scheduler, refused):
        raise SweepError(
            f"The scheduler {type(scheduler).__name__} pauses or changes running trials, which is "
            "not supported. Give one that stops them, such as ASHAScheduler."
        )


def _open(
    loaded: LoadedExperiment,
    journal: Journal,
    observer: Observer,
    options: SweepOptions,
    storage: Path,
    raise_if_interrupted: Callable[[], None],
) -> str:
    """Run what is missing; give what is to be mended although the sweep is finished."""
    for line in journal.lines:
        observer.line(line)
    if journal.lines:
        check_same(loaded, journal)
    projection = _Projection(loaded.experiment, storage, journal, observer)
    retried = _retried(journal, options)
    if not retried and standing_verdict(journal.lines) is not None:
        searched = [x for x in journal.lines if x["event"] == "trial_proposed" and not x.get("of")]
        proposed = len(searched) - 1  # the base is one of them
        wanted = _wanted(loaded.experiment)
        whole = loaded.experiment.search is None or proposed >= wanted
        if whole and not reading_due(journal.lines):
            observer.note("this sweep is finished; nothing is left to run")
            return projection.finish(just_decided=False)
    before = standing_verdict(journal.lines)
    try:
        complaint = _run(
            loaded, journal, observer, options, projection, retried, raise_if_interrupted
        )
    except BaseException:
        projection.rest()
        raise
    observer.note("writing what remains to MLflow")
    # A verdict of an earlier session has had its test data read now, and nothing else.
    decided = (standing_verdict(journal.lines) or {}).get("n") != (before or {}).get("n")
    return " ".join(filter(None, (complaint, projection.finish(just_decided=decided))))


def _retried(journal: Journal, options: SweepOptions) -> list[str]:
    """The trials that start over; the base always, as nothing is judged without row 0."""
    trials = SweepView.of(map(without_series, journal.lines)).everything
    failed = [name for name, trial in trials.items() if trial.state == "FAILED"]
    if not options.retry_failed:
        return [name for name in failed if name == BASE_TRIAL]
    lost = [
        name
        for name, trial in trials.items()
        if trial.adapter
        and adapter_flaw(path_within(journal.folder, trial.adapter), trial.adapter_sha256, name)
        is not None
    ]
    return [*failed, *lost]


def _run(
    loaded: LoadedExperiment,
    journal: Journal,
    observer: Observer,
    options: SweepOptions,
    projection: _Projection,
    retried: Sequence[str],
    raise_if_interrupted: Callable[[], None],
) -> str:
    from orchestrator.base_facts import vocabulary
    from orchestrator.base_model import (
        base_sha256,
        load_tokenizer,
        setup_sha256,
        tokenizer_sha256,
    )

    experiment = loaded.experiment
    if experiment.resources.executor != "local":
        # Ray reads some of it while it is imported, as the driver does first of all.
        os.environ.update(process_environment())
    observer.note("checking that nothing is in the way")
    ended = {line["trial"] for line in journal.lines if line["event"] == "trial_ended"}
    missing = max(1, _wanted(experiment) - len(ended - {BASE_TRIAL} - {*retried}))
    check(loaded, journal.folder.parent, trials=missing, address=options.address)
    if experiment.search is not None and experiment.search.left_out is not None:
        observer.note(experiment.search.left_out)
    for caution in cautions(experiment, journal.folder.parent):
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
    if not journal.lines:
        _set_leftovers_aside(journal.folder, observer)
        observer.line(
            journal.append(
                "sweep_opened",
                sweep=journal.folder.name,
                sweep_id=uuid.uuid4().hex,
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
        check_provenance(journal, provenance)
        _continue(journal, observer, provenance, retried, trials=_wanted(experiment))
    row_0 = _row_0_key(loaded, provenance)

    def keep_row_0(report: StageReport) -> None:
        if base_hash != UNKNOWN:
            cache.write("base", row_0, without_nan(report.as_document()))

    driver = Driver(loaded, journal, observer, data, keep_row_0)
    measured = cache.read("base", row_0)
    if measured is not None and BASE_TRIAL not in driver.trials:
        observer.note("the untouched base was measured on this data before")
        driver.adopt_base(StageReport.from_document(measured))
    base_test = None if base_hash == UNKNOWN else {**row_0, "split": "test"}
    readings = _Readings(driver, cache, base_test)
    return _run_what_is_missing(driver, options, projection, readings, raise_if_interrupted)


def _run_what_is_missing(
    driver: Driver,
    options: SweepOptions,
    projection: _Projection,
    readings: _Readings,
    raise_if_interrupted: Callable[[], None],
) -> str:
    """Run trials, make the verdict, have its test data read: what has not been done yet.

    Args:
        driver: The sweep.
        options: How it is run.
        projection: Its MLflow.
        readings: Of its test data.
        raise_if_interrupted: Asked by what runs in this process.

    Returns:
        What the sweep left on the cluster, as a complaint; empty where nothing.
    """
    if driver.experiment.resources.executor == "local":
        _run_trials_locally(driver, projection, raise_if_interrupted)
        _conclude(driver, projection)
        readings.make(read_sides)
        return ""
    if not driver.unfinished:  # it ended between its last trial and its last word
        _conclude(driver, projection)
    if driver.unfinished or reading_due(driver.journal.lines):
        return _run_trials_on_ray(driver, options, projection, readings)
    return ""


def _conclude(driver: Driver, projection: _Projection) -> None:
    """Make the verdict, unless everything has failed."""
    if driver.given_up and (driver.unfinished or driver.trials[BASE_TRIAL].state == "FAILED"):
        _give_up(driver, projection)
    driver.conclude()


class _Readings:
    """Has the test data read for a verdict, once."""

    def __init__(self, driver: Driver, cache: ContentCache, base_key: Any) -> None:
        """Remember whose.

        Args:
            driver: The sweep.
            cache: Where the base's test scores are kept, to be used by other sweeps' verdicts.
            base_key: What they follow from; None where that is not known.
        """
        self._driver = driver
        self._cache = cache
        self._base_key = base_key

    def make(self, read: Callable[[Mapping[str, Side], PreparedData], dict[str, Any]]) -> None:
        """Score what the verdict asks for, and journal it; a failure is told and costs nothing.

        Args:
            read: Scores models on the test data.
        """
        driver = self._driver
        if not reading_due(driver.journal.lines):
            return
        sides = driver.to_be_read()
        found: dict[str, Any] = {}
        kept = self._cache.read("base", self._base_key) if self._base_key and sides else None
        if kept is not None and BASE_TRIAL in sides:
            found[BASE_TRIAL] = kept
        wanted = {name: side for name, side in sides.items() if name not in found}
        driver.observer.note(
            "reading the test examples, once, for the champion and what it is compared with: "
            f"{', '.join(wanted) or 'all were scored before'}"
        )
        try:
            found |= read(wanted, driver.data) if wanted else {}
        except ReadingError as error:
            driver.observer.note(
                f"the test examples could not be read: {error}. The verdict stands, and the same "
                "command tries again"
            )
            return
        base = found.get(BASE_TRIAL)
        if self._base_key and kept is None and base is not None and "unread" not in base:
            self._cache.write("base", self._base_key, base)
        driver.test_read(found)


def _continue(
    journal: Journal,
    observer: Observer,
    provenance: Mapping[str, Any],
    retried: Sequence[str],
    *,
    trials: int,
) -> None:
    """Record that a sweep goes on, and say what is not as it was."""
    named: dict[str, Any] = {}
    if not any(line.get("sweep_id") for line in journal.lines):
        named = {"sweep_id": uuid.uuid4().hex}
        observer.note(
            "this sweep was begun before checksums: what its trials have left is not verified"
        )
    before = SweepView.of(map(without_series, journal.lines)).versions
    changes = differing_versions(before, versions(provenance))
    if changes:
        observer.note(
            f"not as before: {', '.join(changes)}; each trial's record says what it was made with"
        )
    observer.line(
        journal.append(
            "sweep_continued",
            trials=trials,
            retried=retried,
            base=provenance["base"],
            **{key: provenance[key] for key in ("code", "packages", "python", "platform")},
            **named,
        )
    )


def _set_leftovers_aside(folder: Path, observer: Observer) -> None:
    """Let a sweep that begins find nothing of another in its folder."""
    for name in ("trials", "ray"):
        if (folder / name).exists():
            kept_as = move_aside(folder / name)
            observer.note(
                f"{folder / name} is of a sweep whose journal is gone; it is kept as {kept_as.name}"
            )


def _row_0_key(loaded: LoadedExperiment, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the untouched base's scores follow from."""
    experiment = loaded.experiment
    named = [*experiment.tasks, *experiment.probes]
    return {
        "base": {
            "sha256": provenance["base"]["sha256"],
            "setup": provenance["base"]["setup_sha256"],
            "model": experiment.model.quantization,
        },
        "asked": [computed_fields(loaded.tasks[name]) for name in named],
        "precision": experiment.training.precision,
        "on_gpu": experiment.resources.gpus_per_worker > 0,
        "executor": experiment.resources.executor,
        "data": [[name, provenance["data"][name]] for name in experiment.tasks],
        "probes": [[name, provenance["data"][name]] for name in experiment.probes],
        "batch_tokens": experiment.data.batch_tokens,
        "code": provenance["code"],
        "packages": provenance["packages"],
    }


def _wanted(experiment: Experiment) -> int:
    """How many trials there are to be, the base not counted."""
    return experiment.searched_trials


def _give_up(driver: Driver, projection: _Projection) -> NoReturn:
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
        f"goes on with what is left ({driver.unfinished + (base is not None)} to run), with "
        "`--retry-failed` it also runs what has failed again, and with `--new` it starts over."
    )


def _run_trials_locally(
    driver: Driver, projection: _Projection, raise_if_interrupted: Callable[[], None]
) -> None:
    number = 0
    while isinstance(job := driver.next_job(str(number)), dict):
        name = job["trial"]
        driver.observer.progress(name, {"phase": "starting"})
        _run_one_locally(driver, name, raise_if_interrupted)
        driver.ended(str(number), error=False)
        projection.catch_up()
        number += 1


def _run_one_locally(driver: Driver, name: str, raise_if_interrupted: Callable[[], None]) -> None:
    """Run a trial in this process; whatever fails in it, the sweep goes on."""
    own: list[BaseException] = []

    def tell(message: dict[str, Any]) -> None:
        raise_if_interrupted()
        try:
            driver.hear_trial(name, message)
        except BaseException as error:
            own.append(error)  # the driver's failure, not the trial's
            raise

    folder = driver.journal.folder / "ray" / name
    try:
        run_locally(
            name, driver.trial_experiment(name), driver.data, folder, driver.maker(name), tell
        )
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


def _run_trials_on_ray(
    driver: Driver, options: SweepOptions, projection: _Projection, readings: _Readings
) -> str:
    """Run what is missing on Ray, make the verdict, and have its test data read.

    Args:
        driver: The sweep.
        options: How it is run.
        projection: Its MLflow.
        readings: Of its test data.

    Returns:
        What the sweep left on the cluster, as a complaint; empty where nothing.
    """
    experiment, note = driver.experiment, driver.observer.note
    note("starting Ray on this machine" if options.address is None else "joining the Ray cluster")
    if options.address is None and (others := set_aside()):
        note(f"not followed without `--address`: {', '.join(others)}")
    with connected(options.address) as resources:
        check_driver(options.address)
        check_storage(driver.journal.folder)
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        required_fit(largest_resources(experiment), cpus=cpus, gpus=gpus)
        driver.capacity = Capacity(cpus, gpus, _at_once(experiment, cpus, gpus, note))
        driver.scheduled = options.scheduler is not None
        if driver.unfinished:
            _fit(driver, options, projection)
        _conclude(driver, projection)
        folder = driver.journal.folder / "ray" / "test"
        readings.make(functools.partial(read_on_ray, resources=experiment.resources, folder=folder))
        left = wait_until_clean()
    return _complaint(left, note)


def _complaint(left: Leftovers, note: Callable[[str], None]) -> str:
    """What is to be said of a cluster at the end, where anything is."""
    if left.unknown:
        note(f"whether anything is left on the cluster could not be asked: {left.unknown}")
    if not left:
        return ""
    return (
        f"The sweep is finished and its verdict is recorded, but it left something on the cluster: "
        f"{left}. It goes with this command's connection, unless Ray was told to keep it; "
        "`ray list actors` and `ray list placement-groups` show what is there."
    )


def _at_once(
    experiment: Experiment, cpus: float, gpus: float, note: Callable[[str], None]
) -> float:
    """How many trials may run at a time; what bounds them is told."""
    import ray

    resources = experiment.resources
    members = pool_members(resources, cpus=cpus, gpus=gpus)
    there, on_head = (
        fit(resources, cpus=cpus, gpus=gpus), head_fit(resources, ray.nodes(), members=members),
    )  # fmt: skip
    note(there.arithmetic)
    wanted = min(there.at_once, experiment.searched_trials + 1)
    asked = experiment.search.max_concurrent if experiment.search is not None else None
    if on_head.at_once < min(wanted, asked or math.inf):
        note(
            f"{on_head.arithmetic}. A head node with more memory holds more, and fewer trials with "
            "more workers each (`resources.workers`) need less there"
        )
    return min(asked or math.inf, on_head.at_once)


def _fit(
    driver: Driver,
    options: SweepOptions,
    projection: _Projection,
) -> None:
    import ray
    from ray import tune

    from orchestrator.pool import Pool
    from orchestrator.search import TuneRecorder, TuneSearcher
    from orchestrator.slot_trial import slot_trial

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
    resources = driver.experiment.resources
    pool = None
    if resources.executor == "pool":
        pool = driver.pool = Pool(
            driver,
            shared,
            resources.members or max(1, worker_places(ray.nodes(), resources) // resources.workers),
        )
    mailboxes = pool.mailboxes if pool is not None else []
    trainable = tune.with_resources(
        tune.with_parameters(slot_trial, mailboxes=mailboxes, shared=shared),
        {HEAD_RESOURCE: HEAD_SHARE},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(own.kept(driver.next_job), ended),
            scheduler=options.scheduler,
            num_samples=before,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"tune-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            # The process of a trial in the pool is light, and what it asks for goes on without it.
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
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
        if pool is not None:
            pool.close()
            driver.tidy()
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
def _progress_read(driver: Driver) -> Iterator[None]:
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


# --- MLflow --------------------------------------------------------------------------------------


class _Projection:
    """Lets MLflow catch up with the journal; a server that is down costs no finished work."""

    def __init__(
        self, experiment: Experiment, storage: Path, journal: Journal, observer: Observer
    ) -> None:
        from orchestrator.tracking import Projection

        self._uri = tracking_uri(experiment.tracking.uri, storage)
        self._journal = journal
        self._observer = observer
        self._mlflow: Projection | None = None
        self._make = lambda: Projection(
            self._uri, journal.folder, say=lambda text: observer.note(f"MLflow: {text}")
        )
        self._again_at = -math.inf

    def catch_up(self, *, running: bool = True) -> None:
        """Write what MLflow lacks; say so and go on when it cannot be reached."""
        if time.monotonic() < self._again_at:
            return
        try:
            if self._mlflow is None:
                self._mlflow = self._make()
            self._mlflow.catch_up(self._journal.lines, running=running)
        except TrackingError as error:
            if self._again_at < 0:
                self._observer.note(f"MLflow lags behind: {error}")
            # A server that is down takes half a minute to say so, and trials wait meanwhile.
            self._again_at = time.monotonic() + MLFLOW_PAUSE_SECONDS
        else:
            self._again_at = -math.inf

    def rest(self) -> None:
        """Let MLflow show that nothing runs any more, if it was told before that something does."""
        if self._mlflow is not None:
            self.catch_up(running=False)

    def finish(self, *, just_decided: bool) -> str:
        """Write everything, and register the champion.

        Args:
            just_decided: Whether the verdict is of this moment.

        Returns:
            Why MLflow lacks something, in words for people; empty when it has everything.
        """
        lines = self._journal.lines
        refused = ""
        try:
            if self._mlflow is None:
                self._mlflow = self._make()
            self._mlflow.catch_up(lines, running=False)
            verdict = last_line(lines, "sweep_ended")
            champion = verdict["champion"] if verdict is not None else None
            if champion is not None and not self._is_registered():
                refused = self._register(self._mlflow, champion, just_decided)
            self._attach_report()
        except TrackingError as error:
            return (
                f"All trials are finished and kept in {self._journal.folder}, and MLflow lags "
                f"behind. {error}"
            )
        return refused

    def _register(self, mlflow: Projection, champion: str, just_decided: bool) -> str:
        """Register the champion; why it is not, where its adapter is not the one that it made."""
        lines, folder = self._journal.lines, self._journal.folder
        ended = last_line(lines, "trial_ended", champion) or {}
        if ended.get("adapter"):
            adapter = path_within(folder, ended["adapter"])
            wrong = adapter_flaw(adapter, ended.get("adapter_sha256"), champion)
            if wrong is not None:
                return (
                    f"All trials are finished and kept in {folder}, and the champion {champion} "
                    f"was not registered: {adapter} is not the adapter that it made: {wrong}. "
                    "Restore it from a copy, or add `--retry-failed`, which trains it again."
                )
        registered = mlflow.register(lines, just_decided=just_decided)
        line = self._journal.append(
            "champion_registered",
            trial=champion,
            model=registered.model,
            version=registered.version,
        )
        self._observer.line(line)
        self._observer.note(registered.text)
        mlflow.catch_up(lines, running=False)
        return ""

    def _is_registered(self) -> bool:
        """Whether the registry holds the last verdict's champion, its test scores included."""
        told = [line["event"] for line in self._journal.lines if line["event"] in _REGISTERED]
        return told[-1] == "champion_registered"

    def _attach_report(self) -> None:
        """Write the sweep's page and put it beside its run; a full disk costs no sweep."""
        from orchestrator.report import write_report

        try:
            page = write_report(self._journal.lines, self._journal.folder)
        except OSError as error:
            self._observer.note(f"the report could not be written: {error}")
            return
        if self._mlflow is not None:
            self._mlflow.attach(page.parent)
