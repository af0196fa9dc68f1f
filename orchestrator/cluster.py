"""The Ray cluster: what it holds, how many trials fit, starting and leaving it clean."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.experiment import Experiment, ResourceSpec, possible_values
from orchestrator.foreign_settings import (
    RAY_ADDRESS,
    RAY_GCS_PORT,
    changed,
    ray_folder,
    spare_loopback,
    temporary_holds_sockets,
    token_without_home,
    without_redirects,
)
from orchestrator.machine import usable_cores

HEAD_RESOURCE = "node:__internal_head__"
HEAD_SHARE = 0.001
"""Of the head node's own resource that a trial's (idle) driver function holds: it runs there."""


GIB = 2**30
MIB = 2**20
TRIAL_BYTES = 120 * MIB
"""Memory of its own that the process of a trial of the pool has on the head node; measured."""
MEMBER_BYTES = 700 * MIB
"""The same of a member's mailbox (61 MiB) and of what Ray Train starts for it beside its workers:
a controller (247), a data-set manager, a placement-group cleaner and a synchronisation actor (some
110 each) and a queue (61)."""
TRAIN_BYTES = 890 * MIB
"""The same of a trial that has workers of its own: its process (251) and Ray Train's."""


class ClusterError(RuntimeError):
    """The cluster cannot run what was asked; the message holds the arithmetic."""


_LOCAL = "127.0.0.1"
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_TOO_SLOW = ("timed out", "timeout", "did not start", "failed to start", "in time")
"""Words in what Ray says when its processes were too slow for it."""
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


def head_fit(resources: ResourceSpec, nodes: Sequence[Mapping[str, Any]], *, members: int) -> Fit:
    """How many trials at a time have room for their own processes, which sit on the head node.

    A trial of the pool is a light process that talks to a member; one of the executor `train`
    starts workers, and helpers of Ray Train beside it. They are on the head, because the other
    nodes may be taken away.

    Args:
        resources: Of the sweep.
        nodes: As `ray.nodes()` gives them.
        members: Of the pool, if the sweep has one.

    Returns:
        The number, at least 1, and the arithmetic; a great many where the head's memory is unknown.
    """
    heads = [n["Resources"] for n in nodes if n.get("Alive") and HEAD_RESOURCE in n["Resources"]]
    memory = heads[0].get("memory") if heads else None
    if memory is None:
        return Fit(1 << 30, "how much memory the head node has is unknown")
    each, fixed, beside = TRAIN_BYTES, 0, ""
    if resources.executor == "pool":
        each, fixed = TRIAL_BYTES, members * MEMBER_BYTES
        beside = f" beside {fixed / GIB:.1f} GiB for {members} member(s) of the pool"
    number = max(1, int((memory - fixed) // each))
    return Fit(
        number,
        f"the head node has {memory / GIB:.1f} GiB for processes, and each trial has "
        f"{each / MIB:.0f} MiB of them there{beside}: {number} trial(s) at a time",
    )


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


def process_environment() -> dict[str, str]:
    """Settings of Ray for our processes, as the user has set them where that changes no result."""
    needed = {
        # The workers of trials and members are written for this version of Ray Train.
        "RAY_TRAIN_V2_ENABLED": "1",
        # Our journal is the record; Ray's CSV, JSON and TensorBoard files would repeat it.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # The gain is known after whole tasks only, and the base has none.
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        # A report is told to the driver when it is made.
        "TUNE_RESULT_BUFFER_LENGTH": "1",
    }
    defaults = {
        # Results are polled this often; two seconds would stall trials that report often.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
        # Tune's own snapshots are not used to resume: the journal is.
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
        "RAY_DEDUP_LOGS": "1",
        # Many light processes are how trials are run here; told in the middle of the display it
        # would look like a fault.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {key: os.environ.get(key, value) for key, value in defaults.items()} | needed


@contextmanager
def connected(address: str | None) -> Iterator[Mapping[str, float]]:
    """Start a local Ray, or join a running cluster; give its resources; leave nothing behind.

    What the environment says of other clusters is not followed, save for the address "auto".

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
    if ray.is_initialized():
        yield _resources()
        return
    with changed(without_redirects(address)):
        started = _started_local(environment) if address is None else _joined(address, environment)
        with started as gcs_address, changed({RAY_ADDRESS: gcs_address}):
            yield _resources()


def _resources() -> dict[str, float]:
    import ray

    return {str(name): float(amount) for name, amount in ray.cluster_resources().items()}


@contextmanager
def _started_local(environment: Mapping[str, str]) -> Iterator[str]:
    """A Ray of our own, on loopback; all of its processes end with it.

    Args:
        environment: For every process of trials.

    Yields:
        Its address.

    Raises:
        ClusterError: If it cannot be started.
    """
    import ray

    # A local Ray asks its clients for a token of their own accord; that needs no warning.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    spare_loopback()
    # Known beforehand, so that Ray's own helpers ask this Ray when another runs on the machine.
    port = _free_port()
    options, settings = _of_our_own(port, environment)
    before = set(psutil.Process().children())
    try:
        with token_without_home(), changed(settings):
            try:
                _init(options)
            except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
                raise ClusterError(_not_started(error)) from None
            yield str(options["runtime_env"]["env_vars"][RAY_ADDRESS])
    finally:
        # A worker process can outlive its cluster (seen once in some sixty trials), and a cluster
        # that could not be started leaves the processes that could.
        with _uninterrupted():
            ours = with_descendants(_made_by_ray(before))
            ray.shutdown()
            end(ours)


def _of_our_own(
    port: int, environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """How a Ray of our own is started.

    Args:
        port: Where it is to answer.
        environment: For every process of trials.

    Returns:
        What `ray.init` is told, and what Ray's own programs have in their environment.

    Raises:
        ClusterError: If there is no folder for it.
    """
    try:
        folder = ray_folder().path
    except OSError as error:
        raise ClusterError(no_ray_folder(error)) from None
    settings: dict[str, str | None] = {
        RAY_GCS_PORT: str(port),
        # This machine is not taken away on notice; the watcher is one more process per trial.
        _WATCHER: os.environ.get(_WATCHER, "0"),
    }
    of_trials = {**environment, RAY_ADDRESS: f"{_LOCAL}:{port}"}
    if not temporary_holds_sockets():
        # Ray's own programs make sockets there; what trials keep there may be large.
        settings["TMPDIR"] = str(folder.parent)
        of_trials["TMPDIR"] = tempfile.gettempdir()
    options = {
        "address": "local",
        "num_cpus": usable_cores(),
        "include_dashboard": True,  # Ray's own cleaner of placement groups asks it
        "dashboard_host": _LOCAL,
        "_node_ip_address": _LOCAL,
        "_temp_dir": str(folder),
        "runtime_env": {"env_vars": of_trials},
        "_skip_env_hook": True,
    }
    return options, settings


@contextmanager
def _joined(address: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A driver of a running cluster.

    Args:
        address: The cluster's.
        environment: For every process of trials.

    Yields:
        The address that its own processes know.

    Raises:
        ClusterError: If nobody answers there.
    """
    import ray

    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is the address of a dashboard, which takes jobs (`ray job submit`). For "
            "`--address` give that of the cluster itself, HOST:6379 as `ray start` prints it, or "
            "`auto` on one of its nodes."
        )
    packages = [str(path) for path in package_folders()]
    options: dict[str, Any] = {
        "address": address,
        "runtime_env": {"env_vars": environment, "py_modules": packages},
    }
    try:
        _init(options)
    except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
        named = os.environ.get(RAY_ADDRESS) if address == "auto" else None
        place = address if named is None else f"{address} ({RAY_ADDRESS}={named})"
        raise ClusterError(
            f"No Ray cluster could be reached at {place}: {_said(error)}. Start one with `ray up "
            "cluster.yaml` or `ray start --head`, or leave `--address` out."
        ) from None
    try:
        # A client has no address but the one that it was given.
        through_client = address.startswith("ray://")
        yield address if through_client else ray.get_runtime_context().gcs_address
    finally:
        with _uninterrupted():
            ray.shutdown()


def _init(options: dict[str, Any]) -> None:
    """Call `ray.init`, quietly, and leave SIGTERM as it was."""
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray ends its driver at once on SIGTERM; ours has things to leave in order.
            signal.signal(signal.SIGTERM, on_sigterm)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _not_started(error: BaseException) -> str:
    why = _said(error)
    slow = any(word in why.lower() for word in _TOO_SLOW)
    cure = "Give the same command again when the machine is less busy; " if slow else ""
    return (
        f"Ray could not be started on this machine: {why}. {cure}`orchestrate doctor` says what is "
        "missing."
    )


def no_ray_folder(error: OSError) -> str:
    """What is wrong where no folder can hold the sockets of a Ray of our own.

    Args:
        error: Of `ray_folder`.

    Returns:
        One message, with the cure.
    """
    return (
        f"Ray finds no folder for its sockets: {error}. Set RAY_TMPDIR to a folder with a short "
        "path that you can write to, for example /tmp."
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))  # free on every interface; nothing listens
        return int(probe.getsockname()[1])


def _made_by_ray(before: Set[psutil.Process]) -> list[psutil.Process]:
    """Our child processes that Ray has started: the roots of everything that belongs to it.

    Args:
        before: Our child processes before Ray was started.

    Returns:
        Those since then that run one of Ray's own programs.
    """
    import ray

    programs = str(Path(ray.__file__).parent)
    made: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child not in before and any(programs in word for word in child.cmdline()):
                made.append(child)
    return made


def with_descendants(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Some processes and all that descend from them, as they are now.

    Args:
        roots: Some of which may have ended.

    Returns:
        Each once.
    """
    found: dict[psutil.Process, None] = {}
    for root in roots:
        found[root] = None
        with suppress(psutil.NoSuchProcess):
            found.update(dict.fromkeys(root.children(recursive=True)))
    return list(found)


def end(processes: Sequence[psutil.Process]) -> None:
    """Give processes a few seconds to end by themselves, then end those that do not.

    Args:
        processes: Exactly those that are to end.
    """
    _, left = psutil.wait_procs(processes, timeout=LEAVE_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=LEAVE_SECONDS)


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


def package_folders() -> list[Path]:
    """The two packages, for shipping to the nodes of a cluster."""
    here = Path(__file__).resolve().parent
    return [here, here.parent / "curlora"]


def check_driver(address: str | None) -> None:
    """Refuse a cluster to which this process is only a client.

    Args:
        address: As it was given; None: whatever Ray this process is connected to, if any.

    Raises:
        ClusterError: If the address is one of Ray Client's, or was when Ray was connected.
    """
    from ray.util.client import ray as client

    if not (address or "").startswith("ray://") and not client.is_connected():
        return
    raise ClusterError(
        "A sweep cannot be driven through Ray Client (`ray://`): Ray Tune would move its driver to "
        "the cluster, away from its journal and its storage. Give the command on a node of the "
        "cluster, with `--address auto`: `ray attach cluster.yaml` opens a shell on the head, and "
        "`ray job submit` runs a command there."
    )


def check_storage(folder: Path) -> None:
    """Prove that every other node of the cluster can write to the sweep's storage.

    Args:
        folder: The sweep's folder.

    Raises:
        ClusterError: If a node cannot write there, or writes to another disk.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    if not nodes:
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

    actors: tuple[str, ...] = ()
    placement_groups: tuple[str, ...] = ()
    unknown: str = ""
    """Why it could not be asked; empty where it was."""

    def __bool__(self) -> bool:
        """Whether anything is known to be left."""
        return bool(self.actors or self.placement_groups)

    def __str__(self) -> str:
        """What is left, in words."""
        named = {"actor": self.actors, "placement group": self.placement_groups}
        return ", ".join(f"{kind} {one}" for kind, many in named.items() for one in many)


def alive() -> Leftovers:
    """Actors and placement groups of this driver's job that are alive now, as the dashboard says.

    Returns:
        What there is. A cluster that was started without a dashboard cannot be asked.
    """
    import ray
    from ray.util.state import list_actors, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    context = ray.get_runtime_context()
    job = context.get_job_id()
    # The address is named because other Ray clusters may run on this machine.
    where: dict[str, Any] = {"address": context.gcs_address, "limit": 1000}
    try:
        actors: list[Any] = list_actors(filters=[("job_id", "=", job)], **where)
        groups: list[Any] = list_placement_groups(filters=[("creator_job_id", "=", job)], **where)
    except (RayStateApiException, ValueError, RuntimeError, OSError) as error:
        return Leftovers(unknown=f"{_said(error)} (Ray's dashboard answers such questions)")
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
