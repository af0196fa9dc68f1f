"""The file a user writes: one YAML document, checked whole before anything starts.

Reading it needs neither torch nor ray, so that a mistake is answered in a fraction of a second.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from orchestrator.methods import ADAPTER_SETTINGS, RETENTION_SETTINGS, MethodSpec
from orchestrator.objectives import NATURAL_DIRECTIONS, Direction
from orchestrator.sources import at_data_root
from orchestrator.tasks import (
    ClassificationTask,
    Head,
    LanguageModellingTask,
    Spec,
    TaskFileError,
    TaskSpec,
    find_task_file,
    load_task,
    read_yaml,
    render_validation_error,
    suggestion,
)

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
LARGEST_SEED = 2**32 - 1
"""NumPy's generators take no larger seed, and torch's none above 2^64: a trial's seed is multiplied
with its steps and workers."""
DEFAULT_TRIALS = 8
LARGEST_GRID = 10_000
"""Points of a grid, each of which is tried when the file is read."""


class ExperimentError(ValueError):
    """A wrong experiment; the message names file, field, value and the nearest valid name."""


class ModelSpec(Spec):
    """The base model: a Hugging Face name, a local folder, or a GGUF file."""

    name: str | None = None
    """Name on the Hugging Face hub, or a folder (relative to the experiment file)."""
    revision: str | None = None
    gguf: str | None = None
    """A GGUF file, read (and dequantised) by transformers."""
    quantization: Literal["nf4", "int8", "torchao_int8"] | None = None
    """Keep the linear layers of the frozen base in 4 bits (bitsandbytes NF4) or 8 (bitsandbytes
    LLM.int8, torchao weight-only); null: as numbers of `training.precision`."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.name is None) == (self.gguf is None):
            raise ValueError("`model` needs exactly one of `name` and `gguf`")
        if self.gguf is not None and self.quantization is not None:
            raise ValueError("`quantization` needs a model of `name`; a `gguf` file is quantised")
        return self


class TrainingSpec(Spec):
    """How each task of the sequence is learnt."""

    learning_rate: float = Field(default=1.0e-3, gt=0, allow_inf_nan=False)
    head_learning_rate: float = Field(default=1.0e-3, gt=0, allow_inf_nan=False)
    """Of the linear heads, for tasks that have one."""
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Examples per optimiser step, over all workers and accumulation steps."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches per optimiser step."""
    max_length: int = Field(default=128, ge=8)
    """Tokens per example; in a longer prompt the longest columns lose their ends, and
    it is counted."""
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate within a task."""
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of a task's steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Passed through to DeepSpeed; the fields above fill in what it leaves out."""

    @field_validator("deepspeed")
    @classmethod
    def _owned_elsewhere(cls, value: dict[str, Any]) -> dict[str, Any]:
        owners = {
            "train_batch_size": "training.batch_size",
            "train_micro_batch_size_per_gpu": "training.batch_size and training.accumulation",
            "gradient_accumulation_steps": "training.accumulation",
            "gradient_clipping": "training.max_grad_norm",
            "bf16": "training.precision",
            "fp16": "training.precision",
        }
        for key, owner in owners.items():
            if key in value:
                raise ValueError(f"`{key}` is set by {owner}; remove it from `deepspeed`")
        zero = value.get("zero_optimization", {})
        stage = cast("dict[str, Any]", zero).get("stage", 0) if isinstance(zero, dict) else None
        if stage not in {0, 1, 2, 3}:
            raise ValueError(f"`zero_optimization.stage` must be 0, 1, 2 or 3, got {stage!r}")
        return value


class DataLimits(Spec):
    """How much of each dataset is used; null means all of it."""

    train_examples: int | None = Field(default=None, ge=1)
    validation_examples: int | None = Field(default=1000, ge=1)
    test_examples: int | None = Field(default=1000, ge=1)
    probe_tokens: int = Field(default=20000, ge=2)
    """Tokens read of each language-modelling probe."""
    probe_context: int = Field(default=512, ge=8)
    """Tokens per window when running text is read; windows do not overlap."""
    rung_examples: int | None = Field(default=None, ge=1)
    """Validation examples scored at 1/4 and 1/2 of a task; null means all of them."""
    probe_after: Literal["each_task", "last_task"] = "each_task"
    """When the probes are measured; only after the last task is cheaper, and shows no course."""
    source_examples: int = Field(default=256, ge=1)
    """Training rows kept of a probe that a method reads (`sources`, `source`)."""
    batch_tokens: int | None = Field(default=None, ge=64)
    """Padded tokens of a worker's evaluation batch and, in the pool, of each of its passes.

    Null: 16384 on a GPU; on a CPU 2048 in the pool and 512 elsewhere.
    """


def default_batch_tokens(*, on_gpu: bool, packed: bool = False) -> int:
    """The default of `data.batch_tokens`.

    Few on a CPU, whose caches hold little; but a pack gains by the number of slots in a pass. With
    four slots of 4 rows of some 40 tokens, passes of 2048 took 0.91 of the CPU time that passes of
    512 took; with eight slots, passes of 4096 took as much as those of 2048.

    Args:
        on_gpu: Whether the device is a GPU.
        packed: Whether a pass holds rows of several slots.

    Returns:
        Padded tokens of one pass.
    """
    if on_gpu:
        return 16384
    return 2048 if packed else 512


_NUMBER_AS_TEXT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _number_if_written_so(value: Any) -> Any:
    """YAML reads 3e-4 as text; in a field it is a number, and so it is in a list of choices."""
    if isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value):
        return float(value)
    return value


class Choice(Spec):
    """One of a list."""

    choice: tuple[Any, ...] = Field(min_length=1)
    when: dict[str, Any] = Field(default_factory=dict)

    @field_validator("choice")
    @classmethod
    def _numbers(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(_number_if_written_so, value))


class Uniform(Spec):
    """A real number, uniform between two bounds."""

    uniform: tuple[float, float]
    when: dict[str, Any] = Field(default_factory=dict)


class LogUniform(Spec):
    """A positive real number, uniform in its logarithm between two bounds."""

    log_uniform: tuple[float, float]
    when: dict[str, Any] = Field(default_factory=dict)

    @field_validator("log_uniform")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] <= 0:
            raise ValueError(f"both bounds of `log_uniform` must be above 0, got {list(value)}")
        return value


class IntUniform(Spec):
    """A whole number, uniform between two bounds, both included."""

    int_uniform: tuple[int, int]
    when: dict[str, Any] = Field(default_factory=dict)


SimpleDomain = Choice | Uniform | LogUniform | IntUniform


class Alternatives(Spec):
    """Several domains of one path, of which the conditions let at most one hold at a time.

    Written as a list: each entry a domain with a `when` of its own.
    """

    alternatives: tuple[SimpleDomain, ...] = Field(min_length=1)


Domain = SimpleDomain | Alternatives
_DOMAINS: dict[str, type[Choice] | type[Uniform] | type[LogUniform] | type[IntUniform]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_uniform": IntUniform,
}


class SearchSpec(Spec):
    """What is searched, how, and how often."""

    space: dict[str, Domain]
    """Dotted path into this file to a domain; `when` names the values it depends on."""
    searcher: Literal["tpe", "random", "grid"] = "tpe"
    trials: int | None = Field(default=None, ge=1)
    """Null: 8, or every point of a grid. A grid that is cut is spread over all of its values."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    startup_trials: int | None = Field(default=None, ge=1)
    """Random trials before TPE models anything; null: a third of `trials`, from 3 to 10."""
    first: tuple[dict[str, Any], ...] = ()
    """Overrides of the first trials; what an entry leaves open is proposed by the searcher."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Upper limit on trials at a time; null: as many as the cluster holds."""

    @field_validator("first")
    @classmethod
    def _numbers(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {path: _number_if_written_so(one) for path, one in entry.items()} for entry in value
        )

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """Every point of a grid, in the order of the file; none for another searcher."""
        found = assignments(self.space, _edge_values) if self.searcher == "grid" else iter(())
        return list(islice(found, LARGEST_GRID + 1))

    @property
    def count(self) -> int:
        """How many trials there will be in all."""
        if self.searcher != "grid":
            return self.trials or DEFAULT_TRIALS
        return min(self.trials or len(self.points), len(self.points))

    @property
    def left_out(self) -> str | None:
        """What of the file will not be tried as `trials` is smaller, in words; None: nothing."""
        if self.count < len(self.points):
            return (
                f"The grid has {len(self.points)} points, and {self.count} will run "
                "(`search.trials`), spread over all of its values"
            )
        if self.count < len(self.first):
            return (
                f"`search.first` has {len(self.first)} entries, and {self.count} trials will run "
                "(`search.trials`)"
            )
        return None

    @field_validator("space", mode="before")
    @classmethod
    def _domains(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            path: _parse_domain(str(path), raw)
            for path, raw in cast("dict[str, Any]", value).items()
        }

    @model_validator(mode="after")
    def _conditions(self) -> SearchSpec:
        for path, domain in simple_domains(self.space):
            bounds = domain_bounds(domain)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(
                    f"`{path}`: the lower bound must be below the upper, got {list(bounds)}"
                )
            if self.searcher == "grid" and not isinstance(domain, Choice):
                raise ValueError(f"`{path}`: a grid needs `choice` domains; list the values to try")
            for parent, wanted in domain.when.items():
                if parent not in self.space:
                    raise ValueError(
                        f"`{path}`: `when` names {parent!r}, which is not in the space."
                        f"{suggestion(parent, list(self.space))}"
                    )
                other = self.space[parent]
                for value in _wanted(wanted):
                    if isinstance(other, Choice) and value not in other.choice:
                        raise ValueError(
                            f"`{path}`: `when` wants {parent} = {value!r}, which is not among "
                            f"{list(other.choice)}"
                        )
        if self.first and self.searcher == "grid":
            raise ValueError("`first` has no place in a grid, which is walked in order")
        list(ordered_space(self.space))
        if self.searcher == "grid" and len(self.points) > LARGEST_GRID:
            raise ValueError(
                f"a grid of more than {LARGEST_GRID} points is not walked; list fewer values, or "
                "use `searcher: random` or `tpe`, which draw from the same lists"
            )
        return self


def _parse_domain(path: str, raw: Any) -> Any:
    if isinstance(raw, BaseModel):
        return raw
    if isinstance(raw, list | tuple):
        parts = cast("list[Any]", raw)
        return Alternatives(alternatives=tuple(_parse_domain(path, part) for part in parts))
    if isinstance(raw, dict) and "alternatives" in raw:  # as this model writes itself
        return _parse_domain(path, cast("dict[str, Any]", raw)["alternatives"])
    if not isinstance(raw, dict):
        raise ValueError(  # noqa: TRY004 (pydantic turns ValueErrors, not TypeErrors, into messages)
            f"`{path}`: a domain is one of {sorted(_DOMAINS)}, "
            f"for example {{choice: [4, 8]}}; got {raw!r}"
        )
    fields = cast("dict[str, Any]", raw)
    kinds = [key for key in fields if key in _DOMAINS]
    if len(kinds) != 1:
        unknown = [key for key in fields if key not in _DOMAINS and key != "when"]
        hint = suggestion(str(unknown[0]), sorted(_DOMAINS)) if unknown else ""
        raise ValueError(
            f"`{path}`: a domain needs exactly one of {sorted(_DOMAINS)}; got {raw!r}.{hint}"
        )
    return _DOMAINS[kinds[0]].model_validate(fields)


def simple_domains(space: Mapping[str, Domain]) -> Iterator[tuple[str, SimpleDomain]]:
    """Every domain with its path; a path with alternatives comes once for each of them.

    Yields:
        Pairs of a dotted path and a domain.
    """
    for path, domain in space.items():
        for part in domain.alternatives if isinstance(domain, Alternatives) else (domain,):
            yield path, part


def possible_values(space: Mapping[str, Domain], path: str, own: Any) -> list[Any]:
    """What a setting may be in a search.

    Args:
        space: The search space.
        path: Dotted path of the setting.
        own: The file's own value.

    Returns:
        Every choice, the two ends of every range, and the file's own value where the space does not
        set the path at all or only under conditions.
    """
    parts = [domain for where, domain in simple_domains(space) if where == path]
    values = [value for domain in parts for value in _edge_values(domain)]
    if not parts or any(domain.when for domain in parts):
        values.append(own)
    return list({repr(value): value for value in values}.values())


def domain_bounds(domain: SimpleDomain) -> tuple[float, float] | None:
    """The bounds of a numeric range, None for a choice."""
    match domain:
        case Choice():
            return None
        case Uniform():
            return domain.uniform
        case LogUniform():
            return domain.log_uniform
        case IntUniform():
            return domain.int_uniform


def ordered_space(space: Mapping[str, Domain]) -> Iterator[tuple[str, SimpleDomain]]:
    """The domains, each after the ones its `when` depends on.

    Yields:
        Pairs of a dotted path and its domain.

    Raises:
        ValueError: If conditions depend on one another in a circle.
    """
    parts: dict[str, list[SimpleDomain]] = {}
    for path, domain in simple_domains(space):
        parts.setdefault(path, []).append(domain)
    done: set[str] = set()
    while parts:
        ready = [p for p, domains in parts.items() if all(set(d.when) <= done for d in domains)]
        if not ready:
            raise ValueError(f"the conditions of {sorted(parts)} depend on one another")
        for path in ready:
            for domain in parts.pop(path):
                yield path, domain
            done.add(path)


class ChampionRule(Spec):
    """Which trial becomes champion, among those that beat the untouched base."""

    maximize: str = "gain"
    subject_to: dict[str, float] = Field(default={"probe_drift": 0.05})
    """Limits by measure: at most, or at least for measures where more is better."""


class FinalistSpec(Spec):
    """Which trials are repeated with fresh seeds, once the search is over.

    A trial that was chosen for its score is flattered by it; what it scores with seeds that had no
    part in the choice is not. The champion is named on the repetitions alone.
    """

    fresh_seeds: int = Field(default=0, ge=0)
    """Repetitions of each finalist, with `training.seed` + 1, + 2 and so on."""
    per: str | None = None
    """A path of the search space with a `choice`: the best trial of each of its values is a
    finalist. Null: the best trial alone."""


class ResourceSpec(Spec):
    """What one trial runs on."""

    executor: Literal["pool", "train", "local"] = "pool"
    """`pool`: members (warm Ray Train workers) in which many trials step together over one base;
    trials that cannot be packed are run as `train` does. `train`: each trial has Ray Train workers
    of its own, with DeepSpeed. `local`: one plain process, for tiny runs."""
    slots: int = Field(default=8, ge=1)
    """Trials at a time in each member of the pool."""
    members: int | None = Field(default=None, ge=1)
    """Members of the pool; null: one for every GPU of the cluster, or for as many CPUs as each
    has."""
    workers: int = Field(default=1, ge=1)
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPUs reserved and torch threads used by each worker."""
    gpus_per_worker: int = Field(default=0, ge=0)
    retention_gib: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Most memory that a retention may carry between tasks on each worker; beyond it a plan is
    refused."""
    max_failures: int = Field(default=1, ge=0)
    """Restarts of a trial's workers from its last checkpoint before the trial is FAILED."""


class PublishedValue(Spec):
    """A number that a paper claims, beside which this experiment's own can be read."""

    what: str
    """Which number: method, task, moment, unit."""
    value: float | None
    """As printed; null where it was not found."""
    where: str | None = None
    """The page, table or abstract that it stands in."""

    @model_validator(mode="after")
    def _placed(self) -> PublishedValue:
        if self.value is not None and not self.where:
            raise ValueError(
                f"{self.what!r}: a published value needs `where` it stands (a page, a table, an "
                "abstract); set `value: null` where it was not found"
            )
        return self


class TrackingSpec(Spec):
    """Where MLflow records; null means SQLite in `storage`."""

    uri: str | None = None


def not_a_folder(storage: str) -> str | None:
    """Why a storage is not the path of a folder; None when it may be one."""
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", storage)
    if scheme is None:
        return None if storage.strip() else "`storage` is empty; write the path of a folder"
    cure = (
        "write its path, without `file://`"
        if scheme[1].lower() == "file"
        else "write the path of a folder, for example one where the bucket is mounted"
    )
    return f"`storage` is {storage!r}, an address, and sweeps are kept in a folder; {cure}"


class Experiment(Spec):
    """One YAML file: a model, a task sequence, a method, and what to search."""

    name: Slug
    model: ModelSpec
    tasks: tuple[str, ...] = Field(min_length=1)
    probes: tuple[str, ...] = ()
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
    resources: ResourceSpec = ResourceSpec()
    storage: str = "./runs"
    tracking: TrackingSpec = TrackingSpec()
    published: tuple[PublishedValue, ...] = ()
    """What a paper claims of this experiment; shown, never computed with."""

    @field_validator("storage")
    @classmethod
    def _is_folder(cls, storage: str) -> str:
        wrong = not_a_folder(storage)
        if wrong is not None:
            raise ValueError(wrong)
        return storage

    @model_validator(mode="after")
    def _combinations(self) -> Experiment:
        measures = sorted(NATURAL_DIRECTIONS)
        for field, names in (
            ("objectives", list(self.objectives)),
            ("champion.maximize", [self.champion.maximize]),
            ("champion.subject_to", list(self.champion.subject_to)),
        ):
            for name in names:
                if name not in NATURAL_DIRECTIONS:
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
        if zero.get("stage") == 3 and kind in {"ewc_weight", "ilora", "olora"}:
            raise ValueError(
                f"the retention {kind!r} puts other values in the adapter's place, which ZeRO "
                "stage 3 has partitioned; use stage 0, 1 or 2"
            )

    def _check_finalists(self) -> None:
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
        executor = self.resources.executor
        if executor == "local":
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
    def searched_trials(self) -> int:
        """Trials of the search; one where nothing is searched."""
        if self.search is None:
            return 1
        return self.search.count

    @property
    def repeated_trials(self) -> int:
        """Repetitions of finalists with fresh seeds, if every group has one."""
        per = self.finalists.per
        domain = self.search.space.get(per) if self.search is not None and per else None
        groups = len(domain.choice) if isinstance(domain, Choice) else 1
        return self.finalists.fresh_seeds * groups

    def for_workers(self) -> dict[str, Any]:
        """The document that travels to other processes and machines.

        Returns:
            All of it but `tracking`: only the driver speaks to MLflow, and its address may hold a
            password that Ray would write into its own files.
        """
        return self.model_dump(mode="json", exclude={"tracking"})

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
                    f"overrides ({shown}): {path}: what stands above it has no fields of its own"
                )
        try:
            return Experiment.model_validate(document)
        except ValidationError as error:
            raise ExperimentError(
                render_validation_error(error, f"overrides ({shown})", field_names(), _KINDS)
            ) from None


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
        for inner in _models_in(field.annotation):
            paths |= known_paths(inner, f"{prefix}{name}.")
    return paths


_KINDS = frozenset({*ADAPTER_SETTINGS, *RETENTION_SETTINGS})


def field_names() -> list[str]:
    """Every field name of the format, for suggestions."""
    return sorted({path.rsplit(".", 1)[-1] for path in known_paths()})


_NOT_SEARCHABLE = ("search", "name", "storage", "tracking", "objectives", "champion", "finalists",
                   "tasks", "probes", "model", "data", "head", "published",
                   "training.max_length", "resources.executor", "resources.slots",
                   "resources.members", "resources.max_failures",
                   "resources.retention_gib")  # fmt: skip
"""What all trials of a sweep have in common."""
DRAWS = 128
"""Trials drawn from a space when a file is read, of which at most half may be impossible."""
_TRIES = 64
"""Trials drawn for one value, of which one has to be possible."""
_TRIED_VALUES = 64
"""Whole numbers of a range that are tried."""
_HOSTS = 5_000
"""Combinations of conditions that are looked at."""
_EXACT = 2**53
"""Whole numbers up to here are exact as floating-point numbers, which samplers draw."""


def check_space(experiment: Experiment) -> None:
    """Refuse a space that can propose an impossible trial, or one that was not asked for.

    Every value at the edge of a domain, and many between, is tried in whole experiments; every
    point of a grid is. What is left are relations between searched fields, which hold for most of
    the trials drawn here; a searcher asks again where one does not.

    Args:
        experiment: An experiment that was read already.

    Raises:
        ExperimentError: If a path is unknown, or a value or a combination is impossible.
    """
    search = experiment.search
    if search is None:
        return
    _check_paths(search)
    for path, domain in simple_domains(search.space):
        _check_domain(path, domain)
    _check_conditions(search.space)
    for number, entry in enumerate(search.first, start=1):
        _check_entry(search, f"search.first: entry {number}", entry)
    _check_seeds(experiment, search)
    _check_values(experiment, search.space)
    if search.searcher == "grid":
        for point in search.points:
            _try_point(experiment, point)
        return
    _check_draws(experiment, search.space, {}, "search.space")
    for number, entry in enumerate(search.first, start=1):
        _check_draws(experiment, search.space, entry, f"search.first: entry {number}")


_MAY_BE_AUTO = frozenset({"keep_in_fp32_modules", "replace_method"})
"""Keys of DeepSpeed's own for which `auto` means something to it."""


def check_deepspeed(experiment: Experiment) -> None:
    """Refuse values of `training.deepspeed` that only other programs, or JSON, give a meaning.

    DeepSpeed itself is asked before a trial starts; importing it takes seconds.

    Args:
        experiment: An experiment that was read already.

    Raises:
        ExperimentError: If a value is `auto`, or a number written as text.
    """
    _check_section("training.deepspeed", experiment.training.deepspeed)
    search = experiment.search
    for path, domain in simple_domains(search.space) if search is not None else ():
        if path.startswith("training.deepspeed.") and isinstance(domain, Choice):
            for value in domain.choice:
                _check_section(path, value)
    for entry in search.first if search is not None else ():
        for path, value in entry.items():
            if path.startswith("training.deepspeed."):
                _check_section(path, value)


def _check_section(place: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, below in cast("Mapping[str, Any]", value).items():
            _check_section(f"{place}.{key}", below)
    elif isinstance(value, list | tuple):
        for below in cast("list[Any]", value):
            _check_section(place, below)
    elif value == "auto" and place.rsplit(".", 1)[-1] not in _MAY_BE_AUTO:
        raise ExperimentError(
            f"{place}: `auto` is for the trainer of transformers, which fills it in; here nothing "
            "does. Leave the key out for DeepSpeed's own default, or give a value. Batch sizes, "
            "clipping and precision follow from the fields of `training`"
        )
    elif isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value):
        number = float(value)
        digits, _, exponent = repr(number).partition("e")
        # With a point and a sign, which YAML wants to see in a number.
        real = digits if not exponent else f"{digits}{'' if '.' in digits else '.0'}e{exponent}"
        raise ExperimentError(
            f"{place}: {value!r} is a text to YAML, and DeepSpeed wants a number; write "
            f"{int(number) if number.is_integer() else real}"
        )


def _check_paths(search: SearchSpec) -> None:
    paths = sorted(known_paths())
    places = [("search.space", path) for path in search.space]
    places += [
        (f"search.first: entry {number}", path)
        for number, entry in enumerate(search.first, start=1)
        for path in entry
    ]
    for place, path in places:
        if any(f"{name}.".startswith(f"{path}.") for name in _NOT_SEARCHABLE) or any(
            path.startswith(f"{name}.") for name in _NOT_SEARCHABLE
        ):
            raise ExperimentError(
                f"{place}: {path}: trials of one sweep share this field, or one in it, so that "
                "their scores can be compared; it cannot be searched"
            )
        if path not in paths and not path.startswith("training.deepspeed."):
            raise ExperimentError(f"{place}: {path}: unknown field.{suggestion(path, paths)}")


def _check_domain(path: str, domain: SimpleDomain) -> None:
    """Refuse values that cannot be recorded or drawn, and values that come twice."""
    bounds = domain_bounds(domain)
    if isinstance(domain, Choice):
        seen: list[str] = []
        for value in domain.choice:
            key = value_key(value, f"search.space: {path}")
            if key in seen:
                raise ExperimentError(
                    f"search.space: {path}: `choice` lists {value!r} twice; list it once. Trials "
                    "are repeated with fresh seeds by `finalists.fresh_seeds`, or by searching "
                    "`training.seed`"
                )
            seen.append(key)
    elif bounds is not None:
        low, high = bounds
        wide = isinstance(domain, IntUniform) and max(-low, high) > _EXACT
        ratio = high / low if isinstance(domain, LogUniform) else 2.0
        if wide or not math.isfinite(high - low) or not math.isfinite(ratio) or ratio < 1 + 1e-9:
            raise ExperimentError(
                f"search.space: {path}: no numbers can be drawn between {low!r} and {high!r}: the "
                "bounds are too far apart, too close, or beyond 2^53"
            )


def value_key(value: Any, place: str = "a value") -> str:
    """A text that is the same for equal values, whether 4 or 4.0, a tuple or a list.

    Args:
        value: A value of a space, or of an entry of `first`.
        place: Where it stands, for the message.

    Returns:
        JSON.

    Raises:
        ExperimentError: If the journal, which is JSON, could not hold it.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ExperimentError(
            f"{place}: {value!r} cannot be recorded. Values are texts, finite numbers, true, "
            "false, null, and lists and mappings of these; quote what YAML would read as a date"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT:
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in cast("Mapping[str, Any]", value).items()}
    return value


def contains(domain: SimpleDomain, value: Any) -> bool:
    """Whether a domain can give a value."""
    bounds = domain_bounds(domain)
    if isinstance(domain, Choice) or bounds is None:
        wanted = value_key(value)
        return any(value_key(one) == wanted for one in cast("Choice", domain).choice)
    if not is_number(value) or (isinstance(domain, IntUniform) and value != int(value)):
        return False
    return bounds[0] <= value <= bounds[1]


def _check_conditions(space: Mapping[str, Domain]) -> None:
    """Refuse conditions that never hold, and two of one path that hold at a time."""
    hosts = _hosts(space)
    for path in space:
        domains = [domain for where, domain in simple_domains(space) if where == path]
        held = [sum(active(domain, host) for domain in domains) for host in hosts]
        double = next((h for h, number in zip(hosts, held, strict=True) if number > 1), None)
        if double is not None:
            raise ExperimentError(
                f"search.space: {path}: several of its domains hold at a time, for example under "
                f"{_shown(double)}. Give them a `when` that excludes one another"
            )
        for domain in domains:
            if len(hosts) < _HOSTS and not any(active(domain, host) for host in hosts):
                raise ExperimentError(
                    f"search.space: {path}: `when` {domain.when!r} never holds in this space; mend "
                    "it, or take the domain out"
                )


def _hosts(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """The combinations of what conditions depend on; the first `_HOSTS` of them."""
    wanted: dict[str, list[Any]] = {}
    for _, domain in simple_domains(space):
        for parent, value in domain.when.items():
            wanted.setdefault(parent, []).extend(_wanted(value))
    parents = {path: domain for path, domain in space.items() if path in wanted}

    def values(path: str, domain: SimpleDomain) -> list[Any]:
        named = [value for value in wanted[path] if contains(domain, value)]
        return list({value_key(v): v for v in (*_edge_values(domain), *named)}.values())

    listed = {
        path: Alternatives(
            alternatives=tuple(
                Choice(choice=tuple(values(path, part)), when=part.when)
                for _, part in simple_domains({path: domain})
            )
        )
        for path, domain in parents.items()
    }
    return list(islice(assignments(listed, _edge_values), _HOSTS))


def _check_entry(search: SearchSpec, place: str, entry: Mapping[str, Any]) -> None:
    """Refuse an entry of `first` that lies outside the space, or that would be lost."""
    for path, value in entry.items():
        value_key(value, f"{place}: {path}")
        if path not in search.space:
            continue
        domains = [domain for where, domain in simple_domains(search.space) if where == path]
        held = [domain for domain in domains if active(domain, entry)]
        if not held:
            parents = sorted({parent for domain in domains for parent in domain.when})
            raise ExperimentError(
                f"{place}: {path}: it has a place only under conditions on {', '.join(parents)}, "
                "which the entry does not fulfil; set these in it too, or take the field out"
            )
        if not any(contains(domain, value) for domain in held):
            allowed = " or ".join(_written(domain) for domain in held)
            raise ExperimentError(
                f"{place}: {path}: {value!r} lies outside the space, {allowed}. Widen the space, "
                "or take a value from it"
            )


def _written(domain: SimpleDomain) -> str:
    """A domain as it stands in a file, without its condition."""
    kind = next(name for name, model in _DOMAINS.items() if isinstance(domain, model))
    return f"{{{kind}: {list(getattr(domain, kind))}}}"


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {value!r}" for path, value in point.items())


def _check_seeds(experiment: Experiment, search: SearchSpec) -> None:
    """Refuse fresh seeds that would not be fresh, or that nothing takes."""
    fresh, own = experiment.finalists.fresh_seeds, experiment.training.seed
    if fresh and "training.seed" in search.space:
        raise ExperimentError(
            "`finalists.fresh_seeds` needs `training.seed` for itself; take it out of "
            "`search.space`, or set `fresh_seeds: 0`"
        )
    # A seed of `first` had a part in the choice, and is passed over.
    if fresh and own + fresh + len(search.first) > LARGEST_SEED:
        raise ExperimentError(
            f"`training.seed` {own} and {fresh} `finalists.fresh_seeds` after it go beyond the "
            f"largest seed, {LARGEST_SEED}; begin with a smaller one"
        )


def _check_values(experiment: Experiment, space: Mapping[str, Domain]) -> None:
    """Refuse a value that is impossible whatever the other fields are."""
    hosts = _hosts(space)
    for path, domain in simple_domains(space):
        own = [host for host in hosts if active(domain, host)]
        for value in _tried_values(domain) if own else ():
            key = value_key(value)
            with_it = [host for host in own if path not in host or value_key(host[path]) == key]
            error = _never_possible(experiment, space, with_it or own, {path: value})
            if error is None:
                continue
            cure = (
                "If a setting belongs to one choice only, give it a `when`, for example "
                "when: {method.adapter.kind: curlora}"
                if isinstance(domain, Choice)
                else f"{value!r} lies within {_written(domain)}. List the values that are possible "
                "as a `choice`; whole numbers between two bounds are an `int_uniform`"
            )
            raise ExperimentError(f"search.space: an impossible combination: {error}. {cure}")


def _never_possible(
    experiment: Experiment,
    space: Mapping[str, Domain],
    hosts: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
) -> str | None:
    """Why no trial is possible in which some fields have these values; None where one is."""
    dice = random.Random(0)
    first: str | None = None
    for number in range(_TRIES):
        # Strides reach conditions of every kind before any comes twice.
        host = hosts[number * 7919 % len(hosts)]
        error = refusal(experiment, draw(space, dice, {**host, **fixed}))
        if error is None:
            return None
        first = first or error
    return first


def _tried_values(domain: SimpleDomain) -> list[Any]:
    """The edges of a domain, and values between them."""
    match domain:
        case Choice():
            return list(domain.choice)
        case IntUniform():
            low, high = domain.int_uniform
            close = range(low, min(high + 1, low + _TRIED_VALUES // 2))
            spread = range(low, high + 1, max(1, (high - low) // (_TRIED_VALUES // 2)))
            return sorted({*close, *spread, high})
        case Uniform():
            low, high = domain.uniform
            return [low, high, *(low + share * (high - low) for share in _BETWEEN)]
        case LogUniform():
            low, high = domain.log_uniform
            return [low, high, *(low * (high / low) ** share for share in _BETWEEN)]


_BETWEEN = (math.sqrt(2) - 1, math.sqrt(3) - 1)
"""Shares of a range at which no whole number lies by design."""


def _try_point(experiment: Experiment, point: Mapping[str, Any]) -> None:
    error = refusal(experiment, point)
    if error is not None:
        raise ExperimentError(
            f"search.space: an impossible combination: {error}. Every point of a grid is tried; "
            "give a domain a `when` that leaves this one out"
        )


def _check_draws(
    experiment: Experiment, space: Mapping[str, Domain], fixed: Mapping[str, Any], place: str
) -> None:
    """Refuse a space of which most is impossible: a searcher would ask in vain."""
    dice = random.Random(1)
    apart = {path: value for path, value in fixed.items() if path not in space}
    drawn = [{**draw(space, dice, fixed), **apart} for _ in range(DRAWS)]
    errors = [error for point in drawn if (error := refusal(experiment, point)) is not None]
    if 2 * len(errors) > DRAWS:
        share = "every trial" if len(errors) == DRAWS else f"{len(errors)} of {DRAWS} trials"
        raise ExperimentError(
            f"{place}: {share} drawn from the space would be an impossible combination, for "
            f"example: {errors[0]}. List the values that are possible as a `choice`, or give a "
            "field a `when`"
        )


def refusal(experiment: Experiment, overrides: Mapping[str, Any]) -> str | None:
    """Why a trial with these overrides cannot be; None where it can."""
    try:
        experiment.with_overrides(overrides)
    except ExperimentError as error:
        return str(error)
    return None


def draw(
    space: Mapping[str, Domain], dice: random.Random, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """One assignment of the space at random.

    Args:
        space: The search space.
        dice: Where random numbers come from.
        fixed: Values that are not drawn; one whose condition does not hold is left out.

    Returns:
        Dotted path to value.
    """
    chosen: dict[str, Any] = {}
    for path, domain in ordered_space(space):
        if path in chosen or not active(domain, chosen):
            continue
        chosen[path] = fixed[path] if path in fixed else _drawn(domain, dice)
    return chosen


def _drawn(domain: SimpleDomain, dice: random.Random) -> Any:
    match domain:
        case Choice():
            return dice.choice(domain.choice)
        case IntUniform():
            return dice.randint(*domain.int_uniform)
        case Uniform():
            return dice.uniform(*domain.uniform)
        case LogUniform():
            low, high = domain.log_uniform
            return min(high, max(low, low * (high / low) ** dice.random()))


def possible_methods(experiment: Experiment) -> list[MethodSpec]:
    """Every method that a trial may have, continuous settings left at one value.

    Args:
        experiment: An experiment whose space was checked.

    Returns:
        The methods, each once; of a range of whole numbers its two ends.
    """
    parts = simple_domains(experiment.search.space) if experiment.search else ()
    entries = experiment.search.first if experiment.search else ()
    paths = [path for path, domain in parts if isinstance(domain, Choice | IntUniform)]
    paths += [path for entry in entries for path in entry]
    wanted = [path for path in dict.fromkeys(paths) if path.startswith("method.")]
    found: dict[str, MethodSpec] = {}
    for reached in reachable(experiment, wanted):
        found.setdefault(reached.method.model_dump_json(), reached.method)
    return list(found.values())


def reachable(experiment: Experiment, paths: Sequence[str]) -> Iterator[Experiment]:
    """The experiment under every edge value that a trial may give some fields.

    Args:
        experiment: The experiment.
        paths: Dotted paths; the fields that their conditions depend on are added.

    Yields:
        Experiments without a search; the file's own alone when none of the fields is searched.
    """
    search = experiment.search
    if search is None:
        yield experiment
        return
    wanted = [path for path in paths if path in search.space]
    for path in wanted:
        domains = [d for where, d in simple_domains(search.space) if where == path]
        parents = [parent for domain in domains for parent in domain.when]
        wanted += [parent for parent in dict.fromkeys(parents) if parent not in wanted]
    space = {path: domain for path, domain in search.space.items() if path in wanted}
    yield from _possible(experiment, grid_points(space))
    for entry in search.first:
        rest = {path: entry[path] for path in paths if path in entry and path not in space}
        points = grid_points(narrowed(space, entry))
        yield from _possible(experiment, ({**point, **rest} for point in points))


def _possible(experiment: Experiment, points: Iterable[Mapping[str, Any]]) -> Iterator[Experiment]:
    """The experiment under those overrides that do not contradict one another."""
    for overrides in points:
        try:
            possible = experiment.with_overrides(overrides)
        except ExperimentError:
            continue  # whoever proposes trials passes over it too
        yield possible


def narrowed(space: Mapping[str, Domain], entry: Mapping[str, Any]) -> dict[str, Domain]:
    """The space with the values of an entry of `first` fixed."""
    return {
        path: _fixed(domain, entry[path]) if path in entry else domain
        for path, domain in space.items()
    }


def _fixed(domain: Domain, value: Any) -> Domain:
    if isinstance(domain, Alternatives):
        return Alternatives(
            alternatives=tuple(Choice(choice=(value,), when=d.when) for d in domain.alternatives)
        )
    return Choice(choice=(value,), when=domain.when)


def _edge_values(domain: SimpleDomain) -> list[Any]:
    bounds = domain_bounds(domain)
    return list(domain.choice) if isinstance(domain, Choice) else list(bounds or ())


def active(domain: SimpleDomain, chosen: Mapping[str, Any]) -> bool:
    """Whether a domain's conditions hold under the values chosen so far."""
    return all(
        parent in chosen and chosen[parent] in _wanted(want) for parent, want in domain.when.items()
    )


def _wanted(value: Any) -> list[Any]:
    """The values that a condition names: one, or any of a list."""
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def assignments(
    space: Mapping[str, Domain], values: Callable[[SimpleDomain], Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """Every assignment of some values of each domain, conditions respected, in the file's order.

    Args:
        space: The search space.
        values: Gives the values of a domain.

    Yields:
        Dotted path to value; the last path of the space varies first.
    """
    order = list(ordered_space(space))

    def below(number: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while number < len(order):
            path, domain = order[number]
            number += 1
            if path not in chosen and active(domain, chosen):
                for value in values(domain):
                    yield from below(number, {**chosen, path: value})
                return
        yield chosen

    yield from below(0, {})


def grid_points(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every assignment of a space of choices, conditions respected, in a fixed order."""
    return list(assignments(space, _edge_values))


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
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise ExperimentError(
            render_validation_error(error, str(path), field_names(), _KINDS)
        ) from None
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
    tasks = {n: at_data_root(task, data_root) for n, task in _load_tasks(files).items()}
    tasks = {
        name: _with_head(experiment, task, learnt=name in experiment.tasks, path=path)
        for name, task in tasks.items()
    }
    _check_measured(experiment, tasks, path)
    _check_heads(experiment, tasks, path)
    return LoadedExperiment(
        experiment=experiment,
        tasks=tasks,
        text=path.read_text(encoding="utf-8"),
        origin=str(path),
        task_files={name: str(file) for name, file in files.items()},
    )


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
    if not isinstance(task, ClassificationTask):
        return task
    if learnt and experiment.head is not None:
        return task.model_copy(update={"head": experiment.head})
    if not learnt and task.head == "linear":
        raise ExperimentError(
            f"{path}: probes: {task.name} has `head: linear`, and a probe is never learnt, so its "
            "head would never be trained; use `head: label_words` in its task file"
        )
    return task


def _check_heads(experiment: Experiment, tasks: Mapping[str, TaskSpec], path: Path) -> None:
    """Refuse to train heads alone where a task has none."""
    if all(method.adapter.kind != "head_only" for method in possible_methods(experiment)):
        return
    for name in experiment.tasks:
        task = tasks[name]
        if not isinstance(task, ClassificationTask) or task.head != "linear":
            raise ExperimentError(
                f"{path}: the adapter head_only trains linear heads and nothing else, and the task "
                f"{name} has none. Set `head: linear` in the experiment (classification tasks "
                "only), or take head_only out"
            )


def _check_measured(experiment: Experiment, tasks: Mapping[str, TaskSpec], path: Path) -> None:
    """Refuse objectives that this sequence and these probes can never measure."""
    kinds = {type(tasks[probe]) for probe in experiment.probes}
    learnt = [tasks[name] for name in experiment.tasks]
    headed = any(isinstance(t, ClassificationTask) and t.head == "linear" for t in learnt)
    wanted = [*experiment.objectives, experiment.champion.maximize, *experiment.champion.subject_to]
    impossible = {
        "probe_drift": LanguageModellingTask not in kinds,
        "probe_accuracy_kept": not kinds - {LanguageModellingTask},
        "forward_transfer": len(experiment.tasks) < 2 or headed,
        "backward_transfer": len(experiment.tasks) < 2,
    }
    for measure in wanted:
        if impossible.get(measure, False):
            need = {
                "probe_drift": "a language-modelling task in `probes`",
                "probe_accuracy_kept": "a choice task in `probes`",
                "forward_transfer": "at least two tasks, none with a linear head (which says "
                "nothing of a task before it is learnt)",
            }.get(measure, "at least two tasks")
            raise ExperimentError(
                f"{path}: the measure {measure!r} is an objective or a limit of the champion, but "
                f"it needs {need}. Add one, or set `objectives` and `champion.subject_to` "
                "without it"
            )


def fingerprint(document: Any) -> str:
    """A short sha256 of any JSON-like document, independent of key order."""
    text = json.dumps(document, sort_keys=True, default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_number(value: object) -> bool:
    """Whether a value is a finite number (booleans are not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
