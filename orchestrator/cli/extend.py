"""The command `extend`: further tasks are learnt on from a finished trial."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from orchestrator.cli.application import app
from orchestrator.cli.console import print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    Address,
    DataRoot,
    Json,
    MovedBase,
    New,
    NewName,
    Reference,
    Retry,
    Storage,
    TimeBudget,
    TrackingUri,
    check_data_root,
    given_places,
)
from orchestrator.cli.running import command_again, run_shown, show_outcome, show_plan
from orchestrator.system.user_error import UsageError


@app.command()
@answers_mistakes
def extend(
    reference: Reference,
    tasks: Annotated[
        str,
        typer.Option(
            help="What is to be learnt, in this order: task files or their names.",
            metavar="TASK[,TASK]",
            show_default=False,
        ),
    ],
    probes: Annotated[
        str, typer.Option(help="Further probes, beside those of its sweep.", metavar="TASK[,TASK]")
    ] = "",
    name: NewName = None,
    select: Annotated[
        bool,
        typer.Option(
            "--select",
            help="Search the learning rate and what says how much the retention protects.",
        ),
    ] = False,
    time_budget: TimeBudget = None,
    executor: Annotated[
        Literal["pool", "train", "local"] | None,
        typer.Option(help="Where trials run; by default as in the trial's sweep."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what it would take, and start nothing.")
    ] = False,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
    as_json: Json = False,
) -> None:
    """Learn further tasks on from a finished trial, and measure what the earlier ones lose."""
    check_data_root(data_root)
    if time_budget is not None and not select:
        raise UsageError("`--time-budget` bounds a search; add `--select`, or leave it out.")
    from orchestrator.sweep.extending.experiment import Wanted, extension_of
    from orchestrator.sweep.extending.parent import check_kept, find_parent
    from orchestrator.sweep.run_options import SweepOptions

    parent = find_parent(reference, storage, tracking_uri, note=print_note)
    check_kept(parent)
    wanted = Wanted(
        _names(tasks), _names(probes), name, select, time_budget, executor, base, data_root
    )
    loaded = extension_of(parent, wanted, storage, tracking_uri)
    if plan:
        show_plan(loaded, address, as_json=as_json)
        return
    options = SweepOptions(
        address=address, new=new, retry_failed=retry_failed, data_root=data_root, kind="extension"
    )
    given = {
        "--tasks": tasks, "--probes": probes, "--name": name, "--time-budget": time_budget,
        "--executor": executor, **given_places(address, data_root, storage, base),
    }  # fmt: skip
    again = command_again(["extend", reference], given, {"--select": select, "--json": as_json})
    show_outcome(run_shown(loaded, options, again), as_json=as_json)


def _names(written: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",") if name.strip())
