"""The command `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    Json,
    MovedBase,
    Reference,
    Storage,
    TrackingUri,
)
from orchestrator.cli.output.tables import table
from orchestrator.serving import files, find
from orchestrator.serving.answers import answer_file
from orchestrator.serving.questions import task_name, task_rows
from orchestrator.spec.task_kinds import GenerationTask
from orchestrator.system.formatting import show
from orchestrator.system.user_error import UsageError


@app.command()
@answers_mistakes
def predict(
    reference: Reference,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to answer.", show_default=False)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Which of the learnt tasks; needed if there are several.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the task's prompt, for tasks with several; repeat it.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="A file of rows to answer: csv, tsv, jsonl (each also .gz) or parquet.",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where rows and answers are written: csv or jsonl.", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
    as_json: Json = False,
) -> None:
    """Ask a trained adapter for labels or texts, for one text or for the rows of a file."""
    if (source is None) != (output is None):
        given, other = ("--input", "--output") if output is None else ("--output", "--input")
        raise UsageError(f"`{given}` needs `{other}` as well.")
    if source is not None and output is not None:
        if texts or column:
            raise UsageError("Give either texts or `--input`, not both.")
        files.check_files(source, output, force=force)
    with find.model_folder(reference, storage, tracking_uri, note=print_note) as folder:
        if source is not None and output is not None:
            rows = answer_file(
                folder, task, source, output, base,
                progress=lambda text: typer.echo(text, err=True), note=print_note,
            )  # fmt: skip
            if as_json:
                print_json({"model": reference, "rows": rows, "output": str(output)})
            else:
                typer.echo(f"Wrote {rows:,} rows to {output}.")
            return
        specs = find.asked_tasks(folder)
        name = task_name(specs, task)
        rows = task_rows(specs[name], texts or [], column or [])
        predictions = find.load_folder(folder, base).predict(name, rows)
    results = [
        {"row": row, "label": p.label, "probabilities": dict(p.probabilities)}
        for row, p in zip(rows, predictions, strict=True)
    ]
    if as_json:
        print_json({"model": reference, "task": name, "predictions": results})
        return
    labels = list(dict.fromkeys(label for r in results for label in r["probabilities"]))
    answer = "text" if isinstance(specs[name], GenerationTask) else "label"
    shown = table(f"{reference}, {name}", answer, *labels, "asked", left={answer, "asked"})
    for result in results:
        cells = [show(result["probabilities"].get(label)) for label in labels]
        text = " | ".join(str(value) for value in result["row"].values())
        shown.add_row(*(Text(cell) for cell in (result["label"], *cells, text)))
    make_console().print(shown)
