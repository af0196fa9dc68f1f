"""The experiment file as a whole: its sections, what they need of one another, and overrides."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from curlora_kinds.plugins import LOADED
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.measures.objectives import MEASURES, Direction
from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS
from orchestrator.spec.extension import ExtensionSpec
from orchestrator.spec.kind_models import OneOf
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.plugins import load_plugins
from orchestrator.spec.retention_settings import RETENTION_SETTINGS
from orchestrator.spec.sections import (
    ChampionRule,
    DataLimits,
    FinalistSpec,
    ModelSpec,
    PublishedValue,
    ResourceSpec,
    Scoring,
    ScoringSpec,
    TrackingSpec,
    TrainingSpec,
)
from orchestrator.spec.space.domains import Choice
from orchestrator.spec.space.search_space import DEFAULT_TRIALS, SearchSpec
from orchestrator.spec.task_kinds import Head
from orchestrator.spec.validation import ExperimentError, PathText, Spec, render_validation_error
from orchestrator.system.stores.address import wrong_storage
from orchestrator.system.stores.opening import settle_storage
from orchestrator.system.wording import suggestion

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]


class Experiment(Spec):
    """One YAML file: a model, a task sequence, a method, and what to search."""

    name: Slug
    plugins: tuple[PathText, ...] = Field(default=(), exclude_if=lambda plugins: not plugins)
    """Modules of the user's own adapters, retentions, tasks and measures: a name (of a file beside
    the experiment file, or of what is installed), or the path of a Python file. Their code runs."""
    model: ModelSpec
    tasks: tuple[PathText, ...] = Field(min_length=1)
    probes: tuple[PathText, ...] = ()
    extends: ExtensionSpec | None = Field(default=None, exclude_if=lambda extends: extends is None)
    """The trial that has learnt the first of `tasks` already; null: nothing is learnt yet."""
    method: MethodSpec
    head: Head | None = None
    """How the classification tasks of the sequence are answered; null: as each task file says."""
    training: TrainingSpec = TrainingSpec()
    data: DataLimits = DataLimits()
    search: SearchSpec | None = None
    objectives: dict[str, Direction] = Field(
        default={"gain": "max", "forgetting": "min", "probe_drift": "min"}, min_length=1
    )
    champion: ChampionRule = ChampionRule()
    finalists: FinalistSpec = FinalistSpec()
    scoring: Scoring = ScoringSpec()
    raced: bool = Field(default=False, exclude_if=lambda raced: not raced)
    """Whether reports at rungs hold the score of each example, and whatever objectives can be
    measured by then is scored. A sweep sets it for trials that `search.early_stopping` may stop."""
    resources: ResourceSpec = ResourceSpec()
    storage: PathText = "./runs"
    tracking: TrackingSpec = TrackingSpec()
    published: tuple[PublishedValue, ...] = ()
    """What a paper claims of this experiment; shown, never computed with."""

    @field_validator("storage")
    @classmethod
    def _may_be_storage(cls, storage: str) -> str:
        if (wrong := wrong_storage(storage)) is not None:
            raise ValueError(wrong)
        return storage

    @model_validator(mode="after")
    def _combinations(self) -> Experiment:
        measures = sorted(MEASURES)
        for field, names in (
            ("objectives", list(self.objectives)),
            ("champion.maximize", [self.champion.maximize]),
            ("champion.subject_to", list(self.champion.subject_to)),
        ):
            for name in names:
                if name not in MEASURES:
                    raise ValueError(
                        f"`{field}` names the unknown measure {name!r}."
                        f"{suggestion(name, measures)} Measures: {', '.join(measures)}"
                    )
        duplicates = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        both = sorted(set(self.tasks) & set(self.probes))
        if duplicates or both:
            raise ValueError(
                f"each task may appear once in `tasks` and not in `probes` too; "
                f"got twice: {duplicates + both}"
            )
        if self.extends is not None and self.extends.learnt >= len(self.tasks):
            raise ValueError(
                f"`extends.learnt` is {self.extends.learnt}, and `tasks` has {len(self.tasks)}: "
                "at least one more is to be learnt"
            )
        self._check_shares()
        self._check_finalists()
        self._check_method()
        return self

    def _check_method(self) -> None:
        for name in self.method.sources:
            if name not in self.probes:
                raise ValueError(
                    f"`method` reads the training rows of {name!r}, which is not among `probes`."
                    f"{suggestion(name, list(self.probes))} Probes: "
                    f"{', '.join(self.probes) or 'none'}"
                )
        zero = cast("dict[str, Any]", self.training.deepspeed.get("zero_optimization", {}))
        kind = self.method.retention.kind
        if zero.get("stage") == 3 and RETENTIONS[kind].needs_whole_adapter:
            raise ValueError(
                f"the retention {kind!r} puts other values in the adapter's place, which ZeRO "
                "stage 3 has partitioned; use stage 0, 1 or 2"
            )

    def _check_finalists(self) -> None:
        if self.finalists.fresh_orders and self.extends is not None:
            raise ValueError(
                "`finalists.fresh_orders` cannot be had with `extends`: the first tasks have been "
                "learnt in their order"
            )
        per = self.finalists.per
        if per is None or self.search is None:
            return
        domain = self.search.space.get(per)
        if not isinstance(domain, Choice):
            choices = [p for p, d in self.search.space.items() if isinstance(d, Choice)]
            raise ValueError(  # noqa: TRY004 (pydantic makes messages of ValueErrors only)
                f"`finalists.per` must be a path of `search.space` with a `choice`, got {per!r}."
                f"{suggestion(per, choices)} There are: {', '.join(choices) or 'none'}"
            )

    def _check_shares(self) -> None:
        shares = self.resources.workers * self.training.accumulation
        if self.training.batch_size % shares:
            raise ValueError(
                f"`training.batch_size` ({self.training.batch_size}) must be a multiple of "
                f"`resources.workers` x `training.accumulation` ({self.resources.workers} x "
                f"{self.training.accumulation} = {shares})"
            )
        if not self.resources.facts.on_ray:
            executor = self.resources.executor
            if self.resources.workers != 1:
                raise ValueError(
                    f"`resources.executor: {executor}` is one process; "
                    f"got `resources.workers` {self.resources.workers}"
                )
            if self.training.deepspeed:
                raise ValueError(
                    f"`resources.executor: {executor}` runs without DeepSpeed; remove "
                    "`training.deepspeed` or use `executor: train`"
                )

    @property
    def deciding_measures(self) -> tuple[str, ...]:
        """The measures that trials are chosen by."""
        return ("gain", *self.objectives, self.champion.maximize, *self.champion.subject_to)

    @property
    def races(self) -> bool:
        """Whether trials may be stopped early, and report what that needs."""
        stopping = self.search is not None and self.search.early_stopping is not None
        return self.raced or stopping

    @property
    def screen(self) -> int | None:
        """How many validation examples of a task are scored while a sweep searches; None: all."""
        return None if self.scoring == "full" else self.scoring.examples

    @property
    def searched_trials(self) -> int:
        """Trials of the search; one where nothing is searched."""
        return 1 if self.search is None else self.search.count

    @property
    def expected_trials(self) -> int:
        """The same for checks of space: where a budget alone bounds them, as many as by default."""
        if self.search is not None and self.search.open_ended:
            return DEFAULT_TRIALS
        return self.searched_trials

    @property
    def repeated_trials(self) -> int:
        """Repetitions of finalists with fresh seeds, if every group has one."""
        per = self.finalists.per
        domain = self.search.space.get(per) if self.search is not None and per else None
        groups = len(domain.choice) if isinstance(domain, Choice) else 1
        return self.finalists.fresh_seeds * min(groups, self.finalists.most or groups)

    @property
    def compared_trials(self) -> int:
        """Trials beside which an extension is read: joint retraining and a fresh adapter."""
        return 2 if self.extends is not None and self.extends.compared else 0

    @property
    def inherited(self) -> int:
        """How many of the tasks a trial does not learn itself."""
        return 0 if self.extends is None else self.extends.learnt

    def for_workers(self) -> dict[str, Any]:
        """The document that travels to other processes and machines.

        Returns:
            All of it but `tracking`: only the driver speaks to MLflow, and its address may hold a
            password that Ray would write into its own files. `plugins` are those that this process
            has loaded, each with the hash of its source.
        """
        document = self.model_dump(mode="json", exclude={"tracking"})
        return document | {"plugins": [plugin.pinned for plugin in LOADED.values()]}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as its document, with which its plugins are loaded where it arrives."""
        tracking = {"tracking": self.tracking.model_dump(mode="json")}
        return experiment_received, (self.for_workers() | tracking,)

    def with_overrides(self, overrides: Mapping[str, Any]) -> Experiment:
        """This experiment with dotted fields replaced, checked again.

        When an override changes the kind of the adapter or of the retention, settings that the new
        kind does not have are dropped from this experiment's own values (never from the overrides).
        An override of the preset replaces the whole method.

        Args:
            overrides: Dotted path to value.

        Returns:
            A new experiment without a search.

        Raises:
            ExperimentError: If the result is not valid.
        """
        document = self.model_dump(mode="json", exclude={"search", "finalists"})
        method: dict[str, Any] = document["method"]
        if "method.preset" in overrides:
            document["method"] = {}
        else:
            _change_kind(method, "adapter", overrides.get("method.adapter.kind"), ADAPTER_SETTINGS)
            _change_kind(
                method, "retention", overrides.get("method.retention.kind"), RETENTION_SETTINGS
            )
        shown = ", ".join(f"{path}={value!r}" for path, value in overrides.items())
        # The whole before its parts, in whatever order they were written.
        for path in sorted(overrides, key=lambda path: path.count(".")):
            if not _set_at(document, path, copy.deepcopy(overrides[path])):
                raise ExperimentError(
                    f"overrides ({shown}): {path}: its parent has no fields of its own"
                )
        try:
            return Experiment.model_validate(document)
        except ValidationError as error:
            raise ExperimentError(
                render_validation_error(
                    error, f"overrides ({shown})", field_names(), method_kinds()
                )
            ) from None


def experiment_received(document: Mapping[str, Any]) -> Experiment:
    """Read an experiment that another process of this sweep has sent, and load its plugins.

    Args:
        document: As `Experiment.for_workers` gives it.

    Returns:
        The experiment. A plugin that cannot be loaded here is a `PluginError`.
    """
    load_plugins(document.get("plugins", ()))
    experiment = Experiment.model_validate(document)
    settle_storage(experiment.storage)
    return experiment


def _set_at(document: dict[str, Any], path: str, value: Any) -> bool:
    """Set a dotted field, making what is missing or null above it; False where that is a value."""
    *parents, last = path.split(".")
    place = document
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        below: object = place[parent]
        if not isinstance(below, dict):
            return False
        place = cast("dict[str, Any]", below)
    place[last] = value
    return True


def _change_kind(
    method: dict[str, Any], part: str, kind: Any, settings: Mapping[str, type[Spec]]
) -> None:
    """Keep of an adapter or retention what another kind has, too."""
    own: dict[str, Any] = method[part]
    if kind is None or kind == own["kind"]:
        return
    known = set(settings[str(kind)].model_fields) if str(kind) in settings else set(own)
    # `alpha` and `strength` mean another thing to each kind, so they are not carried over either.
    method[part] = {k: v for k, v in own.items() if k in known - {"alpha", "strength"}}
    method["preset"] = None  # it is that preset's method no longer


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)


def known_paths(model: type[BaseModel] = Experiment, prefix: str = "") -> set[str]:
    """Every dotted path of the format, over all adapter kinds."""
    paths: set[str] = set()
    for name, field in model.model_fields.items():
        paths.add(prefix + name)
        chosen = [part for part in field.metadata if isinstance(part, OneOf)]
        inside = chosen[0].models.values() if chosen else _models_in(field.annotation)
        for inner in inside:
            paths |= known_paths(inner, f"{prefix}{name}.")
    return paths


def method_kinds() -> frozenset[str]:
    """The names of all kinds of adapters and retentions."""
    return frozenset({*ADAPTER_SETTINGS, *RETENTION_SETTINGS})


def field_names() -> list[str]:
    """Every field name of the format, for suggestions."""
    return sorted({path.rsplit(".", 1)[-1] for path in known_paths()})
