"""The command `runs list`: sweeps, or trials of one, of several or of all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.cli.application import runs_app
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.listing.printing import Asked, print_sweeps, print_trials
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage, check_storage
from orchestrator.registry.index.index import open_index
from orchestrator.registry.query.fields import split_names
from orchestrator.system.user_error import UsageError


class SortedCommand(TyperCommand):
    """A command whose `--sort` is completed, too, where `-NAME` looks like an option."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Options, and for `-g` also the values of `--sort` that begin so."""
        found: list[Any] = [*super().shell_complete(ctx, incomplete)]
        if len(incomplete) > 1 and incomplete[0] == "-" != incomplete[1]:
            (order,) = (one for one in self.get_params(ctx) if "--sort" in one.opts)
            found += order.shell_complete(ctx, incomplete)
        return found


@runs_app.command("list", cls=SortedCommand)
@answers_mistakes
def runs_list(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SWEEP]...",
            help="List the trials of these sweeps.",
            autocompletion=completion.sweeps,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="The same as SWEEP.", metavar="SWEEP", autocompletion=completion.sweeps),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            "--filter",
            "--where",
            help="Only trials for which this holds, such as 'gain>0.05 and "
            "method.adapter.kind=curlora'; without SWEEP, those of all sweeps.",
            autocompletion=completion.filters,
        ),
    ] = None,
    order: Annotated[
        list[str] | None,
        typer.Option(
            "--sort",
            help="By NAME, or -NAME: largest first. What is given next orders equal ones.",
            autocompletion=completion.orders,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, help="How many rows; 0: all, which --json and --csv print. [default: 50]"
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Show these, with commas between them.", autocompletion=completion.columns
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the trials as CSV.")] = False,
) -> None:
    """List the sweeps, oldest first, or trials of one, several or all of them."""
    if as_json and as_csv:
        raise UsageError("`--json` and `--csv` exclude each other; give one.")
    if storage != DEFAULT_STORAGE:  # before the first sweep there are none, which is no mistake
        check_storage(storage)
    wanted = [*(names or []), *([sweep] if sweep else [])]
    asked = Asked(
        sweeps=wanted or None,
        conditions=conditions,
        order=split_names(order or []),
        limit=limit,
        columns=split_names(columns or []) or None,
        form="json" if as_json else "csv" if as_csv else "table",
    )
    with open_index(storage) as index:
        if wanted or conditions or order or columns or as_csv:
            print_trials(index, asked)
        else:
            print_sweeps(index, asked)
