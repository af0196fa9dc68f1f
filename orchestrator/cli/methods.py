"""The command `methods`: adapters, retentions, and presets over their product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import Json
from orchestrator.cli.output.tables import print_on, table
from orchestrator.spec.load import load_plugins_of
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.presets import PRESETS, Preset
from orchestrator.system.formatting import show_setting


@app.command()
@answers_mistakes
def methods(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="An experiment file, whose plugins are loaded and listed too.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the adapters, the retentions and the presets that a file may name."""
    if file is not None:
        load_plugins_of(file)
    found = list_methods()
    if as_json:
        print_json(found)
    else:
        print_on(make_console(), render(found))


Document = Mapping[str, Sequence[Mapping[str, Any]]]


def list_methods() -> Document:
    """Every adapter, retention and preset.

    Returns:
        `adapters` (kind, summary, writes_base), `retentions` (kind, summary) and `presets` (name,
        summary, method, learning_rate, source), each in the order of its own table. `writes_base`
        says when the base's weights are written: never, init, train or merge.
    """
    return {
        "adapters": [
            {"kind": kind.name, "summary": kind.summary, "writes_base": kind.changes_base}
            for kind in ADAPTERS.values()
        ],
        "retentions": [
            {"kind": kind.name, "summary": kind.summary} for kind in RETENTIONS.values()
        ],
        "presets": [
            {
                "name": name,
                "summary": preset.summary,
                "method": _method(preset),
                "learning_rate": preset.learning_rate,
                "source": preset.source,
            }
            for name, preset in PRESETS.items()
        ],
    }


def _method(preset: Preset) -> str | None:
    """Adapter and retention in words; None for what is no trial."""
    if preset.method is None:
        return None
    method = MethodSpec.model_validate(preset.method)
    return method.name + (", early stopping" if method.early_stopping is not None else "")


def render(methods: Document) -> RenderableType:
    """The methods for people.

    Args:
        methods: As `list_methods` gives them.

    Returns:
        Three tables.
    """
    adapters = table(
        "Adapters: method.adapter.kind", "kind", "what it is", "writes base",
        left={"kind", "what it is", "writes base"},
    )  # fmt: skip
    for kind in methods["adapters"]:
        adapters.add_row(*map(Text, (kind["kind"], kind["summary"], kind["writes_base"])))
    retentions = table(
        "Retentions: method.retention.kind", "kind", "what it is", left={"kind", "what it is"}
    )
    for kind in methods["retentions"]:
        retentions.add_row(*map(Text, (kind["kind"], kind["summary"])))
    presets = table(
        "Presets: method.preset, published learning rates",
        "name", "method", "learning rate", "source",
        left={"name", "method", "source"},
    )  # fmt: skip
    for preset in methods["presets"]:
        presets.add_row(
            Text(preset["name"]),
            Text(preset["method"] or "in every sweep"),
            Text(show_setting("learning_rate", preset["learning_rate"])),
            Text(preset["source"] or preset["summary"]),
        )
    for made in (adapters, retentions, presets):
        # Names are written into files, so they are never broken.
        made.columns[0].no_wrap = True
    return Group(adapters, Text(), retentions, Text(), presets)
