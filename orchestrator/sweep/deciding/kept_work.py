"""What trials leave behind: whose it is, what is kept of it, and what is not used."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from orchestrator.loop.task_sequence import keeps_adapters
from orchestrator.records.carried_folder import SMALL, write_carried
from orchestrator.records.events import SetAside, StageReported
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.task_kinds import computed_fields
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.errors import SweepError, not_written
from orchestrator.sweep.extending.begin import inherited_reports, parent_of, write_beginning
from orchestrator.system.durable import copy_folder, half, put, remove
from orchestrator.system.seals import (
    UNSEALED,
    Maker,
    content_hash,
    file_hashes,
    flaw,
    move_aside,
    seal,
)
from orchestrator.system.stores.opening import bring, names_in
from orchestrator.system.strict_json import fingerprint

SEEN_TRIES, SEEN_SECONDS = 5, 0.2
"""How often, and after what pause, an adapter that was announced is looked for."""


class KeptWork:
    """The checkpoints and adapters of a sweep's trials."""

    def __init__(self, ledger: Ledger) -> None:
        """Begin.

        Args:
            ledger: The sweep's, where what is set aside is recorded.
        """
        self._ledger = ledger

    def maker(self, name: str) -> Maker:
        """What a trial's checkpoints and adapter are sealed with."""
        ledger, experiment = self._ledger, self._ledger.experiment_of(name)
        tasks = [*experiment.tasks, *experiment.probes]
        made_of = {
            "base": [ledger.state.base_sha256, experiment.model.quantization],
            "data": [ledger.data.hashes[task] for task in tasks],
            "tasks": [computed_fields(ledger.loaded.tasks[task]) for task in tasks],
            "settings": experiment.model_dump(
                mode="json",
                include={"method", "head", "training", "data"},
            ),
            "workers": [experiment.resources.executor, experiment.resources.workers],
        }
        if experiment.extends is not None:
            made_of["extends"] = experiment.extends.model_dump(mode="json")
        unsealed = name in ledger.state.unsealed
        return Maker(ledger.state.sweep_id, name, fingerprint(made_of), unsealed=unsealed)

    def adapter_flaw(self, name: str) -> str | None:
        """Why the adapter that is kept of a trial is not the one that it made; None if it is."""
        folder, maker = self._ledger.folder.adapter(name), self.maker(name)
        if not folder.is_dir():
            return "it is missing"
        wrong = flaw(folder, maker)
        return None if wrong == UNSEALED and maker.unsealed else wrong

    def keep_adapter(self, name: str, source: Path) -> str | None:
        """Copy the adapter that a trial has made, once it has been found to be whole.

        Args:
            name: The trial.
            source: Where it was saved.

        Returns:
            Why it cannot be used; None when it is kept.

        Raises:
            SweepError: If the disk refuses.
        """
        maker, target = self.maker(name), self._ledger.folder.adapter(name)
        bring(source.parent)  # another node may have written it
        wrong = flaw(source, maker) if _is_seen(source) else "it is missing"
        if wrong is not None and not (wrong == UNSEALED and maker.unsealed):
            return f"its adapter in {source} cannot be used: {wrong}"
        try:
            if target.is_dir():
                kept = self.adapter_flaw(name)
                if kept is None and file_hashes(target) == file_hashes(source):
                    return None
                if kept is None:  # of an attempt whose last report was not heard
                    remove(target)
                else:
                    self.set_aside(name, target, move_aside(target), kept)
            copy_folder(source, target)
        except OSError as error:
            raise SweepError(
                not_written(self._ledger.folder.path, f"the adapter of {name}", str(error))
            ) from None
        return None

    def adopt(self, name: str, twin: str) -> bool:
        """Give a trial the adapters of another that has had all of its settings.

        Args:
            name: The trial.
            twin: The other one.

        Returns:
            Whether it has them; not where the other's are not what they should be.

        Raises:
            SweepError: If the disk refuses.
        """
        folder, maker = self._ledger.folder, self.maker(name)
        if self.adapter_flaw(twin) is not None:
            return False
        places = [(folder.adapter(twin), folder.adapter(name))]
        for learnt in self._ledger.state.trial(twin).task_adapters:
            found = folder.task_adapter(twin, learnt)
            if found.is_dir() and flaw(found, self.maker(twin)) is None:
                places.append((found, folder.task_adapter(name, learnt)))
        try:
            for source, target in places:
                remove(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                with half(target) as fresh:
                    shutil.copytree(source, fresh)
                    seal(fresh, maker)
                    put(fresh, target)
        except OSError as error:
            raise SweepError(
                not_written(folder.path, f"the adapter of {name}", str(error))
            ) from None
        return True

    def keep_carried(self, name: str, checkpoint: Path) -> None:
        """Keep what a further task would begin from.

        Args:
            name: The trial, which has learnt all of its tasks.
            checkpoint: Its last checkpoint.

        Raises:
            SweepError: If the disk refuses.
        """
        experiment = self._ledger.experiment_of(name)
        about = {
            "tasks": list(experiment.tasks),
            "adapter": experiment.method.adapter.kind,
            "retention": experiment.method.retention.kind,
        }
        target = self._ledger.folder.carried(name)
        try:
            write_carried(target, checkpoint, self.maker(name), about)
        except OSError as error:
            raise SweepError(
                not_written(self._ledger.folder.path, f"what {name} carries", str(error))
            ) from None

    def remove_large(self, names: Collection[str]) -> None:
        """Let large states go of trials on which nothing is likely to be learnt.

        Args:
            names: The trials whose states are kept, whatever their size.
        """
        for trial in self._ledger.trials.values():
            if trial.name not in names and trial.record.carried_bytes > SMALL:
                remove(self._ledger.folder.carried(trial.name))

    def task_adapter(self, name: str, learnt: int) -> tuple[str, str] | None:
        """The adapter that a trial's executor has kept after a task.

        Args:
            name: The trial.
            learnt: How many tasks it had learnt.

        Returns:
            Its place as it is journalled, and its hash; None where none is kept, or what is there
            is not the trial's. The trial goes on without it: it is needed for later scores alone.
        """
        if not keeps_adapters(self._ledger.experiment_of(name)):
            return None
        place = self._ledger.folder.task_adapter(name, learnt)
        bring(place)
        if not place.parent.parent.is_dir() or not _is_seen(place):
            return None
        wrong = flaw(place, self.maker(name))
        if wrong is not None:
            self.set_aside(name, place, move_aside(place), wrong)
            return None
        return self._ledger.folder.relative(place), content_hash(file_hashes(place))

    def set_other_adapter_aside(self, name: str) -> None:
        """Let nothing be read from an adapter that the journal does not vouch for."""
        folder = self._ledger.folder.adapter(name)
        wrong = adapter_flaw(folder, self._ledger.state.trial(name).adapter_sha256, name)
        if wrong is not None and folder.is_dir():
            self.set_aside(name, folder, move_aside(folder), wrong)

    def set_aside(self, name: str, what: Path, kept_as: Path, because: str) -> None:
        """Record, and say, that something foreign or damaged is not used.

        Args:
            name: The trial whose work it should have been.
            what: Where it was.
            kept_as: Where it is now.
            because: What is wrong with it.
        """
        ledger = self._ledger
        ledger.observer.note(f"{what} is not used, and kept as {kept_as.name}: {because}")
        ledger.record(
            SetAside(
                trial=name,
                what=ledger.folder.relative(what),
                kept_as=ledger.folder.relative(kept_as),
                because=because,
            )
        )

    def begin(self, name: str) -> None:
        """Let a trial that goes on from another one find what that one left.

        Args:
            name: The trial, which is about to start.

        Raises:
            SweepError: If that is gone or damaged, or the disk refuses.
        """
        ledger, experiment = self._ledger, self._ledger.experiment_of(name)
        extends = experiment.extends
        if name == BASE_TRIAL or extends is None or extends.begin != "state":
            return
        parent = parent_of(extends, ledger.folder.path.parent)
        try:
            aside = write_beginning(
                ledger.folder.checkpoint(name), parent, experiment, ledger.data, self.maker(name)
            )
        except OSError as error:
            raise SweepError(
                not_written(ledger.folder.path, f"the beginning of {name}", str(error))
            ) from None
        except ValueError as error:
            raise SweepError(str(error)) from None
        for found in aside:
            self.set_aside(name, found.what, found.kept_as, found.because)
        for report in inherited_reports(parent, experiment):
            if report.stage not in ledger.trials[name].reports:
                ledger.record(StageReported(name, report))

    def remove_checkpoint(self, name: str) -> None:
        """What an ended trial would have gone on from is of no use any more."""
        remove(self._ledger.folder.work(name))

    def remove_checkpoints(self, names: Iterable[str]) -> None:
        """The same of all trials that have left one."""
        left = names_in(self._ledger.folder.ray)
        for name in names:
            if name in left:
                self.remove_checkpoint(name)


def _is_seen(folder: Path) -> bool:
    """Whether a folder is there; a network file system may show it only after a moment."""
    for _ in range(SEEN_TRIES):
        if folder.is_dir():
            return True
        if folder.parent.parent.is_dir():
            list(folder.parent.parent.iterdir())  # asks the server again
        time.sleep(SEEN_SECONDS)
    return folder.is_dir()
