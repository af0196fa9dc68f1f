"""The command `reproduce`: a finished trial is trained again and compared number by number."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.text import Text

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import FAILED, answers_mistakes, stop
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    Address,
    DataRoot,
    Json,
    MovedBase,
    New,
    NewName,
    Reference,
    Storage,
    TrackingUri,
    check_data_root,
    given_places,
)
from orchestrator.cli.output.tables import add_cells, print_on, table
from orchestrator.cli.running import command_again, run_shown
from orchestrator.records.sweep_folder import SweepFolder


@app.command()
@answers_mistakes
def reproduce(
    reference: Reference,
    name: NewName = None,
    new: New = False,
    address: Address = None,
    data_root: DataRoot = None,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
    as_json: Json = False,
) -> None:
    """Train a finished trial again from its journal, and compare it number by number."""
    check_data_root(data_root)
    from orchestrator.sweep import reproduction
    from orchestrator.sweep.extending.parent import find_parent
    from orchestrator.sweep.run_options import SweepOptions

    parent = find_parent(reference, storage, tracking_uri, note=print_note)
    loaded = reproduction.reproduction_of(
        parent, storage, name=name, base=base, data_root=data_root
    )
    reproduction.check_inputs(parent, loaded, print_note)
    changed, allowed = (
        reproduction.changed_packages(parent),
        reproduction.tolerance(parent, loaded.experiment),
    )
    options = SweepOptions(address=address, new=new, data_root=data_root, kind="reproduction")
    given = {"--name": name, **given_places(address, data_root, storage, base)}
    again = command_again(["reproduce", reference], given, {"--json": as_json})
    outcome = run_shown(loaded, options, again)
    found = reproduction.compare(parent, SweepFolder(outcome.folder), outcome.lines, allowed)
    agreed = all(one.agrees for one in found)
    if as_json:
        print_json(
            {
                "of": parent.named,
                "folder": str(outcome.folder),
                "agrees": agreed,
                "tolerance": asdict(allowed) | {"exact": allowed.exact},
                "differs": changed,
                "compared": [asdict(one) | {"agrees": one.agrees} for one in found],
            }
        )
    else:
        _show(parent.named, found, allowed.words, changed, str(outcome.folder))
    if not agreed:
        stop(f"{parent.named} was not reproduced; the table says where it differs.", FAILED)
    if outcome.complaint:
        stop(outcome.complaint, FAILED)


def _show(named: str, found: list[Any], words: str, changed: list[str], folder: str) -> None:
    made = table(
        f"{named} trained again in {folder}", "what", "numbers", "largest difference", "allowed",
        "where it is", "", left={"what", "where it is", ""},
    )  # fmt: skip
    for one in found:
        apart = "-" if math.isnan(one.worst) else f"{one.worst:.2g}"
        cells = [one.what, str(one.count), apart, f"{one.allowed:.2g}", one.where]
        add_cells(
            made, [*cells, "agrees" if one.agrees else "differs"], "" if one.agrees else "bold red"
        )
    console = make_console()
    print_on(console, made)
    print_on(console, Text(f"\nTolerance: {words}."))
    if changed:
        print_on(console, Text(f"Not as then: {', '.join(changed)}."))
    agreed = all(one.agrees for one in found)
    print_on(console, Text("Reproduced." if agreed else "Not reproduced.", style="bold"))
