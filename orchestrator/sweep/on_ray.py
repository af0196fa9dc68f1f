"""Running trials on a Ray cluster."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.base.devices import named
from orchestrator.executors.cluster_checks import check_driver, check_nodes, groups_refused
from orchestrator.executors.cluster_devices import NodesToAvoid, cluster_devices
from orchestrator.executors.cluster_fit import (
    ClusterError,
    fit,
    head_fit,
    largest_resources,
    required_fit,
)
from orchestrator.executors.elastic.holding import Holding
from orchestrator.executors.own_workers import OwnWorkers
from orchestrator.executors.pool.pool import Pool
from orchestrator.executors.ray_leftovers import Leftovers, wait_until_clean
from orchestrator.executors.ray_session import connected
from orchestrator.executors.watching.ray_watch import ray_is_gone
from orchestrator.executors.watching.starvation import Starvation
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.task_sequence import scored_of
from orchestrator.spec.experiment import Experiment
from orchestrator.sweep.conclusion import Ending
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.errors import SweepError, SweepInterruptedError
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.sweep.protocols import Capacity
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.sweep.scores.readings_on_ray import read_on_ray, score_on_ray
from orchestrator.sweep.telemetry.gauges import SweepGauges
from orchestrator.sweep.trial_loop import TrialLoop
from orchestrator.system.package_versions import versions_here
from orchestrator.system.ray_environment import set_aside

PROGRESS_SECONDS = 0.5
"""How often running trials are asked how far they are."""


_INTERRUPTED = "The sweep was stopped before all of its trials had run."


def check_scheduler(scheduler: Any) -> None:
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


def check_scored_after_each_task(experiment: Experiment) -> None:
    """Refuse a scheduler where a task's end says nothing to it."""
    cells, tasks = scored_of(experiment).cells, len(experiment.tasks)
    silent = [i for i in range(1, tasks) if cells is not None and not any(c[0] == i for c in cells)]
    if silent:
        raise SweepError(
            "A scheduler compares trials after each task, and with these objectives the search "
            f"scores nothing after task {silent[0]}. Set `scoring: full`, or give an objective "
            "that needs those scores, such as `learning_accuracy` or `forgetting`."
        )


def run_trials_on_ray(
    driver: Driver,
    options: SweepOptions,
    projection: MlflowSync,
    ending: Ending,
    raise_if_interrupted: Callable[[], None],
) -> str:
    """Run what is missing on Ray, make the verdict, and have its test data read.

    Args:
        driver: The sweep.
        options: How it is run.
        projection: Its MLflow.
        ending: What comes after its last trial.
        raise_if_interrupted: Asked now and then.

    Returns:
        What the sweep left on the cluster, as a complaint; empty where nothing.
    """
    experiment, note = driver.experiment, driver.observer.note
    note("starting Ray on this machine" if options.address is None else "joining the Ray cluster")
    if options.address is None and (others := set_aside()):
        note(f"not followed without `--address`: {', '.join(others)}")
    with connected(options.address):
        check_driver(options.address)
        check_nodes(driver.journal.folder, _base_files(experiment), versions_here())
        _refuse_groups(experiment, driver.journal.folder)
        chosen = driver.state.precision
        if chosen is not None and chosen["used"] == "bf16":
            driver.admission.avoid = NodesToAvoid(experiment.resources, note)
        elif options.address is not None:
            _say_where_bf16_is_slow(experiment, note)
        holding = Holding(
            driver.folder.path.name, experiment.resources, lambda: driver.could_run, note,
            shared=options.address is not None,
        )  # fmt: skip
        cpus, gpus = holding.room.cpus, holding.room.gpus
        required_fit(largest_resources(experiment), cpus=cpus, gpus=gpus)
        at_once = trials_at_once(experiment, cpus, gpus, note)
        driver.admission.capacity = _capacity(holding, at_once)
        driver.admission.scheduled = options.scheduler is not None
        if driver.unfinished:
            _run_trials(driver, options, projection, holding, raise_if_interrupted)
        where: Any = {
            "resources": experiment.resources,
            "folder": driver.folder.readings,
            "avoid": driver.admission.avoid,
        }
        ending.come(
            functools.partial(score_on_ray, **where), functools.partial(read_on_ray, **where)
        )
        left = wait_until_clean()
    return leftovers_complaint(left, note)


def _refuse_groups(experiment: Experiment, folder: Path) -> None:
    """Refuse groups of workers where the storage is an address and there are several nodes."""
    resources = experiment.resources
    if resources.facts.packs and resources.workers == 1:
        return  # methods that cannot be packed are refused trial by trial
    refused = groups_refused(folder)
    if refused is not None:
        raise ClusterError(refused)


def _base_files(experiment: Experiment) -> dict[str, int]:
    """The files of the base model and their bytes; none where it comes from a hub."""
    place = Path(str(experiment.model.name or experiment.model.gguf)).expanduser().resolve()
    files = [place] if place.is_file() else sorted(place.glob("*")) if place.is_dir() else []
    return {str(file): file.stat().st_size for file in files if file.is_file()}


def _capacity(holding: Holding, at_once: float) -> Capacity:
    """What may run at a time: on what is there, and on what may come."""
    return Capacity(holding.room.cpus, holding.room.gpus, at_once, holding.workers)


def _say_where_bf16_is_slow(experiment: Experiment, note: Callable[[str], None]) -> None:
    """Warn of devices of the cluster that do not multiply what the file asks for."""
    if experiment.training.precision == "bf16":
        slow = [each for each in cluster_devices(experiment.resources) if not each.bf16]
        if slow:
            note(
                f"`training.precision: bf16`: {named(slow)} of this cluster does not multiply bf16 "
                f"({slow[0].because}) and takes several times as long as in fp32; with "
                "`precision: auto` the cluster's nodes decide"
            )


def leftovers_complaint(left: Leftovers, note: Callable[[str], None]) -> str:
    """What is to be said of a cluster at the end, where anything is."""
    if left.unknown:
        note(f"whether anything is left on the cluster could not be asked: {left.unknown}")
    if not left:
        return ""
    return (
        f"The sweep is finished and its verdict is recorded, but it left something on the cluster: "
        f"{left}. It goes with this command's connection, unless Ray was asked to keep it; "
        "`ray list actors` and `ray list placement-groups` show what is there."
    )


def trials_at_once(
    experiment: Experiment, cpus: float, gpus: float, note: Callable[[str], None]
) -> float:
    """How many trials may run at a time; what bounds them is told."""
    import ray

    resources = experiment.resources
    there, on_head = fit(resources, cpus=cpus, gpus=gpus), head_fit(resources, ray.nodes())
    note(there.arithmetic)
    wanted = min(there.at_once, experiment.searched_trials + 1)
    asked = experiment.search.max_concurrent if experiment.search is not None else None
    if on_head.at_once < min(wanted, asked or math.inf):
        note(
            f"{on_head.arithmetic}. A head node with more memory holds more, and fewer trials with "
            "more workers each (`resources.workers`) need less there"
        )
    return min(asked or math.inf, on_head.at_once)


def _run_trials(
    driver: Driver,
    options: SweepOptions,
    projection: MlflowSync,
    holding: Holding,
    raise_if_interrupted: Callable[[], None],
) -> None:
    import ray

    shared = [ray.put(driver.data)]
    resources = driver.experiment.resources
    pool = None
    if resources.facts.packs:
        pool = driver.admission.pool = Pool(
            driver.experiment,
            driver.journal.folder,
            shared,
            holding,
            unfinished=lambda: driver.unfinished,
            avoid=driver.admission.avoid,
            note=driver.observer.note,
            fault=driver.survived,
        )
    own, scheduler = OwnWorkers(shared, driver.survived, driver.observer.note), None
    if options.scheduler is not None:
        from orchestrator.sweep.tune_scheduler import TuneScheduler

        scheduler = TuneScheduler(options.scheduler)

    starvation = Starvation(
        resources, driver.observer.note,
        cluster=lambda: (ray.cluster_resources(), ray.available_resources()),
        others=lambda: holding.words,
    )  # fmt: skip
    gauges = SweepGauges(driver, pool, own, projection.lag)
    loop = TrialLoop(
        driver, pool, own, scheduler=scheduler, beside=projection.ask, starvation=starvation,
        gauges=gauges, fit=functools.partial(_fit, driver, holding, pool, own),
    )  # fmt: skip
    try:
        with _progress_read(driver):
            loop.run(raise_if_interrupted)
    except KeyboardInterrupt:
        raise SweepInterruptedError(_INTERRUPTED) from None
    finally:
        if not ray_is_gone():  # else nothing answers, and its processes are ended by id
            gauges.close()
            holding.close()
            own.close()
            if pool is not None:
                pool.close()
                driver.tidy()
    driver.end_over_budget()
    if driver.given_up:
        return
    if driver.unfinished or any(t.state == "RUNNING" for t in driver.trials.values()):
        raise SweepInterruptedError(_INTERRUPTED)


def _fit(driver: Driver, holding: Holding, pool: Pool | None, own: OwnWorkers) -> None:
    """Let what may run at a time follow the cluster, which grows, shrinks and is shared."""
    holding.fit(pool, own)
    driver.admission.capacity = _capacity(holding, driver.admission.capacity.trials)


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
                    driver.progressed(name, progress)

    reader = threading.Thread(target=read, name="progress", daemon=True)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()
