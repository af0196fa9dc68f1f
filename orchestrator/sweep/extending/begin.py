"""Where a trial begins that goes on from another one: a checkpoint made of what that one left.

Every executor looks for a trial's last checkpoint before it begins, so one that is written before
the first start is all that it needs; an interruption finds it, or a later one, there again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.facts import base_facts
from orchestrator.base.files import UNKNOWN
from orchestrator.data.prepared import PreparedData
from orchestrator.executors.trial_run import adapted_model, fresh_retention
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_checkpoints import SetAside, found_checkpoint, keep_checkpoint
from orchestrator.loop.trial_state import TrialState, write_state
from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.records.carried_folder import RETENTION_FILE, WEIGHTS_FILE
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.extension import ExtensionSpec
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.extending.parent import Parent, check_kept, open_parent
from orchestrator.system.durable import half
from orchestrator.system.seals import Maker

if TYPE_CHECKING:
    from torch import Tensor


def parent_of(extends: ExtensionSpec, storage: Path) -> Parent:
    """The trial that an experiment goes on from, found to be as it was.

    Args:
        extends: As the experiment names it.
        storage: The folder that sweeps are kept in.

    Returns:
        The trial.

    Raises:
        SweepError: If it, or what it left, is gone or is another one.
    """
    parent = open_parent(storage, extends.sweep, extends.trial, extends.sweep_id)
    check_kept(parent)
    return parent


def check_beginning(
    experiment: Experiment, storage: Path, base_sha256: str, hashes: Mapping[str, str]
) -> None:
    """Refuse what trials cannot go on from, where they are to go on from another one.

    Args:
        experiment: The sweep's.
        storage: The folder that sweeps are kept in.
        base_sha256: The hash of the base as it is now.
        hashes: Those of the tokenised tasks as they are now. What differs from then, or is gone,
            is a `SweepError`.
    """
    if experiment.extends is not None:
        parent = parent_of(experiment.extends, storage)
        check_made_of_the_same(parent, experiment, base_sha256, hashes)


def check_made_of_the_same(
    parent: Parent, experiment: Experiment, base_sha256: str, hashes: Mapping[str, str]
) -> None:
    """Refuse another base, or other rows of earlier tasks, than the trial has learnt.

    Args:
        parent: The trial that is gone on from.
        experiment: The longer sequence.
        base_sha256: The hash of the base as it is now.
        hashes: Those of the tokenised tasks as they are now.

    Raises:
        SweepError: If they are not the same, with what needs them.
    """
    before = parent.state.base.get("sha256")
    if UNKNOWN not in {before, base_sha256} and before != base_sha256:
        raise SweepError(
            f"The base model's weights are not those that {parent.named} was trained on, and what "
            "it left belongs to those alone. Name them with `--base`."
        )
    data = parent.state.provenance.get("data", {})
    tasks = experiment.tasks[: experiment.inherited]
    changed = [name for name in tasks if data.get(name) not in {None, hashes[name]}]
    if changed:
        raise SweepError(
            f"The rows of {', '.join(changed)} are not those that {parent.named} has learnt and "
            f"was scored on (a file has changed, or a further task holds some of them out). "
            f"{needs_of_rows(experiment)} Restore them, or take the tasks from another source."
        )


def needs_of_rows(experiment: Experiment) -> str:
    """What the rows of earlier tasks are needed for, in sentences."""
    kind = experiment.method.retention.kind
    words = (
        "Their validation rows show what is lost of them, and joint retraining learns their "
        "training rows."
    )
    if RETENTIONS[kind].replays:
        words += f" The retention {kind!r} replays their training rows, which it knows by position."
    return words


def write_beginning(
    place: Path, parent: Parent, experiment: Experiment, data: PreparedData, maker: Maker
) -> list[SetAside]:
    """Write the checkpoint that a trial begins from, unless it has one.

    Args:
        place: Where the trial's checkpoint is.
        parent: The trial that it goes on from.
        experiment: Its own, overrides applied.
        data: The tokenised data.
        maker: What its work is sealed with.

    Returns:
        What lay there, was not whole or not the trial's, and has been set aside.

    Raises:
        OSError: If the disk refuses.
        ValueError: If the tensors are not those of this method.
    """
    found, aside = found_checkpoint(place, maker)
    if found is not None:
        return aside
    from orchestrator.engines.checkpoints import write_tensors

    place.parent.mkdir(parents=True, exist_ok=True)
    with half(place) as fresh:
        fresh.mkdir()
        weights = _weights(parent, experiment, data) | _fresh_heads(parent, experiment, data)
        write_tensors(fresh / WEIGHTS_FILE, weights)
        carried = _retained(parent, experiment)
        if carried:
            write_tensors(fresh / RETENTION_FILE, carried)
        rows = [report.row or () for report in inherited_reports(parent, experiment)]
        tasks = experiment.tasks
        matrix = AccuracyMatrix(tasks, ((NOT_MEASURED,) * len(tasks), *rows))
        write_state(fresh, TrialState(matrix, Start(elsewhere=experiment.inherited), ()))
        keep_checkpoint(fresh, place, maker)
    return aside


def inherited_reports(parent: Parent, experiment: Experiment) -> list[StageReport]:
    """What the other trial scored after each of its tasks but the last, as reports of this one.

    After the last this trial scores it itself, on the further tasks as well.

    Args:
        parent: The trial that it goes on from.
        experiment: The longer sequence.

    Returns:
        Reports without steps, seconds or tokens, which were not this trial's; unknown is the score
        of every further task.
    """
    matrix = parent.state.matrix(parent.record)
    assert matrix is not None, "a trial that was completed has a matrix"
    counts, more = parent.state.examples(parent.record), len(experiment.tasks) - len(matrix.tasks)
    return [
        StageReport(
            task=task, task_index=index, step=0, steps=0, fraction=DONE,
            score=matrix.rows[index + 1][index],
            row=(*matrix.rows[index + 1], *[math.nan] * more),
            examples={name: counts[name] for name in matrix.tasks if name in counts},
        )
        for index, task in enumerate(matrix.tasks[:-1])
    ]  # fmt: skip


def _weights(parent: Parent, experiment: Experiment, data: PreparedData) -> dict[str, Tensor]:
    """The trained tensors by the names that engines have for them."""
    from orchestrator.engines.checkpoints import read_tensors

    if parent.carried is not None:
        return read_tensors(parent.carried / WEIGHTS_FILE)
    return _weights_of_adapter(parent, experiment, data)


def _weights_of_adapter(
    parent: Parent, experiment: Experiment, data: PreparedData
) -> dict[str, Tensor]:
    """The trained tensors of an adapter that an earlier version has kept alone.

    Args:
        parent: The trial whose it is.
        experiment: The longer sequence.
        data: The tokenised data, which some adapters are initialised from.

    Returns:
        By the names that engines have for them.

    Raises:
        ValueError: If it was saved in another form than it is trained in.
    """
    from curlora import load_adapter, merged_tensors, trainable_parameters
    from orchestrator.base.loading import load_base
    from orchestrator.engines.linear_heads import HEADS_FILE

    fresh: Any = adapted_model(parent.record.name, experiment, data, "cpu")
    wanted = {**trainable_parameters(fresh), **merged_tensors(fresh)}
    base: Any = load_base(experiment.model, experiment.training.precision, "cpu")
    kept: Any = load_adapter(base, parent.adapter)
    found = {**dict(kept.named_parameters()), **dict(kept.named_buffers())}
    lacking = [n for n, t in wanted.items() if n not in found or found[n].shape != t.shape]
    if lacking or (parent.adapter / HEADS_FILE).is_file():
        what = f"the tensor {lacking[0]}" if lacking else "trained heads by their places"
        raise ValueError(
            f"{parent.named} was trained by a version that kept the adapter alone, and as the "
            f"adapter {experiment.method.adapter.kind!r} is saved it does not hold {what}. "
            "`orchestrate reproduce` trains it again and keeps what is needed."
        )
    return {name: found[name].detach() for name in wanted}


def _fresh_heads(parent: Parent, experiment: Experiment, data: PreparedData) -> dict[str, Tensor]:
    """Heads of the further tasks that have one."""
    labels = {n: len(data.tasks[n].labels) for n in experiment.tasks if data.tasks[n].has_head}
    further = experiment.tasks[experiment.inherited :]
    if not any(name in labels for name in further):
        return {}
    from orchestrator.engines.linear_heads import LinearHeads

    facts = base_facts(experiment.model)
    if facts is None:
        raise ValueError(
            f"The width of the base of {parent.named} is not known on this machine, and a further "
            "task needs a head of that width. Run where its config is."
        )
    heads = LinearHeads(labels, facts.hidden, seed=experiment.training.seed)
    names = {f"layers.{place}." for place, name in enumerate(labels) if name in further}
    own = dict(heads.named_parameters())
    return {
        f"heads.{name}": tensor.detach()
        for name, tensor in own.items()
        if any(name.startswith(start) for start in names)
    }


def _retained(parent: Parent, experiment: Experiment) -> dict[str, Tensor]:
    """What the retention carries, with this trial's settings and room for its tasks."""
    from orchestrator.engines.checkpoints import read_tensors

    kept = None if parent.carried is None else parent.carried / RETENTION_FILE
    if kept is None or not kept.is_file():
        return {}
    retention = fresh_retention(experiment)
    retention.carry_on(read_tensors(kept), tasks=len(experiment.tasks))
    return retention.state_dict()
