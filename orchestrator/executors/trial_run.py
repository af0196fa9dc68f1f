"""What the executors `train` and `local` share: a trial's model, retention, heads and learning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.data.prepared import PreparedData
from orchestrator.loop.answer import run
from orchestrator.loop.learn import learn_sequence, measure_base
from orchestrator.loop.requests import Taken
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.loop.trial_state import TrialState
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.adapter_settings import AdapterWithText, adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.retention_settings import retention_options
from orchestrator.spec.task_kinds import GenerationTask

_LEAST_ADAPTER = {"r": 1, "target_modules": "all-linear"}
"""What the untouched base carries, switched off, because DeepSpeed wants something to train."""


def adapted_model(trial: str, experiment: Experiment, data: PreparedData, device: Any) -> Any:
    """The base with a fresh adapter.

    Args:
        trial: The trial's name; the base trial gets the smallest adapter.
        experiment: Its experiment, overrides applied.
        data: The prepared data, which some adapters are initialised from.
        device: Where the model is to be.

    Returns:
        A `peft.PeftModel`, or what `curlora.attach` makes in its place.
    """
    from curlora import attach
    from curlora.targets import default_targets
    from orchestrator.base.loading import load_base, token_batches

    base: Any = load_base(experiment.model, experiment.training.precision, device)
    seed = experiment.training.seed
    if trial == BASE_TRIAL:
        return attach(base, "lora", _LEAST_ADAPTER, seed=seed)
    adapter = experiment.method.adapter
    text = None
    if isinstance(adapter, AdapterWithText):
        text = token_batches(e.tokens for e in data.tasks[str(adapter.source)].train)
    options = adapter_options(adapter)
    if "target_modules" in options and options["target_modules"] is None:
        options["target_modules"] = default_targets(base.config.model_type)
    return attach(base, adapter.kind, options, seed=seed, text=text)


def fresh_retention(experiment: Experiment) -> Any:
    """What protects earlier tasks, with nothing seen yet."""
    spec = experiment.method.retention
    return RETENTIONS[spec.kind].build(retention_options(spec, experiment.training.seed))


def fresh_heads(sequence: TaskSequence, model: Any) -> Any:
    """Fresh linear heads for the tasks that have one; None where no task does."""
    from orchestrator.engines.linear_heads import LinearHeads
    from orchestrator.engines.scored_model import hidden_size

    labels = {task.name: len(task.labels) for task in sequence.tasks if task.has_head}
    return LinearHeads(labels, hidden_size(model), seed=sequence.seed) if labels else None


def tokenizer_for_texts(experiment: Experiment, sequence: TaskSequence) -> Any:
    """The tokenizer where a task is scored on written text; None where tokens are enough."""
    from orchestrator.base.loading import load_tokenizer

    writes = any(isinstance(t.spec, GenerationTask) for t in (*sequence.tasks, *sequence.probes))
    return load_tokenizer(experiment.model) if writes else None


def check_engine_logits(engine: Any, model: Any) -> None:
    """Refuse a model whose own logits differ from those of its engine; see `check_logits`."""
    from orchestrator.engines.scored_model import check_logits

    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    check_logits(engine.scored, bare.config.get_text_config().vocab_size)


def learn_rest(
    trial: str,
    model: Any,
    engine: Any,
    sequence: TaskSequence,
    state: TrialState,
    on_report: Callable[[StageReport, AccuracyMatrix], None],
    on_progress: Callable[[Progress], None],
    take_over: Callable[[int], Taken | None] = lambda _: None,
) -> None:
    """Measure the base, or learn what is left of the sequence.

    Args:
        trial: The trial's name; the base trial is measured with its adapter switched off.
        model: The base with an adapter.
        engine: The engine around it.
        sequence: What is learnt and measured.
        state: Where the trial goes on from.
        on_report: Called with each report.
        on_progress: Called after every step and every evaluation.
        take_over: Lets the engine go on from what another trial has learnt of a task that begins.
    """
    base = trial == BASE_TRIAL
    learning = (
        measure_base(sequence)
        if base
        else learn_sequence(sequence, engine.retention, state.matrix, state.start)
    )
    with model.disable_adapter() if base else nullcontext():
        run(
            learning,
            engine,
            sequence=sequence,
            matrix=state.matrix,
            start=None if base else state.start,
            on_report=on_report,
            on_progress=on_progress,
            take_over=take_over,
        )
