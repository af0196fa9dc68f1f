"""Which method for these tasks: a sweep over the portfolio, and its decision."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.records.sweep_state import SweepState
from orchestrator.report.deciding.decision import Decision, decide
from orchestrator.selection.fitting import fitting, loaded_for
from orchestrator.selection.portfolio import PORTFOLIO, portfolio_search
from orchestrator.selection.preference import Preference
from orchestrator.selection.request import section_of, selected, write_experiment
from orchestrator.selection.scaling import scaled_rates
from orchestrator.spec.load import LoadedExperiment, load_experiment
from orchestrator.spec.task_files import at_data_root, find_task_file, load_task
from orchestrator.spec.task_kinds import LanguageModellingTask
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.continuation import has_begun
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.reading import Asked
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions, SweepOutcome
from orchestrator.system import durable
from orchestrator.system.strict_json import without_nan

DECISION_FILE = "decision.json"


def expanded(
    document: dict[str, Any],
    folder: Path,
    data_root: Path | None,
    *,
    budget: str,
    address: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The experiment that a selection runs, see `request.selected`.

    Args:
        document: With a `selection` section, or without.
        folder: From where its task files are found.
        data_root: See `load_experiment`.
        budget: How long it may take.
        address: Of a cluster; None: this machine.
        note: Told which methods are left out, and why, and which learning rates are searched.

    Returns:
        An experiment file.

    Raises:
        ExperimentError: If the section is wrong, or no method fits.
        TaskFileError: If a probe has no task file.
    """
    section = section_of(document)
    wanted = section.get("methods") or list(PORTFOLIO)
    fit, ranks, left_out = fitting(document, wanted, folder, data_root)
    for name, reason in left_out.items():
        note(f"{name} is left out: {reason}")
    rates: dict[str, tuple[float, float]] = {}
    if section.get("rates", "measured") == "measured" and all(n in PORTFOLIO for n in fit):
        rates = scaled_rates(loaded_for(document, {}, folder, data_root), fit, address, note)
    try:
        search = portfolio_search(fit, rates=rates, ranks=ranks)
    except ValueError as error:
        raise ExperimentError(f"`selection.methods`: {error}") from None
    places = [folder / "tasks", folder]
    probes = document.get("probes") or ()
    kinds = [
        at_data_root(load_task(find_task_file(str(probe), places)), data_root) for probe in probes
    ]
    has_text = any(isinstance(spec, LanguageModellingTask) for spec in kinds)
    return selected(document, search, has_text_probe=has_text, budget=budget)


def prepared(
    document: dict[str, Any],
    written: Path,
    command: Sequence[str],
    options: SweepOptions,
    *,
    budget: str,
    note: Callable[[str], None],
) -> LoadedExperiment:
    """Write the experiment that a selection runs, and read it.

    Args:
        document: With a `selection` section, or without.
        written: Where it is written.
        command: What was asked for.
        options: How it will be run.
        budget: How long it may take.
        note: See `expanded`.

    Returns:
        The experiment and its tasks; what is wrong is raised as by `expanded`, or on reading it.
    """
    root = options.data_root
    whole = expanded(
        document, written.parent, root, budget=budget, address=options.address, note=note
    )
    write_experiment(whole, written, command)
    return load_experiment(written, root, lambda found: not options.new and has_begun(found))


def run_selection(
    loaded: LoadedExperiment, options: SweepOptions, observer: Observer
) -> tuple[SweepOutcome, Decision]:
    """Run a selection's sweep, or what is missing of it, and write its decision.

    Args:
        loaded: The experiment that `expanded` made.
        options: How to run it.
        observer: Who is told what happens.

    Returns:
        The sweep, and what it decides; written as `decision.json` in its folder, and at the top of
        the report.

    Raises:
        SweepError: If it cannot be run.
        SweepInterruptedError: If the user stopped it; the same command goes on.
    """
    outcome = run_sweep(loaded, options, observer)
    decision = decide(SweepState.of(outcome.lines))
    text = json.dumps(without_nan(decision.as_document()), indent=2, ensure_ascii=False)
    durable.write(outcome.folder / DECISION_FILE, text + "\n")
    return outcome, decision


def preferred(view: SweepState, preference: Preference) -> Asked | None:
    """What another preference picks of a finished sweep, by the validation scores.

    Args:
        view: The sweep, with whole reports.
        preference: The rule.

    Returns:
        The trial that it picks, and the one that it would pick without that one; None where no
        trial fits.

    Raises:
        SweepError: If the sweep has no verdict yet.
    """
    if not view.ended:
        raise SweepError(
            f"The sweep {view.name} has no verdict yet: continue it with the command that began it."
        )
    controls = {t.name for t in view.searched if view.settings(t).get("method.sequence") == "joint"}
    trials = {
        trial.name: {name: trial.measure(name) for name in trial.measures}
        for trial in view.searched
        if trial.state == "COMPLETE" and trial.name not in controls and not view.is_screened(trial)
    }
    objectives = view.experiment.get("objectives", {})
    pick = preference.pick(trials, objectives)
    if pick is None:
        return None
    others = {name: values for name, values in trials.items() if name != pick}
    return Asked(pick, preference.pick(others, objectives), preference.text)


def read_again(view: SweepState, preference: Preference) -> Decision:
    """What a finished sweep decides by another preference.

    Args:
        view: The sweep, with whole reports.
        preference: The rule.

    Returns:
        The decision; the champion of the registry stays the one that it is.

    Raises:
        SweepError: If the sweep has no verdict yet.
    """
    asked = preferred(view, preference)
    if asked is None:
        return decide(view, None, f"no trial fits the preference `{preference.text}`")
    told = f"preferred by `{preference.text}`, by the validation scores"
    decision = decide(view, asked.pick, told)
    if decision.test:
        return decision
    command = ["orchestrate", "select", "--from", view.name, "--prefer", preference.text]
    return replace(
        decision,
        test=f"They were not read for {asked.pick}, and chose nothing. "
        f"`{shlex.join([*command, '--read-test'])}` does it; it would be their reading "
        f"{view.next_reading}, and is counted.",
    )
