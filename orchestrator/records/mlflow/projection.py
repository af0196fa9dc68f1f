"""MLflow as a projection of the journal: whatever it lacks is written, as often as one likes.

The journal is the truth. `Projection.catch_up` folds its lines into the picture that MLflow should
show (one run per sweep, a nested run per trial) and writes the difference. Runs are found again by
their tags before any is made, times come from the lines (MLflow collapses equal metrics), and the
number of the last line written is noted only after everything before it: after a crash at any
point, and after any number of replays, MLflow shows the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.errors import AdapterFolderError, TrackingError
from orchestrator.records.events import (
    ChampionRegistered,
    Line,
    SweepOpened,
    read_event,
    read_events,
)  # fmt: skip
from orchestrator.records.journal_facts import milliseconds
from orchestrator.records.mlflow.address import artifacts_address, is_database, is_own_database
from orchestrator.records.mlflow.champion import Registration, register_champion
from orchestrator.records.mlflow.client import TAG, connect, mlflow_errors
from orchestrator.records.mlflow.models import log_trial_model
from orchestrator.records.mlflow.picture import Picture, shortened
from orchestrator.records.mlflow.storage_folder import relocate, storage_identity
from orchestrator.records.mlflow.sweep_runs import SweepRuns
from orchestrator.records.mlflow.tags import (
    find_experiment,
    find_runs,
    is_deleted,
    only_one,
    own_tags,
)
from orchestrator.records.redaction import redacted
from orchestrator.records.sweep_folder import path_within
from orchestrator.records.sweep_state import SweepState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


_TAG_CHARACTERS = 8000


_BATCH_PARAMETERS = _BATCH_TAGS = 100
_BATCH_METRICS = 800

_MARK = f"{TAG}journal_n"
_MODEL = f"{TAG}model"
_VERSION = f"{TAG}model_version"
_REGISTERED = f"{TAG}registered_n"
"""The line by which the champion in the registry was registered."""
_DESCRIPTION = "mlflow.note.content"
_DESCRIBED = "The report of this sweep: "
_VIEW = "orchestrator"
"""Key of the view that MLflow's pages open with."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _folder_digest(folder: Path) -> str:
    """Changes with the name or content of any file directly in the folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{file.name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _silent(_: str) -> None:
    """Nobody is told."""


@dataclass
class _Held:
    """What MLflow holds of one run, as far as we know."""

    run: Run
    tags: dict[str, str]
    parameters: set[str]
    status: str
    end: int | None
    mark: int = -1
    """Points of this line of the journal, and of those before it, are there for certain."""
    deleted: bool = False
    """Somebody deleted it, and it stays so."""


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
        self._held: dict[str | None, _Held] | None = None
        self._registration: tuple[str, Registration] | None = None
        self._refused: set[str] = set()
        """Trials whose adapter could not be read; another projection tries again."""

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
        run = f"#/experiments/{self._experiment_id}/runs/{held.run.info.run_id}"
        page = f"{run}/artifacts/{folder.name}/index.html"
        key, digest = f"{TAG}sha256.{folder.name}", _folder_digest(folder)
        tags = {}
        described = held.tags.get(_DESCRIPTION, "")
        if not described or described.startswith(_DESCRIBED):
            tags[_DESCRIPTION] = f"{_DESCRIBED}[{folder.name}/index.html]({page})"
        with mlflow_errors(self._uri, self._folder):
            client = self._connected()
            if held.tags.get(key) != digest:
                client.log_artifacts(held.run.info.run_id, str(folder), folder.name)
                tags[key] = digest
            self._tag(client, held, tags)
        return page

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
        quoted = [f"{kind}.`{name}`" for kind, _, name in (c.partition(".") for c in columns)]
        # What "Share" in MLflow's pages writes; they read it from the tag that the address names.
        view = {
            "searchFilter": "", "orderByKey": "metrics.`gain`", "orderByAsc": False,
            "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
            "datasetsFilter": [], "selectedColumns": quoted, "columnOrder": quoted,
        }  # fmt: skip
        with mlflow_errors(self._uri, self._folder):
            client = self._connected()
            state = self._fold(lines).state
            experiment = self._experiment(client, state.name, state.identity)
            client.set_experiment_tag(
                experiment, f"mlflow.sharedViewState.{_VIEW}", json.dumps(view)
            )
        return f"#/experiments/{experiment}/runs?viewStateShareKey={_VIEW}"

    def _own_run(self) -> _Held:
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
            self._client = connect(self._uri, say=self._say)
            if relocate(self._uri, self._folder.parent):
                self._say(
                    f"MLflow's artifacts were recorded at another place and are now looked for in "
                    f"{self._folder.parent}"
                )
        return self._client

    def _write(self, sweep: SweepRuns, lines: Sequence[Line], *, running: bool) -> None:
        client = self._connected()
        if self._held is None:
            self._experiment_id = self._experiment(client, sweep.state.name, sweep.state.identity)
            self._held = self._find(client, sweep)
            sweep.touched |= sweep.everything()
        elif not running:
            sweep.touched |= {name for name, held in self._held.items() if held.end is None}
        held = self._held
        rested = None if running else milliseconds(lines[-1]["time"])
        for trial, picture in sweep.pictures(sweep.touched).items():
            if trial is not None:
                picture.tags["mlflow.parentRunId"] = held[None].run.info.run_id
            if trial not in held:
                held[trial] = self._create(client, picture)
            if held[trial].deleted:
                continue
            self._write_run(client, held[trial], picture)
            if trial is not None:
                self._write_model(client, held[trial], sweep.state, trial)
            self._write_status(client, held[trial], picture, rested)
        if sweep.registered is not None:
            self._write_registration(client, held, sweep.registered, lines)
        # Last of all: everything before this line is there.
        self._tag(client, held[None], {_MARK: str(lines[-1]["n"])})
        sweep.touched.clear()

    def _experiment(self, client: MlflowClient, name: str, sweep: str) -> str:
        identity = storage_identity(self._uri, self._folder.parent, make=True)
        found, free = find_experiment(client, name, identity, sweep)
        tags = own_tags(identity, name)
        if found is None:
            if free != name:
                self._say(
                    f"MLflow has an experiment {name!r} of another storage folder; this one's is "
                    f"named {free!r}"
                )
            # A server chooses its own place; a bare database would choose the working folder.
            place = artifacts_address(self._folder.parent, free) if is_database(self._uri) else None
            return client.create_experiment(free, artifact_location=place, tags=tags)
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"The MLflow experiment {found.name!r} at {redacted(self._uri)} was deleted. Bring "
                f"it back (`mlflow experiments restore -x {found.experiment_id}`), or remove it "
                "for good (`mlflow gc`)."
            )
        for key, value in tags.items():
            if key not in found.tags:
                client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def _find(self, client: MlflowClient, sweep: SweepRuns) -> dict[str | None, _Held]:
        """The runs that are there; the sweep's own is made when missing."""
        found = {
            trial: only_one(client, runs)
            for trial, runs in find_runs(client, self._experiment_id, sweep.state.identity).items()
        }
        mark = int(found[None].data.tags.get(_MARK, -1)) if None in found else -1
        held = {
            trial: _Held(run, dict(run.data.tags), set(run.data.params), run.info.status,
                         run.info.end_time, mark, is_deleted(run))
            for trial, run in found.items()
        }  # fmt: skip
        if None not in held:
            held[None] = self._create(client, sweep.parent)
        deleted = sorted(str(name or "the sweep itself") for name, h in held.items() if h.deleted)
        if deleted:
            self._say(f"deleted in MLflow, and not made again: {', '.join(deleted)}")
        return held

    def _create(self, client: MlflowClient, picture: Picture) -> _Held:
        tags = {key: shortened(value, _TAG_CHARACTERS) for key, value in picture.tags.items()}
        run = client.create_run(
            self._experiment_id, start_time=picture.start, tags=tags, run_name=picture.name
        )
        return _Held(run, tags, set(), "RUNNING", None)

    def _write_run(self, client: MlflowClient, held: _Held, picture: Picture) -> None:
        from mlflow.entities import Metric, Param, RunTag

        wanted = {key: shortened(value, _TAG_CHARACTERS) for key, value in picture.tags.items()}
        tags = {key: value for key, value in wanted.items() if held.tags.get(key) != value}
        # A parameter that is there is never sent again: MLflow refuses to change one.
        missing = {k: v for k, v in picture.parameters.items() if k not in held.parameters}
        metrics = [
            Metric(point.key, point.value, point.time, point.step)
            for point in picture.points
            if point.n > held.mark
        ]
        parameters = [Param(key, value) for key, value in missing.items()]
        new_tags = [RunTag(key, value) for key, value in tags.items()]
        batches = max(
            math.ceil(len(metrics) / _BATCH_METRICS),
            math.ceil(len(parameters) / _BATCH_PARAMETERS),
            math.ceil(len(new_tags) / _BATCH_TAGS),
        )
        for i in range(batches):
            client.log_batch(
                held.run.info.run_id,
                metrics=metrics[i * _BATCH_METRICS : (i + 1) * _BATCH_METRICS],
                params=parameters[i * _BATCH_PARAMETERS : (i + 1) * _BATCH_PARAMETERS],
                tags=new_tags[i * _BATCH_TAGS : (i + 1) * _BATCH_TAGS],
            )
        held.tags |= tags
        held.parameters |= set(missing)
        picture.points.clear()
        digests: dict[str, str] = {}
        for name, text in picture.artifacts.items():
            key, digest = f"{TAG}sha256.{name}", _digest(text)
            if held.tags.get(key) != digest:
                client.log_text(held.run.info.run_id, text, name)
                digests[key] = digest
        self._tag(client, held, digests)

    def _write_model(self, client: MlflowClient, held: _Held, state: SweepState, name: str) -> None:
        trial = state.trial(name)
        if trial.state != "COMPLETE" or not trial.adapter or _MODEL in held.tags:
            return
        folder = path_within(self._folder, trial.adapter)
        # Without the folder (a journal on another machine) the run simply has no model yet.
        if name in self._refused or not folder.is_dir():
            return
        try:
            model = log_trial_model(
                client, held.run, adapter_folder=folder, state=state, trial=name
            )
        except AdapterFolderError as error:
            # One damaged folder keeps no other trial from being recorded.
            self._refused.add(name)
            self._tag(client, held, {f"{_MODEL}_refused": shortened(str(error), _TAG_CHARACTERS)})
        else:
            self._tag(client, held, {_MODEL: model})

    @staticmethod
    def _write_status(
        client: MlflowClient, held: _Held, picture: Picture, rested: int | None
    ) -> None:
        """Let a run be over or go on; over since `rested` (milliseconds) where no driver runs."""
        status, end = picture.status, picture.end
        if end is None and rested is not None:
            status, end = "KILLED", rested
        if (held.status, held.end) == (status, end):
            return
        if end is None:
            if held.status != "RUNNING":
                client.update_run(held.run.info.run_id, status="RUNNING")
        else:
            client.set_terminated(held.run.info.run_id, status, end)
        held.status, held.end = status, end

    def _write_registration(
        self,
        client: MlflowClient,
        held: dict[str | None, _Held],
        told: ChampionRegistered,
        lines: Sequence[Line],
    ) -> None:
        """Say which version the champion is; make it again where the registry was lost."""
        own, champion = held[None], held.get(told.trial)
        if own.tags.get(_REGISTERED) == str(told.n) or own.deleted:
            return
        # Without its model (a journal on another machine) there is nothing to register.
        if champion is None or champion.deleted or _MODEL not in champion.tags:
            return
        known = self._registration
        if known is None or known[0] != told.trial:
            known = (told.trial, self.register(lines, just_decided=False))
        version = {_VERSION: f"{known[1].model}/{known[1].version}"}
        self._tag(client, champion, version)
        self._tag(client, own, {**version, _REGISTERED: str(told.n)})

    @staticmethod
    def _tag(client: MlflowClient, held: _Held, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = {key: value for key, value in tags.items() if held.tags.get(key) != value}
        if new and not held.deleted:
            client.log_batch(
                held.run.info.run_id, tags=[RunTag(key, value) for key, value in new.items()]
            )
            held.tags |= new
