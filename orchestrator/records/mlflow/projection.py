"""MLflow as a projection of the journal: whatever it lacks is written, as often as one likes.

The journal is the truth. `Projection.catch_up` folds its lines into the picture that MLflow should
show (one run per sweep, a nested run per trial) and writes the difference. Runs are found again by
their tags before any is made, times come from the lines (MLflow collapses equal metrics), and the
number of the last line written is noted only after everything before it: after a crash at any
point, and after any number of replays, MLflow shows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.cards.card import adapter_of, carded
from orchestrator.records.errors import AdapterFolderError, TrackingError
from orchestrator.records.event import Line
from orchestrator.records.events import (
    ChampionRegistered,
    SweepEnded,
    SweepOpened,
    read_event,
    read_events,
)
from orchestrator.records.journal_facts import milliseconds
from orchestrator.records.mlflow.address import is_own_database
from orchestrator.records.mlflow.champion import Registration, register_champion
from orchestrator.records.mlflow.client import TAG, mlflow_errors
from orchestrator.records.mlflow.experiments import MARK, experiment_for, run_named, runs_of
from orchestrator.records.mlflow.held_run import (
    TAG_CHARACTERS,
    HeldRun,
    create_run,
    tag_run,
    write_run,
    write_status,
)
from orchestrator.records.mlflow.models import log_trial_model
from orchestrator.records.mlflow.pages import attach_page, share_columns
from orchestrator.records.mlflow.picture import shortened
from orchestrator.records.mlflow.storage_folder import connect_here
from orchestrator.records.mlflow.sweep_runs import SweepRuns
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.in_mlflow import SeenInMlflow
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState

if TYPE_CHECKING:
    from mlflow import MlflowClient


_MODEL = f"{TAG}model"
_VERSION = f"{TAG}model_version"
_REGISTERED = f"{TAG}registered_n"
"""The line by which the champion in the registry was registered."""


def _shown(verdict: SweepEnded) -> set[str]:
    """The trials whose adapters are logged as models."""
    return {*verdict.front, *(f.trial for f in verdict.finalists), verdict.champion or ""}


def _silent(_: str) -> None:
    """No one is informed."""


class Projection:
    """One sweep in MLflow."""

    def __init__(
        self, uri: str, sweep_folder: Path, *, say: Callable[[str], None] | None = None
    ) -> None:
        """Prepare; MLflow is not spoken to before the first `catch_up` or `check`.

        Args:
            uri: Where MLflow records, from `tracking_uri`.
            sweep_folder: The sweep's folder. Without a server, artifacts go to `mlartifacts`
                beside it.
            say: Told what had to be mended, and what was left alone.
        """
        self._uri = uri
        self._folder = sweep_folder.resolve()
        self._say = say or _silent
        self._sweep: SweepRuns | None = None
        self._folded = 0
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._held: dict[str | None, HeldRun] | None = None
        self._registration: tuple[str, Registration] | None = None
        self._refused: set[tuple[str, int]] = set()
        """Adapters that could not be read; another projection tries again."""

    def check(self) -> None:
        """Find out within half a minute whether MLflow can be used.

        Raises:
            TrackingError: If it cannot.
        """
        with mlflow_errors(self._uri, self._folder):
            self._connected().search_experiments(max_results=1)

    def catch_up(self, lines: Sequence[Line], *, running: bool = True) -> None:
        """Write whatever MLflow lacks of a sweep; what has not changed costs nothing.

        Args:
            lines: The whole journal; what was written before is not written again.
            running: Whether a driver runs the sweep. Where none does, what had begun and not ended
                is shown as KILLED, since the last line, until a driver goes on with it.

        Raises:
            TrackingError: If MLflow cannot be used; the next call tries again.
        """
        if not lines:
            return
        done = False
        try:
            with mlflow_errors(self._uri, self._folder):
                self._write(self._fold(lines), lines, running=running)
            done = True
        finally:
            if not done:
                # A request may have arrived although its answer did not: look again next time.
                self._held = self._client = self._sweep = None

    def write_again(self, lines: Sequence[Line], *, without: Sequence[str]) -> None:
        """Show what a journal says that was repaired, whatever was shown before.

        Args:
            lines: The whole journal.
            without: Trials of which something is not certain any more: their runs are deleted
                (MLflow keeps deleted runs), and made again when the trials run again.

        Raises:
            TrackingError: If MLflow cannot be used; the next call tries again.
        """
        with mlflow_errors(self._uri, self._folder):
            client, sweep = self._connected(), self._fold(lines)
            experiment = self._experiment(client, sweep.state)
            for trial, held in runs_of(client, experiment, sweep, self._say).items():
                if trial is None:
                    tag_run(client, held, {MARK: "-1"})
                elif trial in without and not held.deleted:
                    # Under another sweep's name, so that it is not found again.
                    tag_run(
                        client, held, {f"{TAG}sweep": f"{sweep.state.identity} (before repair)"}
                    )
                    client.set_terminated(held.run.info.run_id, "KILLED")
                    client.delete_run(held.run.info.run_id)
        self._held = self._sweep = None
        self.catch_up(lines, running=False)

    def _fold(self, lines: Sequence[Line]) -> SweepRuns:
        opening = read_event(lines[0])
        if not isinstance(opening, SweepOpened):
            raise TrackingError(
                f"The journal of {self._folder} should begin with `sweep_opened`, "
                f"got {lines[0]['event']!r}."
            )
        if self._sweep is None:
            self._sweep, self._folded = SweepRuns(opening, self._folder), 0
        for event in read_events(lines[self._folded :]):
            self._sweep.add(event)
            self._folded += 1
        return self._sweep

    def register(self, lines: Sequence[Line], *, just_decided: bool) -> Registration:
        """Register the champion of the last verdict, see `register_champion`.

        Args:
            lines: The whole journal, caught up with.
            just_decided: Whether the verdict is of this moment.

        Returns:
            What was registered.

        Raises:
            TrackingError: If MLflow cannot be used.
        """
        state = self._fold(lines).state
        registration = register_champion(
            self._uri, sweep_folder=self._folder, state=state, just_decided=just_decided
        )
        if state.last_verdict is not None and state.last_verdict.champion is not None:
            self._registration = (state.last_verdict.champion, registration)
        return registration

    def attach(self, folder: Path) -> str:
        """Put a folder (a report) among the artifacts of the sweep's run, unless it is there.

        The run's description leads to its page `index.html`; a description that somebody wrote
        stays. Call `catch_up` first: it makes the run.

        Args:
            folder: Its name is the place among the artifacts.

        Returns:
            The page's place in MLflow's own pages, from the `#` of the address on.

        Raises:
            TrackingError: If MLflow cannot be used; the next call tries again.
        """
        held = self._own_run()
        if held.deleted:
            raise TrackingError(
                f"The MLflow run of {self._folder.name} was deleted, so that there is nothing to "
                "add to. It can be brought back: `mlflow runs restore --run-id "
                f"{held.run.info.run_id}`."
            )
        with mlflow_errors(self._uri, self._folder):
            return attach_page(self._connected(), self._experiment_id, held, folder)

    def share_view(self, lines: Sequence[Line], columns: Sequence[str]) -> str:
        """Keep a view of a sweep's runs in MLflow, with columns chosen and sorted by gain.

        Args:
            lines: Its journal; its experiment is made when missing.
            columns: `metrics.NAME`, `params.NAME` or `tags.NAME`, in their order.

        Returns:
            The view's place in MLflow's own pages, from the `#` of the address on.

        Raises:
            TrackingError: If MLflow cannot be used.
        """
        with mlflow_errors(self._uri, self._folder):
            client = self._connected()
            experiment = self._experiment(client, self._fold(lines).state)
            return share_columns(client, experiment, columns)

    def _own_run(self) -> HeldRun:
        """The sweep's own run.

        Returns:
            What MLflow holds of it.

        Raises:
            TrackingError: If `catch_up` has not made or found it.
        """
        if self._held is None:
            raise TrackingError(
                f"MLflow at {redacted(self._uri)} was not caught up with {self._folder.name}, so "
                "that there is no run to add to. The same command tries again."
            )
        return self._held[None]

    def _connected(self) -> MlflowClient:
        if self._client is None:
            if is_own_database(self._uri, self._folder.parent):
                self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._client = connect_here(self._uri, self._folder.parent, say=self._say)
        return self._client

    def _write(self, sweep: SweepRuns, lines: Sequence[Line], *, running: bool) -> None:
        client = self._connected()
        if self._held is None:
            self._experiment_id = self._experiment(client, sweep.state)
            self._held = runs_of(client, self._experiment_id, sweep, self._say)
            sweep.touched |= sweep.everything()
        elif not running:
            sweep.touched |= {name for name, held in self._held.items() if held.end is None}
        held, seen = self._held, SeenInMlflow(self._folder.parent, sweep.state.name)
        rested = None if running else milliseconds(lines[-1]["time"])
        for trial, picture in sweep.pictures(sweep.touched).items():
            if trial is not None:
                picture.tags["mlflow.parentRunId"] = held[None].run.info.run_id
            if trial not in held and seen.is_gone(run_named(sweep.identity, trial)):
                continue
            if trial not in held:
                held[trial] = create_run(client, self._experiment_id, picture)
            if held[trial].deleted:
                continue
            write_run(client, held[trial], picture)
            if trial is not None:
                self._write_models(client, held[trial], sweep.state, trial)
            write_status(client, held[trial], picture, rested)
        if sweep.registered is not None:
            self._write_registration(client, held, sweep.registered, lines)
        # Last of all: everything before this line is there.
        tag_run(client, held[None], {MARK: str(lines[-1]["n"])})
        sweep.touched.clear()

    def _experiment(self, client: MlflowClient, state: SweepState) -> str:
        return experiment_for(client, self._uri, self._folder.parent, state, self._say)

    def _write_models(
        self, client: MlflowClient, held: HeldRun, state: SweepState, name: str
    ) -> None:
        """Log the adapters of a trial that matters: of the front, a finalist or the champion.

        The others have their cards beside their adapters, and are logged when they are promoted.
        """
        trial = state.trial(name)
        verdict = state.last_verdict
        if verdict is None or name not in _shown(verdict):
            return
        for learnt in carded(state, trial):
            key = _MODEL if learnt == len(state.tasks) else f"{_MODEL}.after_{learnt}"
            place, _ = adapter_of(state, trial, learnt)
            if key in held.tags or place is None or (name, learnt) in self._refused:
                continue
            folder = SweepFolder(self._folder).within(place)
            # Without the folder (a journal on another machine) the run simply has no model yet.
            if not folder.is_dir():
                continue
            try:
                model = log_trial_model(
                    client, held.run, adapter_folder=folder, state=state, trial=name, learnt=learnt
                )
            except AdapterFolderError as error:
                # One damaged folder keeps no other trial from being recorded.
                self._refused.add((name, learnt))
                tag_run(client, held, {f"{key}_refused": shortened(str(error), TAG_CHARACTERS)})
            else:
                tag_run(client, held, {key: model})

    def _write_registration(
        self,
        client: MlflowClient,
        held: dict[str | None, HeldRun],
        registered: ChampionRegistered,
        lines: Sequence[Line],
    ) -> None:
        """Say which version the champion is; make it again where the registry was lost."""
        own, champion = held[None], held.get(registered.trial)
        if own.tags.get(_REGISTERED) == str(registered.n) or own.deleted:
            return
        # Without its model (a journal on another machine) there is nothing to register.
        if champion is None or champion.deleted or _MODEL not in champion.tags:
            return
        known = self._registration
        if known is None or known[0] != registered.trial:
            known = (registered.trial, self.register(lines, just_decided=False))
        version = {_VERSION: f"{known[1].model}/{known[1].version}"}
        tag_run(client, champion, version)
        tag_run(client, own, {**version, _REGISTERED: str(registered.n)})
