"""Deciding `training.precision: auto` for a sweep: once, from the devices that will compute."""

from __future__ import annotations

from orchestrator.base.devices import devices_here
from orchestrator.base.precision import PrecisionChoice, choose_precision, with_precision
from orchestrator.executors.cluster_devices import cluster_devices
from orchestrator.executors.cluster_fit import largest_resources
from orchestrator.executors.ray_session import connected
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment


def as_begun(loaded: LoadedExperiment, journal: Journal) -> LoadedExperiment:
    """An experiment with what its file leaves open and its sweep was begun with.

    That is the precision where it says `auto`, and `scoring: full` where an earlier version, which
    always scored everything, began the sweep and the file says nothing else.

    Args:
        loaded: The experiment as the file has it.
        journal: The sweep's.

    Returns:
        The same where the file says so, or where the sweep has not begun.
    """
    if not journal.lines:
        return loaded
    experiment = loaded.experiment
    if "scoring" not in journal.lines[0]["experiment"] and "scoring" not in (
        experiment.model_fields_set
    ):
        scored = experiment.model_copy(update={"scoring": "full"})
        loaded = loaded.model_copy(update={"experiment": scored})
    training = journal.lines[0]["experiment"].get("training", {})
    return with_precision(loaded, training.get("precision", "bf16"))  # the default before `auto`


def decide_precision(experiment: Experiment, address: str | None) -> PrecisionChoice:
    """Decide the precision of a sweep that begins.

    Args:
        experiment: An experiment that says `auto`.
        address: The cluster that will be joined; None: this machine.

    Returns:
        The choice.

    Raises:
        ClusterError: If the cluster, or a node of it, cannot be asked.
    """
    resources = largest_resources(experiment)
    if address is None:
        return choose_precision(devices_here(on_gpu=resources.gpus_per_worker > 0))
    with connected(address):
        return choose_precision(cluster_devices(resources))
