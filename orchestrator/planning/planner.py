"""What a file asks for, before anything starts: trials, tokens, memory, time, disk.

Nothing is started and no weights are loaded: sizes come from the header of the weights, tokens from
the same preparation that a sweep uses, and speed from a fraction of a second of matrix products.
Estimates say that they are estimates, and time is a range.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.base.facts import base_facts
from orchestrator.base.precision import choose_precision, with_precision
from orchestrator.data.prompt_tokens import is_estimate
from orchestrator.executors.cluster_fit import fit
from orchestrator.executors.pool.admission import packing_refuses, trial_refuses
from orchestrator.loop.task_sequence import scored_of
from orchestrator.planning.cost import TrialCost
from orchestrator.planning.memory import memory_parts
from orchestrator.planning.method_sizes import (
    MethodFacts,
    method_facts,
    shared_states_bytes,
    storage_bytes,
)
from orchestrator.planning.plan import Machine, Plan
from orchestrator.planning.preflight import problems
from orchestrator.planning.resource_problems import Available
from orchestrator.planning.shared_steps import shared_steps
from orchestrator.planning.speed import measured_speed
from orchestrator.planning.timing import Timing
from orchestrator.planning.tokens import (
    mean_length,
    planned_data,
    planning_tokenizer,
    prepared_facts,
)
from orchestrator.planning.warnings import control_warnings, plan_warnings
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import possible_methods, reachable
from orchestrator.system.stores.address import working_folder


def make_plan(
    loaded: LoadedExperiment, machine: Machine, *, kind: str = "sweep", calibrate: bool = True
) -> Plan:
    """Work out what an experiment asks for.

    Args:
        loaded: The experiment and its tasks.
        machine: Where it would run.
        kind: "sweep", "run" for one trial of the file's own method, or "extension" of another
            sweep's trial.
        calibrate: Measure this machine's speed, which takes a fraction of a second.

    Returns:
        The plan. Nothing was started and nothing written.
    """
    loaded, precision = _precision(loaded, machine)
    experiment = loaded.experiment
    if kind == "run":
        experiment = experiment.model_copy(update={"scoring": "full"})
    tokenizer, tokens_from = planning_tokenizer(experiment.model)
    data = planned_data(loaded, tokenizer)
    tasks, epochs = prepared_facts(experiment, data)
    base = base_facts(experiment.model)
    mean = mean_length(tasks)
    methods = method_facts(experiment, base, tokens_per_example=mean) if base else []
    fitting = fit(experiment.resources, cpus=machine.cpus, gpus=machine.gpus)
    cost = TrialCost(experiment, tasks, base, methods, epochs)
    in_the_way = _in_the_way(loaded, machine, kind)
    # What cannot be run cannot be timed either.
    timed = calibrate and machine.here and not in_the_way
    speed = measured_speed(experiment, base, math.ceil(mean)) if base and timed else None
    alone = _alone(loaded) if experiment.resources.facts.packs else None
    timing = Timing(cost, speed, machine, alone, _limited(experiment, fitting.at_once))
    searched, bounded = (1, None) if kind == "run" else timing.within_budget()
    trials = searched + experiment.repeated_trials + experiment.compared_trials
    plan = Plan(
        name=experiment.name,
        kind=kind,
        trials=trials,
        repeated_trials=experiment.repeated_trials,
        compared_trials=experiment.compared_trials,
        extends=None if experiment.extends is None else experiment.extends.named,
        left_out=experiment.search.left_out if experiment.search and kind == "sweep" else None,
        bounded=bounded,
        tasks=tasks,
        tokens_from=tokens_from,
        epochs=epochs,
        precision=precision,
        train_tokens=cost.train_tokens,
        evaluation_tokens=cost.evaluation_tokens,
        whole_tokens=cost.whole_tokens,
        scored=_scored_words(experiment),
        base_tokens=cost.one_evaluation,
        base=base,
        methods=methods,
        memory_parts=memory_parts(experiment, base, methods) if base else {},
        flops_train=cost.flops_train,
        flops_evaluation=cost.flops_evaluation,
        speed=speed,
        trial_seconds=cost.work_seconds(speed),
        sweep_seconds=timing.seconds(trials),
        at_once=min(timing.at_once, trials),
        arithmetic=fitting.arithmetic,
        **_room(experiment, methods, trials, machine),
        shared=shared_steps(experiment, data) if kind == "sweep" else None,
        machine=machine,
        alone=alone,
        problems=in_the_way,
        warnings=[],
    )
    plan.warnings.extend(plan_warnings(plan, experiment))
    plan.warnings.extend(control_warnings(loaded, data.controls, exact=not is_estimate(tokenizer)))
    return plan


def _room(
    experiment: Experiment, methods: list[MethodFacts], trials: int, machine: Machine
) -> dict[str, float]:
    """What lies in the storage folder, and what of states that trials share."""
    tasks, storage = len(experiment.tasks), working_folder(experiment.storage)
    return {
        "storage_bytes": storage_bytes(methods, trials, tasks),
        "shared_bytes": shared_states_bytes(methods, trials, tasks, storage, machine.disk),
    }


def _in_the_way(loaded: LoadedExperiment, machine: Machine, kind: str) -> list[str]:
    experiment = loaded.experiment
    storage = working_folder(experiment.storage)
    extends, gone = experiment.extends, list[str]()
    if extends is not None and not SweepFolder(storage / extends.sweep).path.is_dir():
        gone = [f"`extends` goes on from {extends.named}, and {storage} holds no such sweep"]
    return gone + problems(
        loaded,
        storage,
        Available(machine.cpus, machine.gpus, machine.disk),
        trials=1 if kind == "run" else experiment.expected_trials + experiment.repeated_trials,
        ask_hub=False,
    )


def _precision(loaded: LoadedExperiment, machine: Machine) -> tuple[LoadedExperiment, str]:
    """The experiment with the precision that a sweep on a machine would have, and that in words."""
    named = loaded.experiment.training.precision
    if named != "auto":
        return loaded, f"precision {named}"
    choice = choose_precision(machine.devices)
    return with_precision(loaded, choice.used), choice.words


def _scored_words(experiment: Experiment) -> str:
    """What of a trial is scored, in words."""
    scored = scored_of(experiment)
    told = "each task at 1/4 and 1/2 of it; "
    if scored.cells is None:
        probed = experiment.data.probe_after.replace("_", " ")
        return f"{told}all tasks after each task; probes after {probed}"
    cells, tasks = len(scored.cells), len(experiment.tasks)
    told += f"{cells} of {tasks * tasks} cells of the accuracy matrix"
    if scored.examples is not None:
        told += f", on the first {scored.examples} examples"
    if not scored.probes:
        return f"{told}; no probes"
    often = experiment.races and experiment.data.probe_after == "each_task"
    return f"{told}; probes after {'each task' if often else 'the last task'}"


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


def _limited(experiment: Experiment, at_once: int) -> int:
    limit = experiment.search.max_concurrent if experiment.search else None
    return min(at_once, limit or at_once)
