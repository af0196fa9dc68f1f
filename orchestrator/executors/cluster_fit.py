"""How many trials a Ray cluster holds at a time, by CPUs, GPUs and the memory of its head node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.spec.space.domains import possible_values
from orchestrator.system.user_error import UserError

HEAD_RESOURCE = "node:__internal_head__"
HEAD_SHARE = 0.001
"""Of the head node's own resource that a light process of ours holds: it runs there."""


GIB = 2**30
MIB = 2**20
TRAIN_BYTES = 890 * MIB
"""Memory on the head node of a trial that has workers of its own: its process (251 MiB), and what
Ray Train starts beside its workers: a controller (247), a data-set manager, a placement-group
cleaner and a synchronisation actor (some 110 each); measured."""


_ANY = 1 << 30
"""As many trials as one likes."""


class ClusterError(UserError, RuntimeError):
    """The cluster cannot run what was asked; the message holds the arithmetic."""


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
    if not resources.facts.on_ray:
        return Fit(1, f"executor {resources.executor}: one trial at a time in one process")
    if resources.facts.packs:
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


def head_fit(resources: ResourceSpec, nodes: Sequence[Mapping[str, Any]]) -> Fit:
    """How many trials at a time have room for their own processes, which sit on the head node.

    A trial of the executor `train` has a light process that starts its workers, and helpers of Ray
    Train beside it. They are on the head, because the other nodes may be taken away. A trial of the
    pool has none.

    Args:
        resources: Of the sweep.
        nodes: As `ray.nodes()` gives them.

    Returns:
        The number, at least 1, and the arithmetic; a great many where the head's memory is unknown.
    """
    if resources.facts.packs:
        return Fit(_ANY, "a trial of the pool has no process of its own")
    heads = [n["Resources"] for n in nodes if n.get("Alive") and HEAD_RESOURCE in n["Resources"]]
    memory = heads[0].get("memory") if heads else None
    if memory is None:
        return Fit(_ANY, "how much memory the head node has is unknown")
    number = max(1, int(memory // TRAIN_BYTES))
    return Fit(
        number,
        f"the head node has {memory / GIB:.1f} GiB for processes, and each trial has "
        f"{TRAIN_BYTES / MIB:.0f} MiB of them there: {number} trial(s) at a time",
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
            "`resources.cpus_per_worker`, or use a larger cluster. Where its nodes come only when "
            "they are asked for, say for how many workers by `resources.max_workers`."
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
