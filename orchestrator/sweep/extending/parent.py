"""The trial that a sweep learns on from: found by its name, and what it left checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.carried_folder import SMALL
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.model_folder import adapter_flaw, read_model_document
from orchestrator.records.opening import folder_of
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.serving.find import model_folder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.extension import ExtensionSpec
from orchestrator.sweep.errors import SweepError
from orchestrator.system.byte_units import MIB
from orchestrator.system.seals import content_hash, file_hashes
from orchestrator.system.stores.opening import bring
from orchestrator.system.wording import suggestion


@dataclass(frozen=True)
class Parent:
    """A finished trial, and the sweep that it is of."""

    folder: SweepFolder
    state: SweepState
    """All that the sweep's journal says."""
    record: TrialRecord

    @property
    def named(self) -> str:
        """The trial as `SWEEP/TRIAL`."""
        return f"{self.folder.path.name}/{self.record.name}"

    @property
    def experiment(self) -> Experiment:
        """What the trial ran, without a search."""
        return effective_experiment(self.state.experiment, self.record.overrides)

    @property
    def adapter(self) -> Path:
        """Its adapter."""
        return self.folder.within(self.record.adapter or "")

    @property
    def carried(self) -> Path | None:
        """What it carries beside the adapter; None where nothing was kept."""
        return None if self.record.carried is None else self.folder.within(self.record.carried)

    def extension(self) -> ExtensionSpec:
        """The trial as an experiment names it."""
        return ExtensionSpec(
            sweep=self.folder.path.name,
            sweep_id=self.state.identity,
            trial=self.record.name,
            adapter_sha256=self.record.adapter_sha256,
            carried_sha256=self.record.carried_sha256,
            learnt=len(self.state.tasks),
        )


def find_parent(
    reference: str, storage: Path, tracking_uri: str | None, *, note: Callable[[str], None]
) -> Parent:
    """The trial of a name.

    Args:
        reference: `NAME@champion`, `NAME/VERSION` or `SWEEP/TRIAL`.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; None: as the sweep says, else SQLite in `storage`.
        note: Told when nothing vouches for the model.

    Returns:
        The trial, which is complete.

    Raises:
        SweepError: If its sweep is not in `storage`, it was not completed, or the name is that of
            its adapter before the last task.
    """
    with model_folder(reference, storage, tracking_uri, note=note) as folder:
        document = read_model_document(folder)
    sweep, trial = str(document.get("sweep")), str(document.get("trial"))
    found = open_parent(storage, sweep, trial, document.get("sweep_id"))
    learnt = document.get("learnt") or len(found.state.tasks)
    if learnt != len(found.state.tasks):
        raise SweepError(
            f"{reference} is the adapter of {found.named} after {learnt} of its "
            f"{len(found.state.tasks)} tasks, and what a retention carries is kept after the last "
            f"one alone. Name the whole trial: {found.named}."
        )
    return found


def open_parent(storage: Path, sweep: str, trial: str, sweep_id: str | None) -> Parent:
    """A trial of a sweep in a storage folder.

    Args:
        storage: The folder that sweeps are kept in.
        sweep: The sweep's folder in it.
        trial: The trial.
        sweep_id: The identity that the sweep should have; None: any.

    Returns:
        The trial, which is complete.

    Raises:
        SweepError: If it is not there, or was not completed.
    """
    folder = SweepFolder(folder_of(storage, sweep, sweep_id) or storage / sweep)
    lines = read_journal(folder.path)
    if not lines:
        raise SweepError(
            f"The journal of the sweep {sweep!r} is not in {storage}: what its trial {trial} was "
            "made from, and what it scored, is known from there alone. Name the folder that holds "
            "it with `--storage`."
        )
    state = SweepState.of(lines)
    if sweep_id is not None and state.identity != sweep_id:
        raise SweepError(
            f"{folder.path} is another sweep of the name {sweep!r} than the one that made "
            f"{trial}. Name the folder that holds that one with `--storage`."
        )
    record = state.everything.get(trial)
    known = [name for name in state.everything if name != BASE_TRIAL]
    if record is None or trial == BASE_TRIAL:
        raise SweepError(
            f"No trial {trial!r} in sweep {sweep!r}.{suggestion(trial, known)} "
            f"Its trials: {', '.join(known) or 'none yet'}."
        )
    if record.state != "COMPLETE" or record.adapter is None:
        raise SweepError(
            f"{sweep}/{trial} is {record.state.lower()}: a trial that was completed is needed."
        )
    return Parent(folder, state, record)


def check_kept(parent: Parent) -> None:
    """Refuse a trial that cannot be learnt on from.

    Args:
        parent: The trial.

    Raises:
        SweepError: If its adapter or what its retention carries is gone, damaged, or was never
            kept.
    """
    record = parent.record
    wrong = adapter_flaw(parent.adapter, record.adapter_sha256, record.name)
    if wrong is not None or not parent.adapter.is_dir():
        raise SweepError(
            f"The adapter of {parent.named} is not used: {wrong or 'it is missing'}. Restore it "
            "from a copy, or give the command of its sweep with `--retry-failed`, which trains it "
            "again."
        )
    method = parent.experiment.method
    if record.carried is None:
        if method.retention.kind == "none":
            return
        raise SweepError(
            f"{parent.named} was trained by a version that kept the adapter alone, and its "
            f"retention {method.retention.kind!r} protects earlier tasks by what it carries beside "
            "it. `orchestrate reproduce` trains it again and keeps both."
        )
    folder = parent.carried
    if folder is not None:
        bring(folder)
    if folder is not None and folder.is_dir():
        if content_hash(file_hashes(folder)) == record.carried_sha256:
            return
        raise SweepError(
            f"What {parent.named} carries, in {folder}, is not as it was written: its files have "
            "other hashes than the journal says. Restore it from a copy, or train the trial again "
            "with `orchestrate reproduce`."
        )
    why = (folder and pruned_words(folder)) or "it was removed"
    if record.carried_bytes > SMALL:
        why = (
            f"it has {record.carried_bytes / MIB:,.0f} MiB, and what has more than "
            f"{SMALL / MIB:,.0f} MiB is kept of a sweep's champion and front alone"
        )
    raise SweepError(
        f"What {parent.named} carries beside its adapter is not there: {why}. "
        "`orchestrate reproduce` trains the trial again and keeps it."
    )
