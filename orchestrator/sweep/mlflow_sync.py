"""Letting MLflow catch up with a running sweep; a server that is down costs no finished work."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from orchestrator.executors.signals import held_back
from orchestrator.records.errors import RegistryError, TrackingError
from orchestrator.records.event import Line
from orchestrator.records.events import ChampionRegistered, FaultSurvived, SweepEnded, TestRead
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import last_line
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.registry_file import open_registry
from orchestrator.records.registry.verdicts import note_verdict
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.written import write_report
from orchestrator.spec.experiment import Experiment
from orchestrator.sweep.protocols import Observer

MLFLOW_PAUSE_SECONDS = 60.0
"""How long MLflow is left alone after it could not be reached."""
_REGISTERED = {SweepEnded.name, TestRead.name, ChampionRegistered.name}
"""Lines after which the registry lacks something, and the one that says that it has it."""


class MlflowSync:
    """Lets MLflow catch up with the journal; a server that is down costs no finished work.

    While trials run on Ray, a thread of its own does it (`ask`), so that a slow or hung server
    stops no trial and leaves no slot empty. The journal is written by the driver's thread alone.
    """

    def __init__(
        self, experiment: Experiment, storage: Path, journal: Journal, observer: Observer
    ) -> None:

        self._uri = tracking_uri(experiment.tracking.uri, storage)
        self._journal = journal
        self._observer = observer
        self._mlflow: Projection | None = None
        self._make = lambda: Projection(
            self._uri, journal.folder, say=lambda text: observer.note(f"MLflow: {text}")
        )
        self._again_at = -math.inf
        self._away_since: float | None = None
        self._away_because = ""
        self._outages: deque[FaultSurvived] = deque()
        """Those that are over and not journalled yet."""
        self._written = 0
        """How many lines of the journal MLflow shows."""
        self._one_at_a_time = threading.Lock()
        self._wanted: Sequence[Line] | None = None
        """The lines that the thread is to write next."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def catch_up(self, *, running: bool = True) -> None:
        """Write what MLflow lacks; say so and go on when it cannot be reached."""
        with held_back():  # in the middle of a statement an interrupt would not survive
            self._write(self._journal.lines, running=running)
        self._journal_outages()

    def ask(self) -> None:
        """Have a thread write what MLflow lacks now, once it has written what was asked before."""
        self._journal_outages()
        with self._changed:
            self._wanted = self._journal.lines.as_they_are()
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_on, name="mlflow", daemon=True)
            self._thread.start()

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None)
                lines, self._wanted = self._wanted, None
            if lines:
                self._write(lines, running=True)

    def _write(self, lines: Sequence[Line], *, running: bool) -> None:
        with self._one_at_a_time:
            if time.monotonic() < self._again_at:
                return
            try:
                if self._mlflow is None:
                    self._mlflow = self._make()
                self._mlflow.catch_up(lines, running=running)
                self._written = len(lines)
            except TrackingError as error:
                if self._again_at < 0:
                    self._observer.note(f"MLflow lags behind: {error}")
                self._away(str(error))
                # A server that is down takes half a minute to say so.
                self._again_at = time.monotonic() + MLFLOW_PAUSE_SECONDS
            else:
                self._again_at = -math.inf
                self._is_back()

    def lag(self) -> tuple[int, float]:
        """What MLflow does not show. It is written when trials begin and end; reports wait so long.

        Returns:
            How many lines of the journal, and the age of the oldest of them in seconds.
        """
        first, lines = self._written, self._journal.lines
        if first >= len(lines):
            return 0, 0.0
        return len(lines) - first, max(0.0, self._journal.now() - float(lines[first]["time"]))

    def _away(self, why: str) -> None:
        if self._away_since is None:
            self._away_since, self._away_because = self._journal.now(), why

    def _is_back(self) -> None:
        if self._away_since is not None:
            self._outages.append(self._outage(self._journal.now()))
            self._away_since = None

    def _outage(self, until: float | None) -> FaultSurvived:
        why = self._away_because.partition(" Nothing is lost: ")[0]
        return FaultSurvived(
            "mlflow_away", redacted(self._uri), why, since=self._away_since, until=until
        )

    def _journal_outages(self) -> None:
        """Journal what the thread has noticed; called by the driver's thread alone."""
        while self._outages:
            self._observer.event(self._journal.append(self._outages.popleft()))

    def rest(self) -> None:
        """Let MLflow show that nothing runs any more, if it showed something running before."""
        with self._changed:
            self._wanted = None
        if self._mlflow is not None:
            self.catch_up(running=False)

    def finish(self, *, just_decided: bool) -> str:
        """Write everything, and register the champion.

        Args:
            just_decided: Whether the verdict is of this moment.

        Returns:
            Why MLflow lacks something, in words for people; empty when it has everything.
        """
        with self._changed:
            self._wanted = None
        with self._one_at_a_time:
            return self._finish(just_decided=just_decided)

    def _finish(self, *, just_decided: bool) -> str:
        lines = self._journal.lines
        refused = ""
        try:
            if self._mlflow is None:
                self._mlflow = self._make()
            self._mlflow.catch_up(lines, running=False)
            self._is_back()
            self._journal_outages()
            verdict = last_line(lines, "sweep_ended")
            champion = verdict["champion"] if verdict is not None else None
            if champion is not None and not self._is_registered():
                refused = self._register(self._mlflow, champion, just_decided)
            self._attach_report()
        except TrackingError as error:
            self._away(str(error))
            self._observer.event(self._journal.append(self._outage(None)))
            self._note_verdict(latest=just_decided)
            return (
                f"All trials are finished and kept in {self._journal.folder}, and MLflow lags "
                f"behind. {error}"
            )
        return refused

    def _register(self, mlflow: Projection, champion: str, just_decided: bool) -> str:
        """Register the champion; why it is not, where its adapter is not the one that it made."""
        lines, folder = self._journal.lines, self._journal.folder
        ended = last_line(lines, "trial_ended", champion) or {}
        if ended.get("adapter"):
            adapter = SweepFolder(folder).within(ended["adapter"])
            wrong = adapter_flaw(adapter, ended.get("adapter_sha256"), champion)
            if wrong is not None:
                return (
                    f"All trials are finished and kept in {folder}, and the champion {champion} "
                    f"was not registered: {adapter} is not the adapter that it made: {wrong}. "
                    "Restore it from a copy, or add `--retry-failed`, which trains it again."
                )
        registered = mlflow.register(lines, just_decided=just_decided)
        event = ChampionRegistered(champion, registered.model, registered.version)
        self._observer.event(self._journal.append(event))
        self._observer.note(registered.text)
        mlflow.catch_up(lines, running=False)
        return ""

    def _note_verdict(self, *, latest: bool) -> None:
        """Let the storage folder's registry know of the champion although MLflow is away."""
        state = SweepState.of(self._journal.lines, whole=False)
        try:
            with open_registry(self._journal.folder.parent) as registry:
                note_verdict(registry, state, latest=latest)
        except RegistryError as error:
            self._observer.note(f"the champion stands in the journal alone: {error}")

    def _is_registered(self) -> bool:
        """Whether the registry holds the last verdict's champion, its test scores included."""
        events = [
            line["event"]
            for line in self._journal.lines
            # What another preference picks is not registered.
            if line["event"] in _REGISTERED and not line.get("preference")
        ]
        return events[-1] == ChampionRegistered.name

    def _attach_report(self) -> None:
        """Write the sweep's page and put it beside its run; a full disk costs no sweep."""
        try:
            page = write_report(self._journal.lines, self._journal.folder)
        except OSError as error:
            self._observer.note(f"the report could not be written: {error}")
            return
        if self._mlflow is not None:
            self._mlflow.attach(page.parent)
