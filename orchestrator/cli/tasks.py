"""The commands `tasks list` and `tasks check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.base.facts import vocabulary
from orchestrator.cli.application import tasks_app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import DataRoot, Json, check_data_root
from orchestrator.cli.output import task_check
from orchestrator.data.inspect_task import check_task, list_tasks
from orchestrator.data.sources.reading import naming_file
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import ModelSpec, TrainingSpec
from orchestrator.spec.task_files import at_data_root, find_task_file, load_task

_TASK_FOLDERS = (Path("experiments/tasks"), Path("tasks"))


@tasks_app.command("list")
@answers_mistakes
def tasks_list(as_json: Json = False) -> None:
    """List the known tasks with their kind and description."""
    found, wrong = list_tasks(_TASK_FOLDERS)
    for message in wrong:
        typer.echo(f"orchestrate: left out: {message}", err=True)
    if as_json:
        print_json(found)
    elif found:
        make_console().print(render_list(found))
    else:
        places = " or ".join(str(folder) for folder in _TASK_FOLDERS)
        typer.echo(f"No task files in {places}. docs/tasks.md says how to write one.")


@tasks_app.command("check")
@answers_mistakes
def tasks_check(
    task: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME", help="A task file, or the name of a task.", show_default=False
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERIMENT|MODEL",
            help="Count tokens with the tokenizer of an experiment file or of a model.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Show a task's prompts, splits, labels and what looks wrong, before anything is trained."""
    check_data_root(data_root)
    file = find_task_file(task, list(_TASK_FOLDERS))
    spec = at_data_root(load_task(file), data_root)
    tokenizer, max_length, vocabulary = _tokenizer(model, data_root)
    with naming_file(file):
        checked = check_task(spec, tokenizer, max_length, vocabulary=vocabulary)
    if as_json:
        print_json(task_check.as_document(checked))
    else:
        make_console().print(task_check.render(checked), crop=False)


def _tokenizer(model: str | None, data_root: Path | None) -> tuple[Any, int | None, int | None]:
    """The tokenizer of an experiment file or of a model, and the limits of what it writes.

    Returns:
        The tokenizer, the tokens an example may have, and the tokens that the base has; all None
        where no model is named, the last where the base cannot be read.
    """
    if model is None:
        return None, None, None
    from orchestrator.base.loading import load_tokenizer

    if model.endswith((".yaml", ".yml")):
        experiment = load_experiment(Path(model), data_root).experiment
        spec, max_length = experiment.model, experiment.training.max_length
        return load_tokenizer(spec), max_length, vocabulary(spec)
    spec = ModelSpec(gguf=model) if model.endswith(".gguf") else ModelSpec(name=model)
    return load_tokenizer(spec), TrainingSpec().max_length, vocabulary(spec)


def render_list(tasks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Tasks for people: name, kind and description.

    Args:
        tasks: Records of `list_tasks`.

    Returns:
        A table.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for task in tasks:
        kind = str(task["kind"]).replace("_", " ")
        table.add_row(Text(task["name"]), Text(kind), Text(task["description"]))
    return table
