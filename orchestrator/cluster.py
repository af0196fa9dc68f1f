"""The Ray cluster: what it holds, how many trials fit, starting and leaving it clean."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.experiment import Experiment, ResourceSpec, possible_values

HEAD_SHARE = 0.001
"""Of the head node's own resource that a trial's (idle) driver function holds: it runs there."""


class ClusterError(RuntimeError):
    """The cluster cannot run what was asked; the message holds the arithmetic."""


LEAVE_SECONDS = 5.0
"""How long a process of a local Ray may take to end once Ray has been shut down."""


@dataclass(frozen=True)
class Fit:
    """How many trials run at a time."""

    at_once: int
    arithmetic: str
    """The sum that gives it, one sentence."""


def fit(resources: ResourceSpec, *, cpus: float, gpus: float) -> Fit:
    """How many trials a cluster holds at a time.

    Args:
        resources: What one trial runs on.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.

    Returns:
        The number, 0 when one trial does not fit, and the arithmetic.
    """
    if resources.executor == "local":
        return Fit(1, "executor local: one trial at a time in one process")
    if resources.executor == "pool":
        return _fit_of_pool(resources, cpus=cpus, gpus=gpus)
    need_cpus = resources.workers * resources.cpus_per_worker
    need_gpus = resources.workers * resources.gpus_per_worker
    by_cpu = int(cpus // need_cpus)
    words = (
        f"a trial needs {resources.workers} worker(s) x {resources.cpus_per_worker} CPU = "
        f"{need_cpus} CPUs"
    )
    have = f"the cluster has {cpus:g} CPUs"
    at_once = by_cpu
    if need_gpus:
        words += f" and {need_gpus} GPUs"
        have += f" and {gpus:g} GPUs"
        at_once = min(by_cpu, int(gpus // need_gpus))
    return Fit(at_once, f"{words}; {have}: {at_once} trial(s) at a time")


def _fit_of_pool(resources: ResourceSpec, *, cpus: float, gpus: float) -> Fit:
    wanted, slots = pool_members(resources, cpus=cpus, gpus=gpus), resources.slots
    workers, each = resources.workers, resources.cpus_per_worker
    held = cpus // (workers * each)
    need = f"{workers} worker(s) x {each} CPU = {workers * each} CPUs"
    have = f"{cpus:g} CPUs"
    if resources.gpus_per_worker:
        need += f" and {workers * resources.gpus_per_worker} GPUs"
        have += f" and {gpus:g} GPUs"
        held = min(held, gpus // (workers * resources.gpus_per_worker))
    at_once = wanted * slots if held >= wanted else 0
    return Fit(
        at_once,
        f"each of {wanted} member(s) of the pool needs {need} and has {slots} slots; the cluster "
        f"has {have}: {at_once} trial(s) at a time",
    )


def pool_members(resources: ResourceSpec, *, cpus: float, gpus: float) -> int:
    """How many members a pool has on a cluster.

    Args:
        resources: Of the sweep.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.

    Returns:
        `resources.members`, or as many as its GPUs hold, or its CPUs where none are asked for;
        at least 1.
    """
    if resources.members is not None:
        return resources.members
    if resources.gpus_per_worker:
        return max(1, int(gpus // (resources.workers * resources.gpus_per_worker)))
    return max(1, int(cpus // (resources.workers * resources.cpus_per_worker)))


def worker_places(nodes: Sequence[Mapping[str, Any]], resources: ResourceSpec) -> int:
    """How many workers the nodes of a cluster hold together; none is split over two.

    Args:
        nodes: As `ray.nodes()` gives them.
        resources: Of the sweep.

    Returns:
        The number of places.
    """
    places = 0
    for node in nodes:
        if node.get("Alive"):
            has = node["Resources"]
            held = has.get("CPU", 0.0) // resources.cpus_per_worker
            if resources.gpus_per_worker:
                held = min(held, has.get("GPU", 0.0) // resources.gpus_per_worker)
            places += int(held)
    return places


def required_fit(resources: ResourceSpec, *, cpus: float, gpus: float) -> Fit:
    """`fit`, refusing resources that hold no trial at all.

    Args:
        resources: What one trial runs on.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.

    Returns:
        The number of trials at a time, at least 1.

    Raises:
        ClusterError: If not even one trial fits.
    """
    answer = fit(resources, cpus=cpus, gpus=gpus)
    if answer.at_once < 1:
        raise ClusterError(
            f"One trial does not fit: {answer.arithmetic}. Lower `resources.workers` or "
            "`resources.cpus_per_worker`, or use a larger cluster."
        )
    return answer


def largest_resources(experiment: Experiment) -> ResourceSpec:
    """The resources of the trial that needs most, when the search varies them."""
    names = ("workers", "cpus_per_worker", "gpus_per_worker")
    wanted = {name: [getattr(experiment.resources, name)] for name in names}
    search = experiment.search
    if search is None:
        return experiment.resources
    for name, values in wanted.items():
        path = f"resources.{name}"
        values.extend(entry[path] for entry in search.first if path in entry)
        values.extend(int(v) for v in possible_values(search.space, path, values[0]))
    return experiment.resources.model_copy(
        update={name: max(int(value) for value in values) for name, values in wanted.items()}
    )


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, within its control group's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control group, or no quota ("max")
        return cores


def process_environment() -> dict[str, str]:
    """Settings of Ray that our processes rely on; what the user has set wins."""
    defaults = {
        # Results are polled this often; two seconds would stall trials that report often.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
        # Our journal is the record; Ray's CSV, JSON and TensorBoard files would repeat it.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # Tune's own snapshots are not used to resume: the journal is.
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        # The gain is known after whole tasks only, and the base has none.
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
        "RAY_DEDUP_LOGS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {key: os.environ.get(key, value) for key, value in defaults.items()}


@contextmanager
def connected(address: str | None) -> Iterator[Mapping[str, float]]:
    """Start a local Ray, or join a running cluster; give its resources; leave nothing behind.

    Args:
        address: Address of a running cluster ("auto", host:port, ray://...); None starts a local
            one on loopback.

    Yields:
        The cluster's resources.

    Raises:
        ClusterError: If there is no cluster at the address.
    """
    import ray

    environment = process_environment()
    os.environ.update(environment)
    # Tune warns about result files that we do not want; errors still come through.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    if address is None:
        # A local Ray asks its clients for a token of their own accord; that needs no warning.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        # This machine is not taken away on notice; the watcher is one more process per trial.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    already = ray.is_initialized()
    if not already:
        runtime_env: dict[str, Any] = {"env_vars": environment}
        options: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "runtime_env": runtime_env,
        }
        if address is None:
            options |= {
                "num_cpus": usable_cores(),
                "include_dashboard": True,  # Ray's own cleaner of placement groups asks it
                "dashboard_host": "127.0.0.1",
                "_node_ip_address": "127.0.0.1",
            }
        else:
            runtime_env["py_modules"] = [str(path) for path in package_folders()]
            options["address"] = address
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
        except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
            # For one when an overloaded machine is slow to start its processes.
            why = " ".join(str(error).split())[:300].rstrip(".")
            if address is None:
                raise ClusterError(
                    f"Ray could not be started on this machine: {why}. Give the same command again "
                    "when the machine is less busy; `orchestrate doctor` says what is missing."
                ) from None
            raise ClusterError(
                f"No Ray cluster could be reached at {address}: {why}. Start one with `ray up "
                "cluster.yaml` or `ray start --head`, or leave `--address` out."
            ) from None
        if threading.current_thread() is threading.main_thread():
            # Ray ends its driver at once on SIGTERM; ours has things to leave in order.
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield {str(name): float(amount) for name, amount in ray.cluster_resources().items()}
    finally:
        if not already:
            # A worker process can outlive its cluster (seen once in some sixty trials); on this
            # machine every one of them descends from us.
            with _uninterrupted():
                ours = psutil.Process().children(recursive=True) if address is None else []
                ray.shutdown()
                _end(ours)


@contextmanager
def sigterm_as_interrupt() -> Iterator[Callable[[], None]]:
    """Meanwhile SIGTERM does what Ctrl-C does, whatever that is at the moment, and neither is lost.

    Python drops an exception that is raised while it runs a finaliser or the callback of a weak
    reference, and either signal may arrive there. What runs for long in this process should
    therefore ask now and then.

    Yields:
        A function that raises `KeyboardInterrupt` if one of the signals has been seen.
    """
    seen = False

    def ask() -> None:
        if seen:
            raise KeyboardInterrupt

    def interrupt(*_: Any) -> None:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    def terminate(*_: Any) -> None:
        # A shell starts what it puts in the background with SIGINT ignored.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            interrupt()
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield ask
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield ask
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Meanwhile neither Ctrl-C nor SIGTERM: half a shutdown leaves processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _end(processes: Sequence[psutil.Process]) -> None:
    """Give Ray's processes a few seconds to end by themselves, then end those that do not."""
    ray_made = [process for process in processes if _is_rays(process)]
    _, left = psutil.wait_procs(ray_made, timeout=LEAVE_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=LEAVE_SECONDS)


def _is_rays(process: psutil.Process) -> bool:
    try:
        return any("ray" in Path(word).name or "/ray/" in word for word in process.cmdline()[:3])
    except psutil.Error:
        return False


def package_folders() -> list[Path]:
    """The two packages, for shipping to the nodes of a cluster."""
    here = Path(__file__).resolve().parent
    return [here, here.parent / "curlora"]


def check_storage(folder: Path) -> None:
    """Prove that every node of the cluster can write to the sweep's storage.

    Args:
        folder: The sweep's folder.

    Raises:
        ClusterError: If a node cannot write there, or writes to another disk.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return

    @ray.remote(num_cpus=0, max_retries=0)
    def write(path: str, content: str) -> None:
        target = Path(path)
        target.write_text(content, encoding="utf-8")

    probes = folder / "nodes"
    probes.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        name = str(node["NodeID"])
        strategy = NodeAffinitySchedulingStrategy(name, soft=False)
        try:
            ray.get(
                write.options(scheduling_strategy=strategy).remote(str(probes / name), name),
                timeout=60,
            )
        except (OSError, RayError) as error:
            raise ClusterError(
                f"Node {node['NodeManagerAddress']} cannot write to {folder}: "
                f"{' '.join(str(error).split())[-200:]}. On several nodes `storage` must be a "
                "folder that all of them share."
            ) from None
        if not (probes / name).is_file():
            raise ClusterError(
                f"What node {node['NodeManagerAddress']} wrote to {folder} is not seen here: its "
                "`storage` is another disk. On several nodes `storage` must be a shared folder."
            )
        (probes / name).unlink()
    probes.rmdir()


_SERVICES = ("_AutoscalingCoordinatorActor",)
"""Actors that Ray itself keeps for the whole cluster, whoever asked first."""


@dataclass(frozen=True)
class Leftovers:
    """What a sweep left on the cluster."""

    actors: tuple[str, ...]
    placement_groups: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self.actors or self.placement_groups)


def alive() -> Leftovers:
    """Actors and placement groups of this driver's job that are alive now."""
    import ray
    from ray.util.state import list_actors, list_placement_groups

    context = ray.get_runtime_context()
    job = context.get_job_id()
    # The address is named because other Ray clusters may run on this machine.
    where: dict[str, Any] = {"address": context.gcs_address, "limit": 1000}
    actors: list[Any] = list_actors(filters=[("job_id", "=", job)], **where)
    groups: list[Any] = list_placement_groups(filters=[("creator_job_id", "=", job)], **where)
    return Leftovers(
        tuple(
            f"{actor.class_name} {actor.actor_id[:8]}"
            for actor in actors
            if actor.state != "DEAD" and actor.class_name not in _SERVICES
        ),
        tuple(g.placement_group_id[:8] for g in groups if g.state != "REMOVED"),
    )


def wait_until_clean(timeout_s: float = 20.0) -> Leftovers:
    """Wait until no actor or placement group of this driver is left.

    Args:
        timeout_s: How long to wait.

    Returns:
        What is left after that; nothing, normally.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = alive()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.25)
