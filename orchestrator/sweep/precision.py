"""Deciding what a file leaves open of how numbers are computed: once, when a sweep begins."""

from __future__ import annotations

from orchestrator.base.devices import devices_here
from orchestrator.base.precision import PrecisionChoice, choose_precision, with_precision
from orchestrator.executors.cluster_devices import cluster_devices
from orchestrator.executors.cluster_fit import largest_resources
from orchestrator.executors.ray_session import connected
from orchestrator.records.journal import Journal
from orchestrator.spec.batch_invariance import is_default
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment


def as_begun(loaded: LoadedExperiment, journal: Journal) -> LoadedExperiment:
    """An experiment with what its file leaves open and its sweep was begun with.

    That is the precision and `batch_invariant` where it says `auto`, and `scoring: full` where an
    earlier version, which always scored everything, began the sweep and the file says nothing else.

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
    loaded = with_precision(loaded, training.get("precision", "bf16"))  # the default before `auto`
    return _with_invariance(loaded, training.get("batch_invariant", False))


def decide_invariance(loaded: LoadedExperiment) -> LoadedExperiment:
    """An experiment whose precision is known, with what `batch_invariant: auto` stands for.

    Args:
        loaded: The experiment of a sweep that begins.

    Returns:
        The experiment to compute with.
    """
    training, resources = loaded.experiment.training, loaded.experiment.resources
    return _with_invariance(loaded, is_default(training, resources))


def _with_invariance(loaded: LoadedExperiment, invariant: bool) -> LoadedExperiment:
    experiment = loaded.experiment
    if experiment.training.batch_invariant != "auto":
        return loaded
    training = experiment.training.model_copy(update={"batch_invariant": invariant})
    decided = experiment.model_copy(update={"training": training})
    return loaded.model_copy(update={"experiment": decided})


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
