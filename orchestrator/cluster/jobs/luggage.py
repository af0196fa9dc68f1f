"""What a submitted sweep takes along: the experiment, its tasks, their local files, its plugins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from curlora_kinds.plugins import LOADED
from orchestrator.cluster.jobs.errors import JobError
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_kinds import TaskSpec
from orchestrator.system.byte_units import MIB
from orchestrator.system.stores.address import working_folder

EXPERIMENT_FILE = "experiment.yaml"
LARGEST = 400 * MIB
"""Bytes. Ray keeps what a job takes along in the head's memory, and refuses 512 MiB."""


def pack(loaded: LoadedExperiment, target: Path) -> None:
    """Write a folder from which the same sweep can be run on another machine.

    A task's local files travel; a base model does not, as it is large: its folder must be found on
    the cluster under the same path.

    Args:
        loaded: The experiment and its tasks.
        target: An empty folder.

    Raises:
        JobError: If the sweep would be kept in a folder that ends with the job, or its files are
            larger than `LARGEST`.
    """
    experiment = loaded.experiment
    if not working_folder(experiment.storage).is_absolute():
        raise JobError(
            f"{loaded.origin}: storage: {experiment.storage!r} would lie in the job's own folder, "
            "which ends with it. Name a folder that all nodes of the cluster share, by its whole "
            "path, such as /mnt/sweeps/runs, or an address such as s3://BUCKET/PREFIX."
        )
    files = [Path(t.data.files) for t in loaded.tasks.values() if t.data.files is not None]
    size = sum(map(_bytes_of, files))
    if size > LARGEST:
        raise JobError(
            f"{loaded.origin}: the local files of its tasks are {size / MIB:,.0f} MiB, and at "
            f"most {LARGEST // MIB} MiB travel with a job. Put them where all nodes see them, name "
            "that folder in the task files, and submit from a node."
        )
    document = experiment.model_dump(mode="json", exclude_unset=True)
    if document.get("plugins"):
        document["plugins"] = [_packed_plugin(name, target) for name in document["plugins"]]
    text = yaml.safe_dump(document, sort_keys=False)
    (target / EXPERIMENT_FILE).write_text(text, encoding="utf-8")
    (target / "tasks").mkdir()
    for name, task in loaded.tasks.items():
        text = yaml.safe_dump(_packed_task(name, task, target), sort_keys=False)
        (target / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")


def _packed_plugin(reference: str, target: Path) -> str:
    """How a plugin is named where it arrives; one that is a file is copied."""
    plugin = next((p for p in LOADED.values() if reference in {p.reference, p.pinned}), None)
    if plugin is None or plugin.reference == plugin.name:
        return reference  # installed on the cluster, or told there
    source = plugin.file.parent if plugin.file.name == "__init__.py" else plugin.file
    place = target / "plugins" / source.name
    place.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, place)
    return f"./plugins/{source.name}{plugin.pinned.removeprefix(plugin.reference)}"


def _packed_task(name: str, task: TaskSpec, target: Path) -> dict[str, Any]:
    """A task's document; its local files are copied beside it."""
    document = task.model_dump(mode="json", exclude_unset=True)
    # A kind is told by a field that may stand there by default.
    document["kind"] = task.kind
    if task.data.files is None:
        return document
    source = Path(task.data.files)
    place = target / "data" / name / source.name
    place.parent.mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copyfile(source, place)
    document["data"]["files"] = f"../data/{name}/{source.name}"
    return document


def _bytes_of(path: Path) -> int:
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in found)
