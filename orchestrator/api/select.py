"""Selects a method from Python."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from orchestrator.api.progress import LoggedProgress
from orchestrator.api.sweep import Sweep
from orchestrator.selection.fitting import within_context
from orchestrator.selection.request import Request, read_request
from orchestrator.selection.select import prepared, run_selection
from orchestrator.spec.budgets import duration
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.run_options import SweepOptions


def select(
    experiment: Path | str | Request,
    *,
    budget: str,
    folder: Path | str = ".",
    new: bool = False,
    address: str | None = None,
    data_root: Path | str | None = None,
    observer: Observer | None = None,
) -> Sweep:
    """Find the best method and settings for some tasks within a budget: as `orchestrate select`.

    Args:
        experiment: An experiment file with a `selection` section, or a `Request`.
        budget: How long it may take, such as `2h`.
        folder: Where the experiment of a request is written, and its tasks are found; the one of a
            file is written beside it.
        new: Start another sweep of the same name instead of continuing the last.
        address: Address of a running Ray cluster; None starts a local one where one is needed.
        data_root: Where tasks read `<data_root>/<local_name>/<split>.jsonl[.gz]` in place of their
            own sources.
        observer: Who is told what happens; None: it is logged below `orchestrator.api` at INFO.

    Returns:
        The sweep; its `decision` says what was picked and why.

    Raises:
        ValueError: The budget is no duration.
        ExperimentError: The experiment is wrong, or no method fits its base.
        TaskFileError: One of its task files is missing or wrong.
        SweepError: It cannot be run; the message says why.
        SweepInterruptedError: It was stopped; what is finished is kept, and the same call goes on.
    """
    duration(budget)
    root = None if data_root is None else Path(data_root)
    told = observer or LoggedProgress()
    names: Sequence[str]
    if isinstance(experiment, Request):
        written = Path(folder) / f"{experiment.name}.selected.yaml"
        document = within_context(experiment.document(), written.parent)
        names = ["orchestrator.select", experiment.name]
    else:
        written = Path(experiment).with_suffix(".selected.yaml")
        document, names = read_request(Path(experiment)), ["orchestrator.select", str(experiment)]
    # Measuring learning rates is paid from the budget.
    options = SweepOptions(address=address, new=new, data_root=root, began=time.monotonic())
    loaded = prepared(document, written, names, options, budget=budget, note=told.note)
    outcome, _ = run_selection(loaded, options, told)
    if outcome.complaint:
        warnings.warn(outcome.complaint, stacklevel=2)
    return Sweep(outcome.folder, outcome.lines)
