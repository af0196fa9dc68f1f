"""Running a sweep from a command: what is shown before, meanwhile and at the end; how it ends."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.base.devices import devices_here
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, INTERRUPTED, stop
from orchestrator.cli.output import plan_tables
from orchestrator.cli.output.documents import outcome_document
from orchestrator.cli.output.live import LiveDisplay
from orchestrator.cli.output.next_commands import program
from orchestrator.cli.output.outcome_tables import render_outcome
from orchestrator.cli.output.tables import print_on
from orchestrator.executors.cluster_fit import largest_resources
from orchestrator.executors.ray_session import connected
from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.planning.storage_folder import free_disk
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import LoadedExperiment
from orchestrator.system import machine
from orchestrator.system.stores.address import working_folder

if TYPE_CHECKING:
    from orchestrator.sweep.run_options import SweepOptions, SweepOutcome


def command_again(
    words: Sequence[str], options: Mapping[str, object], flags: Mapping[str, bool]
) -> str:
    """A command as it is typed again.

    Args:
        words: Its name and arguments.
        options: By name, their values; those without one are left out.
        flags: By name, whether they were given.

    Returns:
        It, quoted for a shell.
    """
    given = [[option, str(value)] for option, value in options.items() if value]
    named = [flag for flag, is_given in flags.items() if is_given]
    return shlex.join([*program(), *words, *(word for pair in given for word in pair), *named])


def show_plan(loaded: LoadedExperiment, address: str | None, *, as_json: bool) -> None:
    """Print the plan of an experiment.

    Args:
        loaded: The experiment and its tasks.
        address: Of a running cluster; None: this machine.
        as_json: Print one document for programs.

    Raises:
        Exit: With status `FAILED`, if something is in its way.
    """
    kind = "sweep" if loaded.experiment.search else "run"
    if loaded.experiment.extends is not None:
        kind = "extension"
    planned = make_plan(loaded, _machine(loaded, address), kind=kind)
    if as_json:
        print_json(plan_tables.as_document(planned))
    else:
        make_console().print(plan_tables.render(planned))
    if planned.problems:
        raise typer.Exit(FAILED)


def _machine(loaded: LoadedExperiment, address: str | None) -> Machine:
    storage = working_folder(loaded.experiment.storage)
    if address is not None:
        from orchestrator.executors.cluster_devices import cluster_devices

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


def run_shown(loaded: LoadedExperiment, options: SweepOptions, again: str) -> SweepOutcome:
    """Run a sweep, or what is missing of it, and show how far it is.

    Args:
        loaded: The experiment and its tasks.
        options: How to run it.
        again: The command that continues it.

    Returns:
        What it left; the command ends where it was interrupted.
    """
    from orchestrator.sweep.errors import SweepInterruptedError
    from orchestrator.sweep.run import run_sweep

    shown = LiveDisplay(make_console(stderr=True))
    try:
        with shown:
            return run_sweep(loaded, options, shown)
    except (KeyboardInterrupt, SweepInterruptedError):
        storage = working_folder(loaded.experiment.storage)
        stop(_interrupted(shown.view, storage, again), INTERRUPTED)


def show_outcome(outcome: SweepOutcome, *, as_json: bool) -> None:
    """Show what a sweep came to; the command ends with `FAILED` where something is to be fixed."""
    console = make_console(stderr=as_json)
    print_on(console, render_outcome(outcome.lines, outcome.folder, width=console.width))
    if as_json:
        print_json(outcome_document(outcome.lines, outcome.folder))
    if outcome.complaint:
        stop(outcome.complaint, FAILED)
    view = SweepState.of(outcome.lines, whole=False)
    if not any(trial.state == "COMPLETE" for trial in view.trials):
        stop(_nothing_completed(view, outcome.folder), FAILED)


def _nothing_completed(view: SweepState, folder: Path) -> str:
    failed = [trial for trial in view.trials if trial.state == "FAILED"]
    if not failed:
        return "no trial was completed; the table above says why."
    reason, count = Counter(trial.reason for trial in failed).most_common(1)[0]
    logged = [trial for trial in failed if trial.reason == reason and trial.log]
    log = SweepFolder(folder).written_log(logged[0]) if logged else None
    return (
        f"no trial was completed; {count} of {len(failed)} failed with: {reason.rstrip('.')}."
        + (f" Log: {log}." if log else "")
        + " Fix the cause, then run the same command with `--retry-failed`."
    )


def _interrupted(view: SweepState, storage: Path, again: str) -> str:
    if not view.name:
        return f"stopped before anything was recorded. Start again with:\n  {again}"
    done = len(view.finished)
    return (
        f"stopped. {done} of {view.total} trials are finished and kept in {storage / view.name}; "
        f"those that were running will start again. Continue with:\n  {again}"
    )
