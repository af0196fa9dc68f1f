"""What a plan warns of although nothing is in its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.base.devices import bf16_slowness, processor
from orchestrator.data.continuations import words_that_begin_others
from orchestrator.planning.memory import memory_shortage
from orchestrator.planning.plan import Plan
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.space.domains import possible_values


def plan_warnings(plan: Plan, experiment: Experiment) -> list[str]:
    """A base whose sizes are not known, and memory that is too small."""
    found: list[str] = []
    if plan.base is None:
        found.append(
            f"The sizes of the base model {_name(experiment)!r} cannot be read on this machine, so "
            "memory and time are not estimated. Download a hub model first, with `hf download`."
        )
    slow = slow_bf16(experiment) if plan.machine.here else None
    if slow is not None:
        found.append(slow)
    machine = plan.machine
    short = memory_shortage(
        experiment, plan.worker_bytes, machine.memory, at_once=plan.at_once,
        cpus=machine.cpus, gpus=machine.gpus,
    )  # fmt: skip
    return found if short is None else [*found, short]


def slow_bf16(experiment: Experiment) -> str | None:
    """What bf16 costs on this machine's processor, measured, where the file asks for it.

    Args:
        experiment: The experiment as the file has it.

    Returns:
        One or two sentences; None where no trial computes in bf16, or the device multiplies it.
    """
    training, search = experiment.training, experiment.search
    values = possible_values(search.space, _PRECISION, training.precision) if search else ()
    first = [entry[_PRECISION] for entry in search.first if _PRECISION in entry] if search else []
    on_gpu = experiment.resources.gpus_per_worker > 0
    if on_gpu or "bf16" not in {training.precision, *values, *first}:
        return None
    here = processor()
    if here.bf16:
        return None
    ratio = bf16_slowness(threads=experiment.resources.cpus_per_worker)
    return (
        f"`training.precision: bf16`: {here.name} does not multiply bf16 ({here.because}); a "
        f"product takes {ratio:.1f} times as long as in fp32, measured now. Write `precision: "
        "auto`, or leave it out, to have what suits the machine."
    )


_PRECISION = "training.precision"


def control_warnings(
    loaded: LoadedExperiment, controls: Mapping[str, Mapping[str, Any]], *, exact: bool
) -> list[str]:
    """Controls that there will not be, and label words that only a tokenizer can tell apart."""
    found = [
        f"Task {name!r}: the control head-only {controls[name]['head_only']}."
        for name in loaded.experiment.tasks
        if "head_only" in controls[name]
    ]
    for name, task in loaded.tasks.items():
        if exact or task.has_head:
            continue
        found += [
            f"Task {name!r}: the label word {word!r} is how {other!r} begins. If it is so to the "
            "model's tokenizer, which is not on this machine, a sweep is refused: change `labels`."
            for word, other in words_that_begin_others(task)
        ]
    return found


def _name(experiment: Experiment) -> str:
    return str(experiment.model.name or experiment.model.gguf)
