"""The file a user writes: one YAML document, checked whole before anything starts.

Reading it needs neither torch nor ray, so that a mistake is answered in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from curlora_kinds.adapters.table import ADAPTERS
from orchestrator.measures.objectives import MEASURES, Need
from orchestrator.spec.deepspeed_section import check_deepspeed
from orchestrator.spec.experiment import Experiment, field_names, method_kinds
from orchestrator.spec.plugins import PluginLoadError, load_installed_plugins, load_plugins
from orchestrator.spec.reach import possible_methods
from orchestrator.spec.space.space_checks import check_space
from orchestrator.spec.task_files import TaskFileError, at_data_root, find_task_file, load_task
from orchestrator.spec.task_kinds import LanguageModellingTask, TaskSpec
from orchestrator.spec.validation import ExperimentError, render_validation_error
from orchestrator.system.yaml_file import read_yaml


class LoadedExperiment(BaseModel):
    """An experiment with the tasks that it names, found and read."""

    experiment: Experiment
    tasks: dict[str, TaskSpec]
    """Specs of `tasks` and `probes`, by the name used in the experiment."""
    text: str
    """The YAML as the user wrote it."""
    origin: str
    """The file's path."""
    task_files: dict[str, str] = {}
    """The file of each task, by the name used in the experiment."""


def load_experiment(
    path: Path,
    data_root: Path | None = None,
    begun: Callable[[Experiment], bool] = lambda _: False,
) -> LoadedExperiment:
    """Read, check and complete an experiment file.

    Args:
        path: The YAML file.
        data_root: When given, every task reads `<data_root>/<local_name>/<split>.jsonl[.gz]`
            instead of its own source, if that folder exists.
        begun: Whether a sweep of this experiment has begun, asked when its space is refused. One
            that an older version let begin goes on, as each of its proposals is checked as well.

    Returns:
        The experiment and its tasks.

    Raises:
        ExperimentError: If the experiment is wrong, naming file, field, value and nearest name.
        TaskFileError: If one of its task files is missing or wrong.
    """
    document = read_yaml(path, ExperimentError)
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of fields; got {document!r}")
    document = _with_plugins(cast("dict[str, Any]", document), path)
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise ExperimentError(
            render_validation_error(error, str(path), field_names(), method_kinds())
        ) from None
    return _complete(experiment, path, path.read_text(encoding="utf-8"), data_root, begun)


def complete_experiment(
    experiment: Experiment,
    folder: Path,
    data_root: Path | None = None,
    begun: Callable[[Experiment], bool] = lambda _: False,
) -> LoadedExperiment:
    """Check and complete an experiment that was made in Python.

    Args:
        experiment: The experiment.
        folder: Where its model and its tasks are found, as beside a file.
        data_root: As for `load_experiment`.
        begun: As for `load_experiment`.

    Returns:
        The experiment and its tasks.

    Raises:
        ExperimentError: If the experiment is wrong, naming field, value and nearest name.
        TaskFileError: If one of its task files is missing or wrong.
    """
    text = yaml.safe_dump(experiment.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    return _complete(experiment, folder / "Experiment", text, data_root, begun)


def complete_recorded(
    experiment: Experiment,
    tasks: Mapping[str, TaskSpec],
    *,
    text: str,
    origin: str,
    task_files: Mapping[str, str],
) -> LoadedExperiment:
    """Check and complete an experiment that was made of a journal, whose tasks were read already.

    Args:
        experiment: The experiment; its model is found from any folder.
        tasks: Its tasks and probes, by the names used in it.
        text: It as YAML.
        origin: Where it comes from, for messages.
        task_files: The files of those tasks that have one.

    Returns:
        The experiment and its tasks.

    Raises:
        ExperimentError: If the experiment is wrong, naming field, value and nearest name.
    """
    path = Path(origin)
    try:
        check_deepspeed(experiment)
        check_space(experiment)
    except ExperimentError as error:
        raise ExperimentError(f"{origin}: {error}") from None
    headed = {
        name: _with_head(experiment, task, learnt=name in experiment.tasks, path=path)
        for name, task in tasks.items()
    }
    _check_measured(experiment, headed, path)
    _check_heads(experiment, headed, path)
    return LoadedExperiment(
        experiment=experiment, tasks=headed, text=text, origin=origin, task_files=dict(task_files)
    )


def _complete(
    experiment: Experiment,
    path: Path,
    text: str,
    data_root: Path | None,
    begun: Callable[[Experiment], bool],
) -> LoadedExperiment:
    experiment = _resolve_model(experiment, path)
    try:
        check_deepspeed(experiment)
        check_space(experiment)
    except ExperimentError as error:
        if not begun(experiment):
            raise ExperimentError(f"{path}: {error}") from None
    folders = [path.parent / "tasks", path.parent, Path("experiments/tasks")]
    names = (*experiment.tasks, *experiment.probes)
    files = {name: find_task_file(name, folders) for name in names}
    read = _load_tasks(files)
    called = {given: task.name for given, task in read.items()}
    experiment = _by_name(experiment, called)
    files = {called[given]: file for given, file in files.items()}
    tasks = {task.name: at_data_root(task, data_root) for task in read.values()}
    tasks = {
        name: _with_head(experiment, task, learnt=name in experiment.tasks, path=path)
        for name, task in tasks.items()
    }
    _check_measured(experiment, tasks, path)
    _check_heads(experiment, tasks, path)
    return LoadedExperiment(
        experiment=experiment,
        tasks=tasks,
        text=text,
        origin=str(path),
        task_files={name: str(file) for name, file in files.items()},
    )


def load_plugins_of(path: Path) -> None:
    """Load the plugins that an experiment file names, whatever else stands in it.

    Args:
        path: The YAML file. One that cannot be read, or whose plugins cannot be loaded, is an
            `ExperimentError`.
    """
    document = read_yaml(path, ExperimentError)
    if isinstance(document, dict):
        _with_plugins(cast("dict[str, Any]", document), path)


def _with_plugins(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Load the plugins of a document, as they decide what else may stand in it.

    Args:
        document: An experiment as it was written.
        path: Its file.

    Returns:
        The document with `plugins` that are found from any folder.

    Raises:
        ExperimentError: One cannot be loaded.
    """
    try:
        load_installed_plugins()
        named: object = document.get("plugins", [])
        entries = cast("list[object]", named) if isinstance(named, list) else [None]
        references = [entry for entry in entries if isinstance(entry, str)]
        if len(references) < len(entries):
            return document  # which is told with whatever else is wrong
        plugins = load_plugins(references, path.parent)
    except PluginLoadError as error:
        raise ExperimentError(f"{path}: plugins: {error}") from error
    return document | {"plugins": [plugin.reference for plugin in plugins]} if named else document


def _load_tasks(files: Mapping[str, Path]) -> dict[str, TaskSpec]:
    """The tasks of some files, each of which must call its task otherwise."""
    tasks = {name: load_task(file) for name, file in files.items()}
    by_name: dict[str, Path] = {}
    for name, task in tasks.items():
        if task.name in by_name:
            raise TaskFileError(
                f"{files[name]}: name: {task.name!r} is also the name in {by_name[task.name]}. "
                "Scores, heads and controls are kept by it; give one of them another"
            )
        by_name[task.name] = files[name]
    return tasks


def _by_name(experiment: Experiment, called: Mapping[str, str]) -> Experiment:
    """An experiment whose tasks are named as they name themselves, by which scores are kept.

    Args:
        experiment: It may name them by the paths of their files.
        called: By what it names them, their own names.

    Returns:
        The same experiment.
    """
    if all(given == name for given, name in called.items()):
        return experiment

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(one) for key, one in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [named(one) for one in cast("list[Any]", value)]
        return called.get(value, value) if isinstance(value, str) else value

    document = experiment.model_dump(mode="json", exclude_unset=True)
    parts = ("tasks", "probes", "method", "search")
    return Experiment.model_validate(
        {**document, **{part: named(document[part]) for part in parts if part in document}}
    )


def _resolve_model(experiment: Experiment, path: Path) -> Experiment:
    """A model folder or GGUF file is written relative to the experiment file; make it absolute."""
    model = experiment.model
    if model.gguf is not None:
        file = (path.parent / model.gguf).resolve()
        return experiment.model_copy(update={"model": model.model_copy(update={"gguf": str(file)})})
    folder = path.parent / str(model.name)
    looks_like_a_path = str(model.name).startswith((".", "/", "~"))
    if folder.is_dir() or looks_like_a_path:
        resolved = str(Path(str(model.name)).expanduser() if str(model.name).startswith("~")
                       else folder.resolve())  # fmt: skip
        return experiment.model_copy(update={"model": model.model_copy(update={"name": resolved})})
    return experiment


def _with_head(experiment: Experiment, task: TaskSpec, *, learnt: bool, path: Path) -> TaskSpec:
    if learnt and experiment.head is not None and "head" in type(task).model_fields:
        return task.model_copy(update={"head": experiment.head})
    if not learnt and task.has_head:
        raise ExperimentError(
            f"{path}: probes: {task.name} has `head: linear`, and a probe is never learnt, so its "
            "head would never be trained; use `head: label_words` in its task file"
        )
    return task


def _check_heads(experiment: Experiment, tasks: Mapping[str, TaskSpec], path: Path) -> None:
    """Refuse to train heads alone where a task has none."""
    kinds = {method.adapter.kind for method in possible_methods(experiment)}
    idle = next((kind for kind in kinds if ADAPTERS[kind].trains_nothing), None)
    for name in experiment.tasks:
        if idle is not None and not tasks[name].has_head:
            raise ExperimentError(
                f"{path}: the adapter {idle} trains linear heads and nothing else, and the task "
                f"{name} has none. Set `head: linear` in the experiment (classification tasks "
                f"only), or take {idle} out"
            )


def _check_measured(experiment: Experiment, tasks: Mapping[str, TaskSpec], path: Path) -> None:
    """Refuse objectives that this sequence and these probes can never measure."""
    probes = {isinstance(tasks[probe], LanguageModellingTask) for probe in experiment.probes}
    lacking: dict[Need, bool] = {
        "text_probe": True not in probes,
        "choice_probe": False not in probes,
        "two_tasks": len(experiment.tasks) < 2,
        "no_linear_head": any(tasks[name].has_head for name in experiment.tasks),
    }
    wanted = [*experiment.objectives, experiment.champion.maximize, *experiment.champion.subject_to]
    for measure in wanted:
        needs = MEASURES[measure].needs
        if any(lacking[need] for need in needs):
            raise ExperimentError(
                f"{path}: the measure {measure!r} is an objective or a limit of the champion, but "
                f"it needs {', '.join(_NEEDS[need] for need in needs)}. Add one, or set "
                "`objectives` and `champion.subject_to` without it"
            )


_NEEDS: dict[Need, str] = {
    "two_tasks": "at least two tasks",
    "no_linear_head": "none with a linear head (which says nothing of a task before it is learnt)",
    "text_probe": "a language-modelling task in `probes`",
    "choice_probe": "a choice task in `probes`",
}
