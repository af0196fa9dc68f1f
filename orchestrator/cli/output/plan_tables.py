"""A plan, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.base.facts import BaseFacts
from orchestrator.planning.plan import Plan
from orchestrator.system.byte_units import GIB


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
    if plan.compared_trials:
        many += (
            f" ({plan.compared_trials} of them only to compare: joint retraining, fresh adapter)"
        )
    head = f"{plan.kind.capitalize()} {plan.name}: {many}, and the untouched base once"
    parts: list[RenderableType] = [Text(head, style="bold")]
    if plan.extends is not None:
        parts.append(Text(f"Goes on from {plan.extends}, whose tasks are not learnt again."))
    if plan.left_out is not None:
        parts.append(Text(f"{plan.left_out}.", style="yellow"))
    if plan.bounded is not None:
        parts.append(Text(f"{plan.bounded}.", style="yellow"))
    parts += [Text(), _task_table(plan), Text()]
    tokens = (
        f"Tokens of one trial: {plan.train_tokens:,} to learn from ({_epochs(plan.epochs)}), "
        f"{plan.evaluation_tokens:,} to score ({plan.scored}). The untouched base: "
        f"{plan.base_tokens:,}."
    )
    if plan.whole_tokens > plan.evaluation_tokens:
        tokens += (
            f" The whole matrix on all examples takes {plan.whole_tokens:,}, of the trials that "
            "the verdict is between."
        )
    if plan.tokens_from != "tokenizer":
        tokens += f" These are {plan.tokens_from}."
    parts += [Text(tokens), Text()]
    if plan.base is not None:
        parts += [Text(_base_words(plan.base)), _method_table(plan)]
        parts += [*_carried_words(plan), Text()]
        parts += [Text(_memory_words(plan))]
    parts += [
        Text(f"{plan.precision[0].upper()}{plan.precision[1:]}."),
        Text(f"Resources: {plan.arithmetic}."),
        *_alone_words(plan),
        Text(_time_words(plan)),
        Text(_storage_words(plan)),
    ]
    if plan.shared is not None and plan.shared.words:
        parts.append(Text(f"Shared: {plan.shared.words}."))
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


def _storage_words(plan: Plan) -> str:
    shared = f", and up to {_size(plan.shared_bytes)} of what trials share"
    return f"Storage: about {_size(plan.storage_bytes)}{shared}{_free(plan.machine.disk)}."


def _size(number: float) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / 2**20:.1f} MiB"


def _time_words(plan: Plan) -> str:
    if plan.trial_seconds is None or plan.speed is None:
        return "Time: not estimated (no speed could be measured, or the base's sizes are unknown)."
    text = (
        f"Time: a trial is about {_duration(plan.trial_seconds)} of one worker's work, by the "
        f"{1 / plan.speed.learn:,.0f} tokens/s that it learns and the {1 / plan.speed.score:,.0f} "
        "tokens/s that it scores on this machine, measured with the base."
    )
    if plan.sweep_seconds is not None:
        text += (
            f"\nThe whole {plan.kind} takes about {_duration(plan.sweep_seconds)}, {plan.at_once} "
            "trial(s) at a time, if none is stopped early and nothing else keeps the machine busy."
        )
    return text


def _duration(seconds: float) -> str:
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.{0 if seconds >= 600 else 1}f} min"
    return f"{seconds / 3600:.1f} h"
