"""Sections of an experiment file: model, training, data, champion, finalists and resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.spec.validation import PathText, Spec
from orchestrator.system.byte_units import GIB

LARGEST_SEED = 2**32 - 1
"""NumPy's generators take no larger seed, and torch's none above 2^64: a trial's seed is multiplied
with its steps and workers."""


class ModelSpec(Spec):
    """The base model: a Hugging Face name, a local folder, or a GGUF file."""

    name: PathText | None = None
    """Name on the Hugging Face hub, or a folder (relative to the experiment file)."""
    revision: str | None = None
    gguf: PathText | None = None
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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where all devices of the sweep multiply natively in it, else fp32; decided once,
    when the sweep begins."""
    batch_invariant: Literal["auto"] | bool = Field(
        default="auto", exclude_if=lambda value: value is not True
    )
    """Whether the pool computes each trial to the same bits whichever trials share its passes.
    `auto`: in fp32 on a CPU, with one or two threads; decided once, when the sweep begins."""
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


class ScoringSpec(Spec):
    """What is scored of a trial while a sweep searches.

    Only the cells of the accuracy matrix that the objectives and the champion's rule are computed
    from. The rest is scored before the verdict, of the trials that it is between.
    """

    screen: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """How many validation examples of each task: the first so many, or all. Running text and
    probes are always read whole."""

    @property
    def examples(self) -> int | None:
        """The same as a number; None for all."""
        return None if self.screen == "all" else self.screen


def _as_scoring(value: object) -> object:
    """Refuse what is no scoring in one message, where a union would give one of each form."""
    mapping = cast("dict[str, Any]", value) if isinstance(value, dict) else None
    if value == "full" or isinstance(value, ScoringSpec):
        return cast("object", value)
    screen = None if mapping is None else mapping.get("screen", "all")
    whole = type(screen) is int and screen >= 1
    if mapping is None or not (whole or screen == "all") or set(mapping) - {"screen"}:
        raise ValueError(
            f"it is `full`, or `{{screen: all}}`, or `{{screen: N}}` with N validation examples of "
            f"each task, 1 or more; got {value!r}"
        )
    return mapping


Scoring: TypeAlias = Annotated[Literal["full"] | ScoringSpec, BeforeValidator(_as_scoring)]
"""`full`: the whole accuracy matrix of every trial, on all examples; or what is screened."""


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
    fresh_orders: bool = Field(default=False, exclude_if=lambda fresh: not fresh)
    """Whether each repetition learns the tasks in another order, too; all finalists in the same."""
    per: str | None = None
    """A path of the search space with a `choice`: the best trial of each of its values is a
    finalist. Null: the best trial alone."""
    most: int | None = Field(default=None, ge=1, exclude_if=lambda most: most is None)
    """Of these, the best so many; null: all."""


@dataclass(frozen=True, kw_only=True)
class ExecutorFacts:
    """What planning has to know of an executor."""

    on_ray: bool
    """Whether trials run on a Ray cluster, with DeepSpeed; else in the sweep's own process."""
    packs: bool = False
    """Whether trials may share a base."""
    sweep_start: float
    """Seconds from the command to the first step of a first trial, measured on two idle cores:
    processes, imports, weights."""
    trial_start: float
    """Seconds from a later trial's start to its first step."""
    process_bytes: float
    """Of a process with torch and transformers (and Ray and DeepSpeed), and no model."""


EXECUTORS: dict[str, ExecutorFacts] = {
    "pool": ExecutorFacts(
        on_ray=True, packs=True, sweep_start=28.0, trial_start=0.5, process_bytes=0.5 * GIB
    ),
    "train": ExecutorFacts(
        on_ray=True, sweep_start=50.0, trial_start=32.0, process_bytes=0.7 * GIB
    ),
    "local": ExecutorFacts(on_ray=False, sweep_start=8.0, trial_start=0.5, process_bytes=0.5 * GIB),
}
"""By the name in `resources.executor`."""


class ResourceSpec(Spec):
    """What one trial runs on."""

    executor: Literal["pool", "train", "local"] = "pool"
    """`pool`: members (warm workers) in which many trials step together over one base;
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
    max_workers: int | None = Field(default=None, ge=1, exclude_if=lambda most: most is None)
    """Workers that the sweep holds at a time, at most. A cluster that can grow is asked for as many
    as its trials need, up to so many; null: for those that its autoscaler says it may add, and
    where it says nothing the sweep uses what is there."""
    priority: int = Field(default=1, ge=1, le=100, exclude_if=lambda priority: priority == 1)
    """The sweep's part of a cluster on which several want more than there is: a sweep of priority
    2 gets twice as much as one of priority 1."""
    retention_gib: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Most memory that a retention may carry between tasks on each worker; beyond it a plan is
    refused."""
    max_failures: int = Field(default=1, ge=0)
    """Restarts of a trial's workers from its last checkpoint before the trial is FAILED."""

    @property
    def facts(self) -> ExecutorFacts:
        """What planning has to know of the executor."""
        return EXECUTORS[self.executor]


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
