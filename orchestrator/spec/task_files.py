"""Task files: found by name, read and checked; a data root in the place of a task's own source."""

from __future__ import annotations

import re
import string
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.spec.task_kinds import (
    TASK_KINDS,
    DataSource,
    PromptedTask,
    TaskSpec,
    task_field_names,
)
from orchestrator.spec.validation import render_validation_error
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import suggestion
from orchestrator.system.yaml_file import read_yaml

_ADAPTER: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)


class TaskFileError(UserError, ValueError):
    """A task file that is missing or wrong; the message says what, where and how to fix it."""


def parse_task(document: object, origin: str) -> TaskSpec:
    """Check a task document and return the task.

    Args:
        document: What the YAML file holds.
        origin: The file's name, for messages.

    Returns:
        The task.

    Raises:
        TaskFileError: If the document is not a task.
    """
    try:
        task = _ADAPTER.validate_python(document)
    except ValidationError as error:
        problem = render_validation_error(error, origin, task_field_names(), tuple(TASK_KINDS))
        raise TaskFileError(problem) from None
    if isinstance(task, PromptedTask):
        for field, only in task.format_fields.items():
            _check_format(getattr(task, field), field, origin, only=only)
    return task


def _check_format(template: str, field: str, origin: str, only: str | None = None) -> None:
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise TaskFileError(
            f"{origin}: {field}: not a format string ({error}); got {template!r}. "
            "Write a literal brace as {{ or }}."
        ) from None
    names = [str(name) for _, name, _, _ in fields]
    if not names:
        raise TaskFileError(
            f"{origin}: {field}: names no column, so every example would look the same; "
            f"got {template!r}. Put {only or 'a column name'} in braces, for example "
            f"{{{only or 'text'}}}."
        )
    wrong = [name for name in names if (name != only if only else not name or name[0].isdigit())]
    if wrong:
        cure = f"Only {{{only}}} is known here" if only else "Columns are named, as in {text}"
        raise TaskFileError(
            f"{origin}: {field}: cannot fill in {{{wrong[0]}}}; got {template!r}. {cure}; write a "
            "literal brace as {{ or }}."
        )
    for _, name, form, conversion in fields:
        _check_plain(str(name), form or "", conversion or "", f"{origin}: {field}")


def _check_plain(name: str, form: str, conversion: str, where: str) -> None:
    """Refuse all but a name."""
    # A task may come from anybody, with a model or a journal: a width allocates without bound, and
    # attributes lead anywhere.
    if form or conversion:
        shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        raise TaskFileError(
            f"{where}: {{{shown[:60]}}} asks for a format, and values are filled in as they are: "
            f"write {{{name[:60]}}}. What should look otherwise is written so in the data."
        )
    if "." in name or "[" in name:
        parts = [part.strip("'\"") for part in re.split(r"[.\[\]]+", name) if part]
        raise TaskFileError(
            f"{where}: {{{name[:60]}}} reaches into a column. Name the part in `data.columns`, for "
            f"example columns: {{{parts[-1][:40]}: {'.'.join(parts)[:60]}}}, and write "
            f"{{{parts[-1][:40]}}}."
        )


_SUFFIXES = (".yaml", ".yml")


def find_task_file(name: str, folders: list[Path]) -> Path:
    """The file of a task that is named, or given as a path.

    Args:
        name: A task's name, or a path ending in `.yaml` or `.yml`.
        folders: Where to look for `<name>.yaml`, or else `<name>.yml`; first hit wins.

    Returns:
        The path of an existing file.

    Raises:
        TaskFileError: If there is none; names the nearest task that exists.
    """
    if name.endswith((".yaml", ".yml")):
        candidates = [Path(name), *(folder / name for folder in folders)]
    else:
        candidates = [folder / f"{name}{suffix}" for folder in folders for suffix in _SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    others = [path.with_suffix(suffix) for path in candidates for suffix in _SUFFIXES]
    beside = next((path for path in others if path.is_file()), None)
    known = sorted({path.stem for folder in folders for path in task_files(folder)})
    places = ", ".join(str(folder) for folder in folders)
    hint = suggestion(name, known) if beside is None else f" There is {beside}; did you mean it?"
    raise TaskFileError(
        f"No task file for {name!r} in {places}.{hint} Known tasks: {', '.join(known) or 'none'}."
    )


def task_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES)


def load_task(path: Path) -> TaskSpec:
    """Read and check one task file; a relative `data.files` becomes absolute.

    Args:
        path: The YAML file.

    Returns:
        The task.

    Raises:
        TaskFileError: If the file cannot be read or is not a task.
    """
    task = parse_task(read_yaml(path, TaskFileError), str(path))
    if task.data.files is None:
        return task
    folder = (path.parent / task.data.files).resolve()
    data = task.data.model_copy(update={"files": str(folder)})
    return task.model_copy(update={"data": data})


def at_data_root(task: TaskSpec, data_root: Path | None) -> TaskSpec:
    """A task that reads a folder below a data root instead of its own source.

    Args:
        task: The task.
        data_root: The folder that holds one folder for each task; None for "nowhere".

    Returns:
        The task, unchanged where the data root has no folder of its name. What belongs to the old
        source (columns, constants, names of splits) is dropped: the folder has canonical names.
    """
    if data_root is None:
        return task
    folder = data_root / (task.data.local_name or task.name)
    if not folder.is_dir():
        return task
    data = DataSource(files=str(folder.resolve()), local_name=task.data.local_name)
    return task.model_copy(update={"data": data})
