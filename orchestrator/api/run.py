"""Runs a sweep from Python."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from orchestrator.api.progress import LoggedProgress
from orchestrator.api.sweep import Sweep
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, complete_experiment, load_experiment
from orchestrator.sweep import run
from orchestrator.sweep.continuation import has_begun
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.run_options import SweepOptions


def run_sweep(
    experiment: Path | str | Experiment,
    *,
    storage: Path | str | None = None,
    new: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    data_root: Path | str | None = None,
    scheduler: Any = None,
    observer: Observer | None = None,
) -> Sweep:
    """Run a sweep, or what is missing of it: as `orchestrate sweep` does.

    Args:
        experiment: A YAML file, or an `Experiment` whose model and tasks are found from the working
            directory. Without `search` its own method is one trial, as with `orchestrate run`.
        storage: The folder to keep sweeps in; None: as the experiment says.
        new: Start another sweep of the same name instead of continuing the last.
        retry_failed: Run trials that had failed once more, from their beginning.
        address: Address of a running Ray cluster; None starts a local one where one is needed.
        data_root: Where tasks read `<data_root>/<local_name>/<split>.jsonl[.gz]` in place of their
            own sources.
        scheduler: A scheduler of `ray.tune` that may stop trials.
        observer: Who is told what happens; None: it is logged below `orchestrator.api` at INFO.

    Returns:
        The sweep with its verdict. What is to be mended although it has ended, such as an MLflow
        that does not answer, is a warning.

    Raises:
        ExperimentError: The experiment is wrong.
        TaskFileError: One of its task files is missing or wrong.
        SweepError: It cannot be run; the message says why.
        SweepInterruptedError: It was stopped; what is finished is kept, and the same call goes on.
    """
    loaded = _loaded(experiment, None if data_root is None else Path(data_root), new=new)
    if storage is not None:
        changed = loaded.experiment.model_copy(update={"storage": str(storage)})
        loaded = loaded.model_copy(update={"experiment": changed})
    options = SweepOptions(
        address=address,
        new=new,
        retry_failed=retry_failed,
        data_root=None if data_root is None else Path(data_root),
        scheduler=scheduler,
        kind="run" if loaded.experiment.search is None else "sweep",
    )
    outcome = run.run_sweep(loaded, options, observer or LoggedProgress())
    if outcome.complaint:
        warnings.warn(outcome.complaint, stacklevel=2)
    return Sweep(outcome.folder, outcome.lines)


def _loaded(
    experiment: Path | str | Experiment, data_root: Path | None, *, new: bool
) -> LoadedExperiment:
    def begun(found: Experiment) -> bool:
        return not new and has_begun(found)

    if isinstance(experiment, Experiment):
        return complete_experiment(experiment, Path(), data_root, begun)
    return load_experiment(Path(experiment), data_root, begun)
