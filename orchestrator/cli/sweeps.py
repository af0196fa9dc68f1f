"""The commands `plan`, `sweep` and `run`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import typer

from orchestrator.base.devices import devices_here
from orchestrator.cli.application import OWN_PROCESS, app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, answers_mistakes
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
from orchestrator.cli.output import plan_tables
from orchestrator.cli.output.next_commands import program
from orchestrator.cli.running import run_shown, show_outcome
from orchestrator.executors.cluster_fit import largest_resources
from orchestrator.executors.worker_group import leave_out_quantisers
from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.planning.storage_folder import free_disk
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, load_experiment
from orchestrator.system import machine
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
    kind = "sweep" if loaded.experiment.search else "run"
    if context.obj == OWN_PROCESS:
        # They are a fifth of what is imported here; another program may want them later.
        leave_out_quantisers(loaded.experiment)
    planned = make_plan(loaded, _machine(loaded, address), kind=kind)
    if as_json:
        print_json(plan_tables.as_document(planned))
    else:
        make_console().print(plan_tables.render(planned))
    if planned.problems:
        raise typer.Exit(FAILED)


def _machine(loaded: LoadedExperiment, address: str | None) -> Machine:
    storage = Path(loaded.experiment.storage).expanduser()
    if address is not None:
        from orchestrator.executors.cluster_devices import cluster_devices
        from orchestrator.executors.ray_session import connected

        wanted = largest_resources(loaded.experiment)
        with connected(address) as resources:
            cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
            asked = loaded.experiment.training.precision == "auto"
            devices = tuple(cluster_devices(wanted)) if asked else ()
        return Machine(cpus, gpus, memory=None, disk=None, here=False, devices=devices)
    import torch

    here = machine.memory()
    on_gpu = loaded.experiment.resources.gpus_per_worker > 0
    return Machine(
        cpus=machine.usable_cores(),
        gpus=torch.cuda.device_count(),
        memory=here[1] if here else None,
        disk=free_disk(storage),
        devices=tuple(devices_here(on_gpu=on_gpu)),
    )


@app.command()
@answers_mistakes
def sweep(
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
) -> None:
    """Search the file's space, continuing what an earlier call began; name front and champion."""
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run("sweep", file, options, data_root, time_budget=time_budget, as_json=as_json)


@app.command()
@answers_mistakes
def run(
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Run one trial with the file's own method."""
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run("run", file, options, data_root, as_json=as_json)


def _run(
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
    from orchestrator.sweep.run_options import SweepOptions

    options = SweepOptions(**chosen, data_root=data_root, kind=kind)
    given = {
        "--address": options.address, "--time-budget": time_budget, "--data-root": data_root,
    }  # fmt: skip
    again = _command(kind, file, given, as_json=as_json)
    show_outcome(run_shown(loaded, options, again), as_json=as_json)


def _within(loaded: LoadedExperiment, time_budget: str) -> LoadedExperiment:
    """The experiment with another time budget."""
    experiment = loaded.experiment
    assert experiment.search is not None  # a sweep without one was refused
    search = experiment.search.model_copy(update={"time_budget": time_budget})
    changed = experiment.model_copy(update={"search": search})
    return loaded.model_copy(update={"experiment": changed})


def _command(kind: str, file: Path, given: Mapping[str, object], *, as_json: bool) -> str:
    words = [*program(), kind, str(file)]
    for option, value in given.items():
        words += [option, str(value)] if value else []
    return shlex.join(words + (["--json"] if as_json else []))
