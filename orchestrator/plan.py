"""What a file asks for, before anything starts: trials, tokens, memory, time, room.

Nothing is started and no weights are loaded: sizes come from the header of the weights, tokens from
the same preparation that a sweep uses, and speed from a fraction of a second of matrix products.
Estimates say that they are estimates, and time is a range.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.base_facts import (
    OPTIMISER_BYTES,
    BaseFacts,
    base_facts,
    local_folder,
    vocabulary,
)
from orchestrator.cluster import fit, pool_members
from orchestrator.encoding import is_estimate, words_that_begin_others
from orchestrator.experiment import (
    Experiment,
    LoadedExperiment,
    ModelSpec,
    default_batch_tokens,
    possible_methods,
    possible_values,
    reachable,
)
from orchestrator.method_facts import AdapterFacts, MethodFacts, method_facts, storage_bytes
from orchestrator.packing import packing_refuses, trial_refuses
from orchestrator.preflight import Means, problems
from orchestrator.tasks import ClassificationTask, GenerationTask

if TYPE_CHECKING:
    from orchestrator.batches import PreparedTask

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}
EFFICIENCY = (0.2, 0.6)
"""Share of the measured matrix-product speed that a whole step reaches: low and high."""
START_SECONDS = {"train": (8.0, 25.0), "local": (3.0, 10.0), "pool": (0.1, 2.0)}
"""Seconds from a trial's start to its first step, by executor: process, imports, weights."""
OVERHEAD_BYTES = {"train": 0.7 * GIB, "local": 0.5 * GIB, "pool": 0.5 * GIB}
"""A process with torch and transformers (and Ray and DeepSpeed), and no model."""
LIGHT_TRIAL_BYTES = 0.2 * GIB
"""A Ray Tune trial of the pool, which has no torch (204 MB resident were measured)."""
LOGIT_ROWS = 1024
"""Places whose logits are held at a time."""
RUNGS = 2
"""Times that a task is scored before its end (at 1/4 and 1/2)."""
CALIBRATION_SECONDS = 0.3


@dataclass(frozen=True)
class Machine:
    """Where the trials will run."""

    cpus: float
    gpus: float
    memory: int | None
    """Bytes that are free now, None when that is unknown."""
    disk: int | None
    """Free bytes where sweeps are kept."""
    here: bool = True
    """Whether it is this machine, so that its speed can be measured."""


@dataclass(frozen=True)
class TaskFacts:
    """How much of one task is learnt and scored."""

    name: str
    probe: bool
    train_examples: int
    train_tokens: int
    train_scored: int
    """Training tokens whose logits are computed, in one epoch."""
    validation_examples: int
    validation_tokens: int
    validation_scored: int
    rung_share: float
    """Share of the validation examples that is scored at a rung."""
    steps: int
    """Optimiser steps, over all epochs."""


@dataclass(frozen=True)
class Range:
    """An estimate between two bounds."""

    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What a file asks for."""

    name: str
    kind: str
    trials: int
    """Repetitions of finalists included."""
    repeated_trials: int
    left_out: str | None
    """What of the search will not be tried because `trials` is smaller, in words."""
    tasks: list[TaskFacts]
    tokens_from: str
    """Where the token counts come from: "tokenizer", or the estimate in words."""
    epochs: int
    train_tokens: int
    """Of one trial, over all tasks and epochs."""
    evaluation_tokens: int
    """Of one trial."""
    probed: str
    """After which tasks the probes are measured, in words."""
    base_tokens: int
    """Evaluation tokens of the untouched base, once a sweep."""
    base: BaseFacts | None
    methods: list[MethodFacts]
    """Sizes of every method that a trial may have."""
    memory_parts: dict[str, float]
    """Bytes of one worker by what they hold; empty when the base's sizes are unknown."""
    flops_train: float | None
    flops_evaluation: float | None
    measured_flops: float | None
    """Floating-point operations a second of one worker's matrix products; None: not measured."""
    trial_seconds: Range | None
    sweep_seconds: Range | None
    at_once: int
    arithmetic: str
    storage_bytes: float
    machine: Machine
    alone: dict[str, str] | None
    """Methods whose trials have workers of their own though the others are packed, and why; None
    for an executor that packs nothing."""
    problems: list[str]
    """What is in the way: a sweep would be refused."""
    warnings: list[str]

    @property
    def adapters(self) -> list[AdapterFacts]:
        """Sizes of every adapter that a trial may have."""
        return list(dict.fromkeys(method.adapter for method in self.methods))

    @property
    def worker_bytes(self) -> float | None:
        """Memory of one worker, None when the base's sizes are unknown."""
        return sum(self.memory_parts.values()) if self.memory_parts else None


def make_plan(
    loaded: LoadedExperiment, machine: Machine, *, kind: str = "sweep", calibrate: bool = True
) -> Plan:
    """Work out what an experiment asks for.

    Args:
        loaded: The experiment and its tasks.
        machine: Where it would run.
        kind: "sweep", or "run" for one trial of the file's own method.
        calibrate: Measure this machine's speed, which takes a fraction of a second.

    Returns:
        The plan. Nothing was started and nothing written.
    """
    experiment = loaded.experiment
    tokenizer, tokens_from = _tokenizer(experiment.model)
    tasks, controls, epochs = _task_facts(loaded, tokenizer)
    base = base_facts(experiment.model)
    examples = sum(task.train_examples for task in tasks)
    mean = sum(task.train_tokens for task in tasks) / max(1, examples)
    methods = method_facts(experiment, base, tokens_per_example=mean) if base else []
    adapters = [method.adapter for method in methods]
    searched = 1 if kind == "run" else experiment.searched_trials
    repeated = experiment.repeated_trials
    trials = searched + repeated
    fitting = fit(experiment.resources, cpus=machine.cpus, gpus=machine.gpus)
    at_once = _limited(experiment, fitting.at_once, trials)
    flops = measure_flops(experiment) if calibrate and machine.here else None
    cost = _Cost(experiment, tasks, base, adapters, epochs)
    trial_seconds = cost.trial_seconds(flops)
    plan = Plan(
        name=experiment.name,
        kind=kind,
        trials=trials,
        repeated_trials=repeated,
        left_out=experiment.search.left_out if experiment.search and kind == "sweep" else None,
        tasks=tasks,
        tokens_from=tokens_from,
        epochs=epochs,
        train_tokens=cost.train_tokens,
        evaluation_tokens=cost.evaluation_tokens,
        probed=experiment.data.probe_after.replace("_", " "),
        base_tokens=cost.one_evaluation,
        base=base,
        methods=methods,
        memory_parts=memory_parts(experiment, base, methods) if base else {},
        flops_train=cost.flops_train,
        flops_evaluation=cost.flops_evaluation,
        measured_flops=flops,
        trial_seconds=trial_seconds,
        sweep_seconds=_sweep_seconds(trial_seconds, trials, at_once, experiment, machine),
        at_once=at_once,
        arithmetic=fitting.arithmetic,
        storage_bytes=storage_bytes(adapters, trials),
        machine=machine,
        alone=_alone(loaded) if experiment.resources.executor == "pool" else None,
        problems=problems(
            loaded,
            Path(experiment.storage).expanduser(),
            Means(machine.cpus, machine.gpus, machine.disk),
            trials=trials,
            ask_hub=False,
        ),
        warnings=[],
    )
    plan.warnings.extend(_warnings(plan, experiment))
    plan.warnings.extend(_task_warnings(loaded, controls, exact=not is_estimate(tokenizer)))
    return plan


def _alone(loaded: LoadedExperiment) -> dict[str, str]:
    """The methods, and the values of other searched fields, that cannot be packed, and why."""
    experiment, found = loaded.experiment, dict[str, str]()
    for method in possible_methods(experiment):
        trial = experiment.model_copy(update={"method": method})
        reason = trial_refuses(trial, loaded.tasks)
        if reason is not None:
            found[method.name] = reason
    for path in experiment.search.space if experiment.search is not None else ():
        if path.startswith("method."):
            continue
        for trial in reachable(experiment, [path]):
            reason = trial_refuses(trial, loaded.tasks, sweep=experiment)
            if reason not in {None, packing_refuses(trial.method), *found.values()}:
                found[f"trials with {path} {_value_at(trial, path)}"] = str(reason)
    return found


def _value_at(experiment: Experiment, path: str) -> Any:
    """The value of a dotted path."""
    found: Any = experiment.model_dump()
    for name in path.split("."):
        found = found[name]
    return found


def _limited(experiment: Experiment, at_once: int, trials: int) -> int:
    limit = experiment.search.max_concurrent if experiment.search else None
    return min(at_once, trials, limit or trials)


# --- tokens --------------------------------------------------------------------------------------


class ByteTokenizer:
    """Stands in for a tokenizer that is not here: pieces of words of at most six characters.

    A token id tells the piece from others, and its number of bytes.
    """

    bos_token_id = None
    eos_token_id = None
    chat_template = "a message on each line"
    is_estimate = True

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Cut a text into pieces; `add_special_tokens` is there because tokenizers take it."""
        del add_special_tokens
        pieces = [piece.encode() for piece in re.findall(r"\s?\S{1,6}|\s", text)]
        return {"input_ids": [len(piece) + 32 * zlib.crc32(piece) for piece in pieces]}

    def decode(self, tokens: Sequence[int]) -> str:
        """A text of as many bytes as the tokens stand for."""
        return "x" * sum(token % 32 for token in tokens)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """The messages with about as many marks as chat templates have."""
        del tokenize
        said = "".join(f"<{m['role']}>\n{m['content']}\n" for m in messages)
        return said + "<assistant>\n" * add_generation_prompt


def _tokenizer(model: ModelSpec) -> tuple[Any, str]:
    from orchestrator.base_model import ModelError, load_tokenizer

    missing = "an estimate from bytes, as the model's tokenizer is not on this machine"
    if model.gguf is None:
        folder = local_folder(model)
        if folder is None:
            return ByteTokenizer(), missing
        model = ModelSpec(name=str(folder))
    try:
        return load_tokenizer(model), "tokenizer"
    except ModelError:
        return ByteTokenizer(), missing


def _task_facts(
    loaded: LoadedExperiment, tokenizer: Any
) -> tuple[list[TaskFacts], dict[str, dict[str, Any]], int]:
    from orchestrator.batches import prepare

    epochs = int(_largest(loaded.experiment, "training.epochs", loaded.experiment.training.epochs))
    prepared = prepare(loaded, tokenizer, vocabulary=vocabulary(loaded.experiment.model))
    facts = [
        _facts_of(name, prepared.tasks[name], loaded.experiment, epochs)
        for name in (*loaded.experiment.tasks, *loaded.experiment.probes)
    ]
    return facts, prepared.controls, epochs


def _facts_of(name: str, task: PreparedTask, experiment: Experiment, epochs: int) -> TaskFacts:
    from orchestrator.batches import scored_rows
    from orchestrator.encoding import Writing

    written = [item for item in task.validation if isinstance(item, Writing)]
    others = [item for item in task.validation if not isinstance(item, Writing)]
    rows = [row for item in others for row in scored_rows(item)]
    # Writing may end sooner than it must; this is the most that it takes.
    longest = task.spec.max_new_tokens if isinstance(task.spec, GenerationTask) else 0
    examples = len(task.validation)
    rung = experiment.data.rung_examples or examples
    steps = epochs * math.ceil(len(task.train) / experiment.training.batch_size)
    return TaskFacts(
        name=name,
        probe=name in experiment.probes,
        train_examples=len(task.train),
        train_tokens=sum(len(example.tokens) for example in task.train),
        train_scored=sum(len(e.tokens) - e.scored_from for e in task.train),
        validation_examples=examples,
        validation_tokens=sum(len(row.tokens) for row in rows)
        + sum(len(item.prompt) + longest for item in written),
        validation_scored=sum(len({place for place, _ in row.picks}) for row in rows)
        + longest * len(written),
        rung_share=min(1.0, rung / max(1, examples)),
        steps=steps,
    )


def _largest(experiment: Experiment, path: str, own: float) -> float:
    """The largest value that a setting may take in the search, else the file's own."""
    if experiment.search is None:
        return own
    return max(float(value) for value in possible_values(experiment.search.space, path, own))


# --- sizes ---------------------------------------------------------------------------------------


def memory_parts(
    experiment: Experiment, base: BaseFacts, methods: Sequence[MethodFacts]
) -> dict[str, float]:
    """The memory of one worker, in bytes, by what it holds.

    Args:
        experiment: The experiment.
        base: The base model's sizes.
        methods: The methods' sizes; the largest count.

    Returns:
        An estimate; activations are those of the longest micro-batch.
    """
    training, resources = experiment.training, experiment.resources
    width = BYTES[training.precision]
    batch = int(_largest(experiment, "training.batch_size", training.batch_size))
    micro = max(1, batch // (resources.workers * training.accumulation))
    length = training.max_length
    # Inputs of norms, projections and products, and attention's scores and their softmax in fp32.
    per_token = base.layers * (
        (10 * base.hidden + 4 * base.intermediate) * width + base.heads * length * (2 * width + 4)
    )
    context = max(length, experiment.data.probe_context)
    packed = resources.executor == "pool"
    batch_tokens = experiment.data.batch_tokens or default_batch_tokens(
        on_gpu=resources.gpus_per_worker > 0, packed=packed
    )
    slots = resources.slots if packed else 1
    # A pass of a pack takes the rows of several slots, as many as this bound allows.
    learning = (max(micro * length, batch_tokens) if packed else micro * length) * per_token
    scoring = batch_tokens * (
        (6 * base.hidden + 3 * base.intermediate) * width + base.heads * context * (2 * width + 4)
    )
    rows = min(LOGIT_ROWS, batch_tokens)
    return {
        "base weights": base.weight_bytes(width, experiment.model.quantization),
        f"{slots} adapters and optimisers" if packed else "adapter and optimiser": slots
        * max(
            (m.adapter.trained * OPTIMISER_BYTES + m.adapter.frozen * width for m in methods),
            default=0,
        ),
        "retention": slots * max((m.carried for m in methods), default=0),
        "activations": max(learning, scoring),
        "logits": rows * base.vocabulary * (4 * 2 + width),
        "process": OVERHEAD_BYTES[resources.executor],
    }


# --- time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cost:
    """Tokens and floating-point operations of one trial."""

    experiment: Experiment
    tasks: list[TaskFacts]
    base: BaseFacts | None
    adapters: list[AdapterFacts]
    epochs: int

    @property
    def train_tokens(self) -> int:
        return self.epochs * sum(task.train_tokens for task in self.tasks)

    @property
    def one_evaluation(self) -> int:
        return sum(task.validation_tokens for task in self.tasks)

    @property
    def evaluation_tokens(self) -> int:
        return self._evaluated([task.validation_tokens for task in self.tasks])

    def _evaluated(self, counts: list[int]) -> int:
        """A count per task, summed over all the times that a trial scores it."""
        learnt = [(t, n) for t, n in zip(self.tasks, counts, strict=True) if not t.probe]
        rungs = sum(RUNGS * task.rung_share * number for task, number in learnt)
        rows = len(learnt) * sum(number for _, number in learnt)
        probed = 1 if self.experiment.data.probe_after == "last_task" else len(learnt)
        return round(rungs + rows + probed * (sum(counts) - sum(n for _, n in learnt)))

    @property
    def flops_train(self) -> float | None:
        """4 N for a frozen base (forward, and backward to what lies below), 6 P for the adapter."""
        if self.base is None:
            return None
        trained = max((adapter.trained for adapter in self.adapters), default=0)
        scored = self.epochs * sum(task.train_scored for task in self.tasks)
        body = self.train_tokens * (4 * self.base.body + 6 * trained)
        return body + scored * 4 * self.base.hidden * self.base.vocabulary

    @property
    def flops_evaluation(self) -> float | None:
        if self.base is None:
            return None
        scored = self._evaluated([task.validation_scored for task in self.tasks])
        body = self.evaluation_tokens * 2 * self.base.body
        return body + scored * 2 * self.base.hidden * self.base.vocabulary

    def trial_seconds(self, flops: float | None) -> Range | None:
        if flops is None or self.flops_train is None or self.flops_evaluation is None:
            return None
        work = (self.flops_train + self.flops_evaluation) / self.experiment.resources.workers
        low, high = EFFICIENCY
        first, last = START_SECONDS[self.experiment.resources.executor]
        return Range(work / (flops * high) + first, work / (flops * low) + last)


POOL_GAIN = 3.33
"""What stepping together gains at most over taking turns in one process on CPU: the largest that
`benchmarks/RESULTS.md` has, of batches of one row."""


def _sweep_seconds(
    trial: Range | None, trials: int, at_once: int, experiment: Experiment, machine: Machine
) -> Range | None:
    if trial is None or at_once == 0:
        return None
    if experiment.resources.executor == "pool":
        # Those in one member share its passes; what is not packed takes a member's place.
        members = pool_members(experiment.resources, cpus=machine.cpus, gpus=machine.gpus)
        turns = math.ceil(trials / min(members, at_once))
        return Range(trial.low * turns / POOL_GAIN, trial.high * turns)
    rounds = math.ceil(trials / at_once)
    return Range(trial.low * rounds, trial.high * rounds)


def measure_flops(experiment: Experiment) -> float | None:
    """Floating-point operations a second of matrix products as one worker would compute them.

    Args:
        experiment: Says precision, threads and device.

    Returns:
        The speed; None when the file wants a GPU that is not here.
    """
    import torch

    on_gpu = experiment.resources.gpus_per_worker > 0
    if on_gpu and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[experiment.training.precision]
    rows, columns = (4096, 4096) if on_gpu else (512, 1024)
    threads = torch.get_num_threads()
    torch.set_num_threads(experiment.resources.cpus_per_worker)
    try:
        left = torch.ones(rows, columns, dtype=dtype, device=device)
        right = torch.ones(columns, columns, dtype=dtype, device=device)
        _ = left @ right  # the first product chooses kernels
        if on_gpu:
            torch.cuda.synchronize()
        count, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < CALIBRATION_SECONDS:
            _ = left @ right
            if on_gpu:
                torch.cuda.synchronize()
            count += 1
    finally:
        torch.set_num_threads(threads)
    return 2.0 * rows * columns * columns * count / spent


# --- warnings ------------------------------------------------------------------------------------


def _warnings(plan: Plan, experiment: Experiment) -> list[str]:
    found: list[str] = []
    if plan.base is None:
        found.append(
            f"The sizes of the base model {_name(experiment)!r} cannot be read on this machine, so "
            "memory and time are not estimated. Download a hub model first, with `hf download`."
        )
    need, memory = plan.worker_bytes, plan.machine.memory
    at_once = max(1, plan.at_once) * experiment.resources.workers
    light = 0.0
    if plan.alone is not None:  # a pool: its members hold the base, its trials are light processes
        machine, light = plan.machine, plan.at_once * LIGHT_TRIAL_BYTES
        at_once = pool_members(experiment.resources, cpus=machine.cpus, gpus=machine.gpus)
        at_once *= experiment.resources.workers
    on_gpu = experiment.resources.gpus_per_worker > 0
    if need is not None and memory is not None and not on_gpu and need * at_once + light > memory:
        total = need * at_once + light
        found.append(
            f"Memory: {at_once} workers at a time need about {total / GIB:.1f} GiB, and "
            f"{memory / GIB:.1f} GiB are free. Lower `search.max_concurrent`, `training.batch_size`"
            " or `training.max_length`, or raise `resources.cpus_per_worker` so that fewer trials "
            "run at a time."
        )
    return found


def _task_warnings(
    loaded: LoadedExperiment, controls: Mapping[str, Mapping[str, Any]], *, exact: bool
) -> list[str]:
    """Controls that there will not be, and label words that only a tokenizer can tell apart."""
    found = [
        f"Task {name!r}: the control head-only {controls[name]['head_only']}."
        for name in loaded.experiment.tasks
        if "head_only" in controls[name]
    ]
    for name, task in loaded.tasks.items():
        if exact or not isinstance(task, ClassificationTask) or task.head == "linear":
            continue
        found += [
            f"Task {name!r}: the label word {word!r} is how {other!r} begins. If it is so to the "
            "model's tokenizer, which is not on this machine, a sweep is refused: change `labels`."
            for word, other in words_that_begin_others(task)
        ]
    return found


def _name(experiment: Experiment) -> str:
    return str(experiment.model.name or experiment.model.gguf)


# --- showing it ----------------------------------------------------------------------------------


def as_document(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    document = asdict(plan)
    if document["base"] is not None:
        del document["base"]["shapes"]
    return document | {"worker_bytes": plan.worker_bytes}


def render(plan: Plan) -> RenderableType:
    """The plan for people.

    Args:
        plan: The plan.

    Returns:
        Tables and sentences.
    """
    many = f"{plan.trials} trial" + ("" if plan.trials == 1 else "s")
    if plan.repeated_trials:
        many += f" ({plan.repeated_trials} of them repeat finalists with fresh seeds)"
    head = f"{plan.kind.capitalize()} {plan.name}: {many}, and the untouched base once"
    parts: list[RenderableType] = [Text(head, style="bold")]
    if plan.left_out is not None:
        parts.append(Text(f"{plan.left_out}.", style="yellow"))
    parts += [Text(), _task_table(plan), Text()]
    tokens = (
        f"Tokens of one trial: {plan.train_tokens:,} to learn from ({_epochs(plan.epochs)}), "
        f"{plan.evaluation_tokens:,} to score (each task at 1/4 and 1/2 of it; all tasks after "
        f"each task; probes after {plan.probed}). The untouched base: {plan.base_tokens:,}."
    )
    if plan.tokens_from != "tokenizer":
        tokens += f" These are {plan.tokens_from}."
    parts += [Text(tokens), Text()]
    if plan.base is not None:
        parts += [Text(_base_words(plan.base)), _method_table(plan)]
        parts += [*_carried_words(plan), Text()]
        parts += [Text(_memory_words(plan))]
    parts += [
        Text(f"Resources: {plan.arithmetic}."),
        *_alone_words(plan),
        Text(_time_words(plan)),
        Text(f"Storage: about {_size(plan.storage_bytes)}{_free(plan.machine.disk)}."),
    ]
    parts += [Text(f"Warning: {warning}", style="yellow") for warning in plan.warnings]
    parts += [Text(f"In the way: {problem}", style="bold red") for problem in plan.problems]
    return Group(*parts)


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"


def _grid(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index else "left", overflow="fold")
    return made


def _task_table(plan: Plan) -> Table:
    made = _grid("task", "examples", "tokens", "steps", "scored\nexamples", "scored\ntokens")
    for task in plan.tasks:
        learnt = [f"{task.train_examples:,}", f"{task.train_tokens:,}", f"{task.steps:,}"]
        made.add_row(
            Text(task.name + (" (probe)" if task.probe else "")),
            *(["-", "-", "-"] if task.probe else learnt),
            f"{task.validation_examples:,}",
            f"{task.validation_tokens:,}",
        )
    return made


def _base_words(base: BaseFacts) -> str:
    return (
        f"Base model: {base.parameters:,} parameters, {base.layers} layers of width {base.hidden}."
    )


def _method_table(plan: Plan) -> Table:
    made = _grid("method", "adapter", "r", "layers", "trained", "of the base", "writes base",
                 "carried\nbetween tasks")  # fmt: skip
    parameters = plan.base.parameters if plan.base else 1
    for method in plan.methods:
        adapter = method.adapter
        made.add_row(
            Text(method.name),
            adapter.kind,
            "-" if adapter.r is None else str(adapter.r),
            str(adapter.layers) if adapter.layers else "-",
            f"{adapter.trained:,}",
            f"{100 * adapter.trained / parameters:.4f} %",
            {"init": "when attached", "train": "each step", "merge": "when merged"}.get(
                adapter.changes_base, "never"
            ),
            _size(method.carried) if method.carried else "nothing",
        )
    return made


def _carried_words(plan: Plan) -> list[Text]:
    """How the sizes of what retentions carry come about."""
    lines = dict.fromkeys(m.arithmetic for m in plan.methods if m.retention != "none")
    return [Text(f"Carried between tasks: {line}.") for line in lines]


def _alone_words(plan: Plan) -> list[Text]:
    """Which trials step together, and which cannot."""
    if plan.alone is None:
        return []
    together = [name for name in dict.fromkeys(m.name for m in plan.methods)
                if name not in plan.alone]  # fmt: skip
    lines = [f"Packed, many in one pass over one base: {', '.join(together) or 'none'}."]
    reasons: dict[str, list[str]] = {}
    for name, reason in plan.alone.items():
        reasons.setdefault(reason, []).append(name)
    lines += [
        f"Not packed, with workers of their own (as executor train): {', '.join(names)}: {reason}."
        for reason, names in reasons.items()
    ]
    return [Text(line) for line in lines]


def _memory_words(plan: Plan) -> str:
    parts = " + ".join(f"{name} {_size(size)}" for name, size in plan.memory_parts.items())
    total = plan.worker_bytes or 0.0
    return f"Memory of one worker, estimated: {parts} = {_size(total)}{_free(plan.machine.memory)}."


def _free(free: int | None) -> str:
    return "" if free is None else f" ({_size(free)} free)"


def _size(number: float) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / 2**20:.1f} MiB"


def _time_words(plan: Plan) -> str:
    if plan.trial_seconds is None or plan.measured_flops is None:
        return "Time: not estimated (no speed could be measured, or the base's sizes are unknown)."
    text = (
        f"Time of one trial: {_duration(plan.trial_seconds)}; one worker's matrix products reach "
        f"{plan.measured_flops / 1e9:,.0f} GFLOP/s here, and a step {EFFICIENCY[0]:.0%} to "
        f"{EFFICIENCY[1]:.0%} of that; start-up included."
    )
    if plan.sweep_seconds is not None and plan.trials > 1:
        text += (
            f"\nTime of the sweep: {_duration(plan.sweep_seconds)}, {plan.at_once} at a time, "
            "if no trial is stopped early."
        )
    return text


def _duration(span: Range) -> str:
    if span.high < 120:
        return f"{span.low:.0f} to {span.high:.0f} s"
    if span.high < 2 * 3600:
        return f"{span.low / 60:.1f} to {span.high / 60:.1f} min"
    return f"{span.low / 3600:.1f} to {span.high / 3600:.1f} h"
