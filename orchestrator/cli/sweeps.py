"""The commands `plan`, `sweep` and `run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestrator.cli.application import OWN_PROCESS, app
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import (
    Address,
    DataRoot,
    File,
    Json,
    New,
    Retry,
    TimeBudget,
    check_data_root,
)
from orchestrator.cli.running import command_again, run_shown, show_outcome, show_plan
from orchestrator.executors.worker_group import leave_out_quantisers
from orchestrator.records.journal import is_being_written
from orchestrator.records.sweep_folder import sweep_folder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, load_experiment
from orchestrator.system.stores.opening import opened
from orchestrator.system.user_error import UsageError


def _load(file: Path, data_root: Path | None, *, begun: bool = False) -> LoadedExperiment:
    check_data_root(data_root)
    return (
        load_experiment(file, data_root, _has_begun) if begun else load_experiment(file, data_root)
    )


def _has_begun(experiment: Experiment) -> bool:
    from orchestrator.sweep.continuation import has_begun

    return has_begun(experiment)


@app.command()
@answers_mistakes
def plan(
    context: typer.Context,
    file: File,
    data_root: DataRoot = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show what a file asks for (trials, tokens, memory, time, disk) and start nothing."""
    loaded = _load(file, data_root)
    _import_less(context, loaded.experiment)
    show_plan(loaded, address, as_json=as_json)


@app.command()
@answers_mistakes
def sweep(
    context: typer.Context,
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add a trial to the sweep that was begun, then go on.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            help="With the settings of this trial.",
            metavar="TRIAL",
            autocompletion=completion.trials_of_file,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="But with this one; may be repeated.", metavar="PATH=VALUE"),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the journal.")] = "",
) -> None:
    """Search the file's space, continuing what an earlier call began; name front and champion."""
    if not add and (like is not None or changes):
        raise UsageError("`--like` and `--set` say which trial is added: they go with `--add`.")
    if add and _asked_for(file, data_root, like, changes or [], reason):
        return
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run(context, "sweep", file, options, data_root, time_budget=time_budget, as_json=as_json)


def _asked_for(
    file: Path, data_root: Path | None, like: str | None, changes: Sequence[str], reason: str
) -> bool:
    """Ask the sweep of a file for a further trial; whether a driver is there to take it up."""
    from orchestrator.api.requests import ask_for_trial, changes_of

    experiment = _load(file, data_root, begun=True).experiment
    storage = opened(experiment.storage).resolve()
    folder = sweep_folder(storage, experiment.name, new=False)
    ask_for_trial(folder, like, changes_of(changes), reason)
    running = is_being_written(folder)
    if running:
        typer.echo(f"The running sweep {folder.name} takes it up.")
    return running


@app.command()
@answers_mistakes
def run(
    context: typer.Context,
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Run one trial with the file's own method."""
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run(context, "run", file, options, data_root, as_json=as_json)


def _run(
    context: typer.Context,
    kind: Literal["sweep", "run"],
    file: Path,
    chosen: Mapping[str, Any],
    data_root: Path | None,
    *,
    time_budget: str | None = None,
    as_json: bool,
) -> None:
    loaded = _load(file, data_root, begun=kind == "sweep" and not chosen["new"])
    if kind == "sweep" and loaded.experiment.search is None:
        raise UsageError(
            f"{file}: there is no `search`, so there is nothing to sweep. Add one, or try the "
            f"file's own method with `orchestrate run {file}`."
        )
    if time_budget is not None:
        loaded = _within(loaded, time_budget)
    _import_less(context, loaded.experiment)
    from orchestrator.sweep.run_options import SweepOptions

    options = SweepOptions(**chosen, data_root=data_root, kind=kind)
    given = {
        "--address": options.address, "--time-budget": time_budget, "--data-root": data_root,
    }  # fmt: skip
    again = command_again([kind, str(file)], given, {"--json": as_json})
    show_outcome(run_shown(loaded, options, again), as_json=as_json)


def _import_less(context: typer.Context, experiment: Experiment) -> None:
    """Leave out packages that are a fifth of what a sweep's own process imports."""
    # Within another program, that one may want them later.
    if context.obj == OWN_PROCESS:
        leave_out_quantisers(experiment)


def _within(loaded: LoadedExperiment, time_budget: str) -> LoadedExperiment:
    """The experiment with another time budget."""
    experiment = loaded.experiment
    assert experiment.search is not None  # a sweep without one was refused
    search = experiment.search.model_copy(update={"time_budget": time_budget})
    changed = experiment.model_copy(update={"search": search})
    return loaded.model_copy(update={"experiment": changed})
