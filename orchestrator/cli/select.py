"""The command `select`: the best method for some tasks, with a reason."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.api.journals import read_sweep
from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, INTERRUPTED, answers_mistakes, stop
from orchestrator.cli.listing import completion
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    Address,
    DataRoot,
    Json,
    New,
    Retry,
    Storage,
    check_data_root,
)
from orchestrator.cli.output.decision_text import render_decision
from orchestrator.cli.output.live import LiveDisplay
from orchestrator.cli.output.next_commands import program
from orchestrator.cli.output.tables import print_on
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.deciding.decision import Decision, decide
from orchestrator.selection.portfolio import PORTFOLIO
from orchestrator.selection.preference import FORMS, Preference
from orchestrator.selection.request import Request, read_request
from orchestrator.spec.budgets import duration
from orchestrator.system.strict_json import without_nan
from orchestrator.system.user_error import UsageError

if TYPE_CHECKING:
    from orchestrator.sweep.reading import Asked


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


@app.command()
@answers_mistakes
def select(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="An experiment file with a `selection` section, in place of --model and --tasks.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The base model: a name on the hub, or a folder.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Task files or names, in order: a,b,c.")] = None,
    probes: Annotated[
        str | None, typer.Option(help="What is to be kept, measured and never learnt: p,q.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="How long it may take, such as 30min or 2h.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Methods to choose from; by default all: {', '.join(PORTFOLIO)}."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the sweep is called.")] = "selection",
    rates: Annotated[
        str, typer.Option(help="measured: by some steps of each method on the base; or stated.")
    ] = "measured",
    train_examples: Annotated[int, typer.Option(help="Learnt of each task, at most.")] = 200,
    validation_examples: Annotated[int, typer.Option(help="Scored of each task, at most.")] = 200,
    trials: Annotated[
        int | None, typer.Option(help="Trials of the search, at most; by default the budget's.")
    ] = None,
    executor: Annotated[str, typer.Option(help="pool, train or local.")] = "pool",
    from_sweep: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SWEEP",
            help="Read a finished sweep again, by --prefer.",
            autocompletion=completion.sweeps,
        ),
    ] = None,
    prefer: Annotated[str | None, typer.Option(help=f"With --from: {FORMS}.")] = None,
    read_test: Annotated[
        bool,
        typer.Option(
            "--read-test",
            help="With --prefer: score what it picks on the test data, too; each such reading is "
            "counted.",
        ),
    ] = False,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Find the best method and settings for some tasks within a budget, and say why."""
    if from_sweep is not None:
        if read_test and prefer is None:
            raise UsageError(
                "`--read-test` reads the test data for what another preference picks: say which "
                "with `--prefer`. Those of the champion were read with the verdict."
            )
        _again(from_sweep, storage, prefer, read_test=read_test, as_json=as_json)
        return
    if prefer is not None or read_test:
        raise UsageError(
            "`--prefer` and `--read-test` read a finished sweep again: give them with `--from "
            "SWEEP`. While a selection runs, the file's `champion` says what is preferred."
        )
    if budget is None:
        raise UsageError("say how long it may take, for example `--budget 2h`")
    _seconds(budget)
    check_data_root(data_root)
    if file is None:
        if model is None or not _names(tasks):
            raise UsageError(
                "name a base model and tasks, for example `orchestrate select --model DIR --tasks "
                "sst2,cola --probes wikitext2 --budget 2h`, or an experiment file"
            )
        request = Request(
            model, _names(tasks), _names(probes), name, _names(methods) or None, train_examples,
            validation_examples, rates=rates, trials=trials, executor=executor,
            storage=str(storage),
        )  # fmt: skip
        written = _place() / f"{name}.selected.yaml"
        document = _within_context(request.document(), written.parent)
    else:
        if model or tasks or probes or methods:
            raise UsageError(
                f"{file} says what is selected; `--model`, `--tasks`, `--probes` and `--methods` "
                "are for a selection without a file"
            )
        document, written = read_request(file), file.with_suffix(".selected.yaml")
    chosen = {"new": new, "retry_failed": retry_failed, "address": address}
    _run(document, written, budget, chosen, data_root, as_json=as_json)


def _within_context(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    from orchestrator.selection.fitting import within_context

    return within_context(document, folder)


def _place() -> Path:
    """Where a file is written whose tasks are found by name: beside a folder of tasks."""
    here = Path("experiments")
    return here if (here / "tasks").is_dir() else Path()


def _seconds(budget: str) -> None:
    try:
        duration(budget)
    except ValueError as error:
        raise UsageError(f"`--budget`: {error}") from None


def _run(
    document: dict[str, Any],
    written: Path,
    budget: str,
    chosen: dict[str, Any],
    data_root: Path | None,
    *,
    as_json: bool,
) -> None:
    from orchestrator.report.written import PAGE
    from orchestrator.selection.select import prepared, run_selection
    from orchestrator.sweep.errors import SweepInterruptedError
    from orchestrator.sweep.run_options import SweepOptions

    again = shlex.join([*program(), *sys.argv[1:]])
    console = make_console(stderr=True)
    # Measuring learning rates is paid from the budget.
    options = SweepOptions(**chosen, data_root=data_root, began=time.monotonic())
    command = [*program(), *sys.argv[1:]]
    loaded = prepared(document, written, command, options, budget=budget, note=console.print)
    shown = LiveDisplay(console)
    try:
        with shown:
            outcome, decision = run_selection(loaded, options, shown)
    except (KeyboardInterrupt, SweepInterruptedError):
        stop(f"stopped; what is finished is kept. Continue with:\n  {again}", INTERRUPTED)
    _print(decision, as_json=as_json)
    console.print(f"Experiment: {written}. Report: {outcome.folder / 'report' / PAGE}.")
    if outcome.complaint:
        stop(outcome.complaint, FAILED)


def _again(
    sweep: str, storage: Path, prefer: str | None, *, read_test: bool, as_json: bool
) -> None:
    from orchestrator.selection.select import preferred, read_again

    folder, lines = read_sweep(sweep, storage)
    view = SweepState.of(lines)
    if prefer is None:
        _print(decide(view), as_json=as_json)
        return
    try:
        preference = Preference.parse(prefer)
    except ValueError as error:
        raise UsageError(f"`--prefer`: {error}") from None
    asked = preferred(view, preference) if read_test else None
    if asked is not None and asked.pick != view.champion:
        view = _test_read(folder, asked)
    _print(read_again(view, preference), as_json=as_json)


def _test_read(folder: Path, asked: Asked) -> SweepState:
    from orchestrator.sweep.scores.later_readings import read_later

    shown = LiveDisplay(make_console(stderr=True))
    with shown:
        return read_later(folder, asked, shown)


def _print(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json(without_nan(decision.as_document()))
    else:
        print_on(make_console(), render_decision(decision))
