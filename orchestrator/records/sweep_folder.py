"""The folder of a sweep: where it is in the storage folder, and where in it things are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from orchestrator.records.errors import JournalError
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.strict_json import plain


@dataclass(frozen=True)
class SweepFolder:
    """The layout of a sweep's folder: every path in it is made here."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal, of which all else that is shown can be made again."""
        return self.path / JOURNAL_NAME

    @property
    def report(self) -> Path:
        """The HTML page and its pictures."""
        return self.path / "report"

    @property
    def trials(self) -> Path:
        """What is kept of each trial."""
        return self.path / "trials"

    @property
    def requests(self) -> Path:
        """What people ask of the sweep, until its driver takes it up."""
        return self.path / "requests"

    @property
    def ray(self) -> Path:
        """What running trials go on from; the storage path of Ray Train."""
        return self.path / "ray"

    @property
    def members(self) -> Path:
        """What Ray Train writes of the members of a pool."""
        return self.ray / "members"

    @property
    def readings(self) -> Path:
        """What Ray Train writes while saved adapters are scored."""
        return self.ray / "test"

    @property
    def states(self) -> Path:
        """What trials have learnt, for those that learn the same; of all sweeps of the storage."""
        return self.path.parent / "cache" / "states"

    def adapter(self, trial: str) -> Path:
        """The adapter that is kept of a trial."""
        return self.trials / trial / "adapter"

    def task_adapter(self, trial: str, learnt: int) -> Path:
        """The adapter that is kept of a trial once it had learnt so many tasks, but the last."""
        return self.trials / trial / "adapters" / f"after-{learnt}"

    def cards(self, trial: str) -> Path:
        """The cards of a trial's adapters, a file for each."""
        return self.trials / trial / "cards"

    def carried(self, trial: str) -> Path:
        """What is kept of a finished trial for a further task, beside its adapter."""
        return self.trials / trial / "carried"

    def log(self, trial: str) -> Path:
        """Why a trial failed, at length."""
        return self.trials / trial / "log.txt"

    def progress(self, trial: str) -> Path:
        """How far a running trial is."""
        return self.trials / trial / "progress.json"

    def work(self, trial: str) -> Path:
        """The checkpoints of a trial that is not over."""
        return self.ray / trial

    def checkpoint(self, trial: str) -> Path:
        """The checkpoint of a trial of `local` and `pool`; Ray Train names its own in `work`."""
        return self.work(trial) / "checkpoint"

    def written_log(self, trial: TrialRecord) -> Path:
        """The log that the journal names, or the place where it would be."""
        usual = self.log(trial.name)
        # Earlier versions wrote where it was then, and the folder may have been moved.
        written = self.path / trial.log if trial.log else usual
        return written if written.is_relative_to(self.path) else usual

    def within(self, named: str) -> Path:
        """The place that a journal names.

        Args:
            named: What the journal says, relative to the folder.

        Returns:
            The path.

        Raises:
            JournalError: If it leads out of the folder: the journal may be anybody's.
        """
        if PurePath(named).is_absolute() or ".." in PurePath(named).parts:
            raise JournalError(
                f"The journal of {self.path} names the path {named[:200]!r}, which does not lie in "
                "the sweep's folder. No sweep writes that, so it is not used. Take the sweep from "
                "where it was made."
            )
        return self.path / named

    def relative(self, path: Path) -> str:
        """A path as it is journalled: relative to the folder, which may be moved."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)


def sweep_folder(storage: Path, name: str, *, new: bool) -> Path:
    """The folder of the last sweep of a name, or of the next one.

    Args:
        storage: The storage folder.
        name: The experiment's name.
        new: Whether another sweep is wanted.

    Returns:
        `<storage>/<name>`, or `<storage>/<name>-2` and so on; never the folder of a sweep of
        another name, which may be `<name>-2` itself.
    """
    pattern = re.compile(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?")
    numbers = [
        int(match[1] or 1)
        for path in storage.glob(f"{name}*/{JOURNAL_NAME}")
        if (match := pattern.fullmatch(path.parent.name)) and _name_in(path) in {name, None}
    ]
    if numbers and not new:
        return storage / _numbered(name, max(numbers))
    number = max(numbers, default=0) + 1
    while True:
        folder = storage / _numbered(name, number)
        # One that has lost its journal is nobody's; without `new` that is said.
        if not SweepFolder(folder).journal.is_file() and not (new and holds_trials(folder)):
            return folder
        number += 1


def holds_trials(folder: Path) -> bool:
    """Whether trials have left anything in a sweep's folder."""
    inside = SweepFolder(folder)
    return any(place.is_dir() and any(place.iterdir()) for place in (inside.trials, inside.ray))


def _name_in(journal: Path) -> str | None:
    """The name of the experiment that a journal was opened for; None where it does not say."""
    with journal.open("rb") as file:
        first = file.readline()
    try:
        return str(plain(first)["experiment"]["name"])
    except (ValueError, KeyError, TypeError):  # empty or damaged, which opening it says
        return None


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
