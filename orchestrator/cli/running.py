"""Running a sweep from a command: what is shown meanwhile and at the end, and how it is ended."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, INTERRUPTED, stop
from orchestrator.cli.output.documents import outcome_document
from orchestrator.cli.output.live import LiveDisplay
from orchestrator.cli.output.outcome_tables import render_outcome
from orchestrator.cli.output.tables import print_on
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import LoadedExperiment

if TYPE_CHECKING:
    from orchestrator.sweep.run_options import SweepOptions, SweepOutcome


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
        storage = Path(loaded.experiment.storage).expanduser()
        stop(_interrupted(shown.view, storage, again), INTERRUPTED)


def show_outcome(outcome: SweepOutcome, *, as_json: bool) -> None:
    """Show what a sweep came to; the command ends with `FAILED` where something is to be fixed."""
    console = make_console(stderr=as_json)
    print_on(console, render_outcome(outcome.lines, outcome.folder, width=console.width))
    if as_json:
        print_json(outcome_document(outcome.lines, outcome.folder))
    if outcome.complaint:
        stop(outcome.complaint, FAILED)
    view = SweepState.of(outcome.lines)
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
