"""MLflow as a projection of the journal: whatever it lacks is written, as often as one likes.

The journal is the truth. `Projection.catch_up` folds its lines into the picture that MLflow should
show (one run per sweep, a nested run per trial) and writes the difference. Runs are found again by
their tags before any is made, times come from the lines (MLflow collapses equal metrics), and the
number of the last line written is noted only after everything before it: after a crash at any
point, and after any number of replays, MLflow shows the same.

Steps: the *global step* of a report is the number of optimiser steps since the trial began, that is
the steps of the tasks learnt before plus the step within this one; row 0 (the untouched base) has
step 0. `R/<i>/<task>` is logged at step i, and a trial's final measures at step 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.experiment import is_number, refusal
from orchestrator.journal import Line, path_within
from orchestrator.model_registry import (
    TAG,
    AdapterFolderError,
    Registration,
    connect,
    effective_experiment,
    find_experiment,
    find_runs,
    is_deleted,
    log_trial_model,
    milliseconds,
    mlflow_errors,
    own_tags,
    register_champion,
    sweep_id,
)
from orchestrator.tracking_address import (
    TrackingError,
    artifacts_address,
    is_database,
    is_own_database,
    redacted,
    redacted_document,
)
from orchestrator.tracking_database import relocate, storage_identity

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Projection", "TrackingError"]

# MLflow's own limits (mlflow.utils.validation).
_PARAMETER_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
_KEY_CHARACTERS = 250
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
_STATUS = {"COMPLETE": "FINISHED", "FAILED": "FAILED", "STOPPED": "KILLED"}
_TRIAL_STARTS = "trial_started"
_REOPENING = {"trial_proposed", _TRIAL_STARTS, "stage_report", "trial_ended"}
_OF_TRIALS = {"method", "training", "resources"}
"""What a search may vary: the parameters of trials, and not of the sweep's own run."""
_REPORT_METRICS = ("loss", "tokens", "seconds", "strength")
_STEP_METRICS = {"losses": "step_loss", "learning_rates": "learning_rate"}
"""Series of a report, one value a step, and the metric that each becomes."""


@dataclass(frozen=True)
class _Point:
    """One value of a metric."""

    n: int
    """The line that it comes from."""
    key: str
    value: float
    time: int
    """Milliseconds since the epoch."""
    step: int


@dataclass
class _Picture:
    """What one MLflow run should show."""

    name: str
    start: int
    tags: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    points: list[_Point] = field(default_factory=list)
    """What MLflow is not known to have."""
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"
    end: int | None = None

    def measure(self, line: Line, values: Mapping[str, Any], step: int) -> None:
        """Add the values that are numbers; what was not measured is left out."""
        for key, value in values.items():
            if is_number(value):
                self.points.append(_Point(line["n"], key, value, milliseconds(line), step))

    def close(self, line: Line, status: str) -> None:
        """The run is over, for now."""
        self.status, self.end = status, milliseconds(line)

    def reopen(self) -> None:
        """The run goes on."""
        self.status, self.end = "RUNNING", None


@dataclass
class _Trial:
    """What the journal said of a trial so far."""

    name: str
    document: Mapping[str, Any]
    """The sweep's experiment when the trial was proposed."""
    overrides: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    picture: _Picture | None = None
    steps: dict[int, int] = field(default_factory=dict)
    rows: dict[int, list[float | None]] = field(default_factory=dict)
    ended: Line | None = None
    """The line of its last end."""


def _settings(trial: _Trial) -> tuple[dict[str, Any], dict[str, str]]:
    """A trial's whole experiment, and tags for the kind of its method."""
    if refusal(effective_experiment(trial.document, {}), trial.overrides) is not None:
        # An older version proposed what cannot be; it has failed, and no experiment is its own.
        return redacted_document(dict(trial.overrides)), {}
    experiment = effective_experiment(trial.document, trial.overrides)
    adapter, retention = experiment.method.adapter.kind, experiment.method.retention.kind
    method = adapter if retention == "none" else f"{adapter}+{retention}"
    document = redacted_document(experiment.model_dump(mode="json", exclude={"search"}))
    return document, {f"{TAG}adapter": adapter, f"{TAG}method": method}


class _Sweep:
    """The fold over the lines of one sweep."""

    def __init__(self, opening: Line, identity: str, folder: Path) -> None:
        self.identity = identity
        self.folder = folder
        self.trials: dict[str, _Trial] = {}
        self.base_row: list[float | None] | None = None
        self.document: Mapping[str, Any] = opening["experiment"]
        self.registered: Line | None = None
        """The line that says that the champion of the last verdict was registered."""
        self.touched: set[str | None] = {None}
        """The runs (None: the sweep's own) whose pictures have changed since they were written."""
        self.parent = _Picture(
            name=folder.name,
            start=milliseconds(opening),
            tags={
                f"{TAG}sweep": identity,
                f"{TAG}kind": str(opening.get("kind", "sweep")),
                f"{TAG}folder": str(folder),
                f"{TAG}origin": str(opening.get("origin", "")),
            },
            parameters=_parameters(
                redacted_document({k: v for k, v in self.document.items() if k not in _OF_TRIALS})
            ),
        )

    def add(self, line: Line) -> None:
        """Take in one more line; an event of a newer version is left out.

        Args:
            line: The next line.
        """
        event = line["event"]
        self.touched.add(line.get("trial"))
        if event in _REOPENING:
            self.touched.add(None)
            self.parent.reopen()
        match event:
            case "sweep_opened":
                self._opened(line)
            case "trial_proposed":
                trial = self._trial(line["trial"])
                trial.document = self.document
                trial.overrides, trial.by = line["overrides"], str(line.get("by", ""))
            case "trial_started":
                self._started(line)
            case "stage_report":
                self._reported(line)
            case "trial_ended":
                self._trial_ended(line)
            case "sweep_ended" | "sweep_stopped" | "test_read":
                self._concluded(line)
            case "champion_registered":
                self.registered = line
            case _:
                pass

    def pictures(self, wanted: Collection[str | None]) -> dict[str | None, _Picture]:
        """Some of the runs that there should be, the sweep's own (None) first.

        Args:
            wanted: Which; the work done is for these alone.

        Returns:
            The pictures of those that have begun, by name.
        """
        pictures: dict[str | None, _Picture] = {None: self.parent} if None in wanted else {}
        for name in sorted(name for name in wanted if name is not None):
            trial = self.trials.get(name)
            if trial is not None and trial.picture is not None:
                if trial.ended is not None:
                    self._draw_matrix(trial, trial.picture)
                pictures[name] = trial.picture
        return pictures

    def everything(self) -> set[str | None]:
        """The name of every trial that was proposed, and None."""
        return {None, *self.trials}

    def _concluded(self, line: Line) -> None:
        match line["event"]:
            case "sweep_ended":
                self._ended(line)
            case "test_read":
                self._test_read(line)
            case _:
                self.touched.add(None)
                self.parent.close(line, "FAILED")

    def _started(self, line: Line) -> None:
        picture = self._picture(line)
        picture.tags |= {
            f"{TAG}attempt": str(line["attempt"]),
            **({f"{TAG}versions": json.dumps(made)} if (made := line.get("versions")) else {}),
            f"{TAG}state": "RUNNING",
            f"{TAG}reason": "",
        }
        picture.reopen()

    def _opened(self, line: Line) -> None:
        self.document = line["experiment"]
        self.parent.reopen()
        self.parent.artifacts = {
            "experiment.yaml": redacted(str(line.get("yaml", ""))),
            "experiment.json": _json(line["experiment"]),
            "provenance.json": _json(line.get("provenance", {})),
            "controls.json": _json(line.get("controls", {})),
        }

    def _trial(self, name: str) -> _Trial:
        return self.trials.setdefault(name, _Trial(name, self.document))

    def _picture(self, line: Line) -> _Picture:
        """The run of a line's trial; a trial that was only proposed has none."""
        trial = self._trial(line["trial"])
        if trial.picture is None:
            document, kinds = _settings(trial)
            trial.picture = _Picture(
                name=trial.name,
                start=milliseconds(line),
                tags={
                    f"{TAG}sweep": self.identity,
                    f"{TAG}trial": trial.name,
                    f"{TAG}by": trial.by,
                    **kinds,
                },
                parameters=_parameters(document),
                artifacts={"experiment.json": _json(document)},
            )
        return trial.picture

    def _reported(self, line: Line) -> None:
        picture, trial, report = self._picture(line), self._trial(line["trial"]), line["report"]
        index = int(report["task_index"])
        if index >= 0:
            trial.steps[index] = int(report["steps"])
        before = sum(steps for task, steps in trial.steps.items() if task < index)
        step = before + int(report["step"]) if index >= 0 else 0
        for name, metric in _STEP_METRICS.items():
            series = report.get(name) or ()
            for back, value in enumerate(reversed(series)):
                picture.measure(line, {metric: value}, step - back)
        values: dict[str, Any] = {name: report.get(name) for name in _REPORT_METRICS}
        for probe, readings in (report.get("probes") or {}).items():
            values |= {f"{reading}/{probe}": value for reading, value in readings.items()}
        row = report.get("row")
        if row is None:
            values[f"score/{report['task']}"] = report.get("score")
            picture.measure(line, values, step)
            return
        tasks = list(trial.document["tasks"])
        scores = dict(zip(tasks, row, strict=True))
        picture.measure(line, values | {f"score/{t}": score for t, score in scores.items()}, step)
        stage = index + 1
        picture.measure(line, {f"R/{stage}/{t}": score for t, score in scores.items()}, stage)
        trial.rows[stage] = row
        if stage == 0:
            self.base_row = row

    def _draw_matrix(self, trial: _Trial, picture: _Picture) -> None:
        rows = dict(trial.rows)
        if rows and self.base_row is not None:
            rows.setdefault(0, self.base_row)
        if rows:
            tasks = list(trial.document["tasks"])
            unknown = [None] * len(tasks)
            matrix = [rows.get(stage, unknown) for stage in range(max(rows) + 1)]
            picture.artifacts["accuracy_matrix.json"] = _json({"tasks": tasks, "rows": matrix})

    def _trial_ended(self, line: Line) -> None:
        picture, trial = self._picture(line), self._trial(line["trial"])
        trial.ended = line
        picture.measure(line, _final_measures(line), 0)
        picture.tags |= {f"{TAG}state": line["state"], f"{TAG}reason": line["reason"] or ""}
        if line.get("log"):
            picture.tags[f"{TAG}log"] = line["log"]
        picture.close(line, _STATUS[line["state"]])

    def _ended(self, line: Line) -> None:
        champion = line["champion"]
        self.registered = None
        ended = {name: t for name, t in self.trials.items() if t.ended is not None}
        for name, trial in ended.items():
            if trial.picture is not None:
                trial.picture.tags |= {
                    f"{TAG}on_front": _yes(name in line["front"]),
                    f"{TAG}champion": _yes(name == champion),
                }
        self.touched |= {None, *ended}
        self.parent.tags |= {
            f"{TAG}champion": champion or "none",
            f"{TAG}reason": line["reason"],
            f"{TAG}front": ",".join(line["front"]),
        }
        chosen = ended[champion].ended if champion in ended else None
        if chosen is not None:
            # Under names of their own: the sweep's run is no rival of the trials.
            measures = {f"champion/{k}": v for k, v in _final_measures(chosen).items()}
            self.parent.measure(line, measures, 0)
        finished = any(
            t.ended is not None and t.ended["state"] == "COMPLETE" for t in ended.values()
        )
        self.parent.close(line, "FINISHED" if finished else "FAILED")

    def _test_read(self, line: Line) -> None:
        """Test scores beside each trial that was scored; those of its first reading stay."""
        if line["reading"] is None:
            return
        tasks = list(self.document["tasks"])
        self.touched |= {None, *line["sides"]}
        for name, side in line["sides"].items():
            trial = self.trials.get(name)
            values = {f"test/{t}": score for t, score in zip(tasks, side["row"], strict=True)}
            if name in line["gain"]:
                low, high = line["gain_intervals"].get(name) or (None, None)
                values |= {"test_accuracy": line["accuracy"][name],
                           "test_gain": line["gain"][name],
                           "test_gain_low": low, "test_gain_high": high}  # fmt: skip
            pictures = [(trial.picture, "")] if trial is not None else []
            if name == line["champion"]:
                pictures.append((self.parent, "champion/"))
            for picture, prefix in pictures:
                if picture is not None and f"{TAG}test_reading" not in picture.tags:
                    named = {f"{prefix}{key}": value for key, value in values.items()}
                    picture.measure(line, named, 0)
                    picture.tags[f"{TAG}test_reading"] = str(line["reading"])


def _final_measures(line: Line) -> dict[str, Any]:
    low, high = line.get("gain_interval") or (None, None)
    return {**(line.get("measures") or {}), "gain_low": low, "gain_high": high}


def _yes(answer: bool) -> str:
    return "true" if answer else "false"


def _json(document: Any) -> str:
    return json.dumps(redacted_document(document), indent=2, ensure_ascii=False) + "\n"


def _parameters(document: Mapping[str, Any]) -> dict[str, str]:
    """Dotted paths to values as text, within what MLflow takes."""
    return {
        re.sub(r"[^\w\-. :/]", "_", path)[:_KEY_CHARACTERS]: _cut(text, _PARAMETER_CHARACTERS)
        for path, text in _flattened(document)
    }


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


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
        self._sweep: _Sweep | None = None
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

    def _fold(self, lines: Sequence[Line]) -> _Sweep:
        if lines[0]["event"] != "sweep_opened":
            raise TrackingError(
                f"The journal of {self._folder} should begin with `sweep_opened`, "
                f"got {lines[0]['event']!r}."
            )
        if self._sweep is None:
            self._sweep, self._folded = _Sweep(lines[0], sweep_id(lines), self._folder), 0
        for line in lines[self._folded :]:
            self._sweep.add(line)
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
        registration = register_champion(
            self._uri, sweep_folder=self._folder, lines=lines, just_decided=just_decided
        )
        champion = next(x["champion"] for x in reversed(lines) if x["event"] == "sweep_ended")
        self._registration = (champion, registration)
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
            experiment = self._experiment(client, str(lines[0]["sweep"]), sweep_id(lines))
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

    def _write(self, sweep: _Sweep, lines: Sequence[Line], *, running: bool) -> None:
        client = self._connected()
        if self._held is None:
            self._experiment_id = self._experiment(client, str(lines[0]["sweep"]), sweep.identity)
            self._held = self._find(client, sweep)
            sweep.touched |= sweep.everything()
        elif not running:
            sweep.touched |= {name for name, held in self._held.items() if held.end is None}
        held = self._held
        rested = None if running else milliseconds(lines[-1])
        for trial, picture in sweep.pictures(sweep.touched).items():
            if trial is not None:
                picture.tags["mlflow.parentRunId"] = held[None].run.info.run_id
            if trial not in held:
                held[trial] = self._create(client, picture)
            if held[trial].deleted:
                continue
            self._write_run(client, held[trial], picture)
            ended = sweep.trials[trial].ended if trial is not None else None
            if ended is not None:
                self._write_model(client, held[trial], ended, lines)
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

    def _find(self, client: MlflowClient, sweep: _Sweep) -> dict[str | None, _Held]:
        """The runs that are there; the sweep's own is made when missing."""
        found = {
            trial: _only_one(client, runs)
            for trial, runs in find_runs(client, self._experiment_id, sweep.identity).items()
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
            self._say(f"deleted in MLflow, and left so: {', '.join(deleted)}")
        return held

    def _create(self, client: MlflowClient, picture: _Picture) -> _Held:
        tags = {key: _cut(value, _TAG_CHARACTERS) for key, value in picture.tags.items()}
        run = client.create_run(
            self._experiment_id, start_time=picture.start, tags=tags, run_name=picture.name
        )
        return _Held(run, tags, set(), "RUNNING", None)

    def _write_run(self, client: MlflowClient, held: _Held, picture: _Picture) -> None:
        from mlflow.entities import Metric, Param, RunTag

        wanted = {key: _cut(value, _TAG_CHARACTERS) for key, value in picture.tags.items()}
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

    def _write_model(
        self, client: MlflowClient, held: _Held, ended: Line, lines: Sequence[Line]
    ) -> None:
        if ended["state"] != "COMPLETE" or not ended.get("adapter") or _MODEL in held.tags:
            return
        folder = path_within(self._folder, ended["adapter"])
        # Without the folder (a journal on another machine) the run simply has no model yet.
        if ended["trial"] in self._refused or not folder.is_dir():
            return
        try:
            model = log_trial_model(
                client, held.run, adapter_folder=folder, lines=lines, trial=ended["trial"]
            )
        except AdapterFolderError as error:
            # One damaged folder keeps no other trial from being recorded.
            self._refused.add(ended["trial"])
            self._tag(client, held, {f"{_MODEL}_refused": _cut(str(error), _TAG_CHARACTERS)})
        else:
            self._tag(client, held, {_MODEL: model})

    @staticmethod
    def _write_status(
        client: MlflowClient, held: _Held, picture: _Picture, rested: int | None
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
        self, client: MlflowClient, held: dict[str | None, _Held], line: Line, lines: Sequence[Line]
    ) -> None:
        """Say which version the champion is; make it again where the registry was lost."""
        own, champion = held[None], held.get(line["trial"])
        if own.tags.get(_REGISTERED) == str(line["n"]) or own.deleted:
            return
        # Without its model (a journal on another machine) there is nothing to register.
        if champion is None or champion.deleted or _MODEL not in champion.tags:
            return
        known = self._registration
        if known is None or known[0] != line["trial"]:
            known = (line["trial"], self.register(lines, just_decided=False))
        version = {_VERSION: f"{known[1].model}/{known[1].version}"}
        self._tag(client, champion, version)
        self._tag(client, own, {**version, _REGISTERED: str(line["n"])})

    @staticmethod
    def _tag(client: MlflowClient, held: _Held, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = {key: value for key, value in tags.items() if held.tags.get(key) != value}
        if new and not held.deleted:
            client.log_batch(
                held.run.info.run_id, tags=[RunTag(key, value) for key, value in new.items()]
            )
            held.tags |= new


def _only_one(client: MlflowClient, runs: Sequence[Run]) -> Run:
    """The fullest of several runs of one trial; the others are deleted.

    There can be several when a server made a run, its answer was lost, and the request was
    repeated: the surplus ones are empty.

    Args:
        client: From `connect`.
        runs: At least one run.

    Returns:
        The run to go on with.
    """
    kept, *surplus = sorted(
        runs,
        key=lambda run: (
            is_deleted(run), -len(run.data.metrics), -len(run.data.tags), run.info.run_id
        ),
    )  # fmt: skip
    for run in surplus:
        if not is_deleted(run):
            client.delete_run(run.info.run_id)
    return kept
