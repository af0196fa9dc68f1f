"""A sweep's decision in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.report.deciding.comparisons import Comparison
from orchestrator.report.deciding.decision import Decision, GivenUp
from orchestrator.system.formatting import (
    count,
    show,
    show_duration,
    show_interval,
    show_setting,
)


def decision_lines(decision: Decision) -> list[tuple[str, list[str]]]:
    """The decision in plain sentences.

    Args:
        decision: What a sweep decides.

    Returns:
        Headings and their lines, in the order in which they are read.
    """
    parts: list[tuple[str, list[str]]] = []
    if decision.pick is None:
        parts.append(("No pick", [f"{_sentence(decision.reason)}"]))
    else:
        settings = ", ".join(
            f"{path} {show_setting(path, value)}" for path, value in decision.settings.items()
        )
        measured = ", ".join(f"{n} {show(v, signed=True)}" for n, v in decision.measures.items())
        told = f": {settings}" if settings else ""
        lines = [f"{decision.method}, trial {decision.pick}{told}.", f"It measures {measured}."]
        sure = [_error_words(decision.errors)] if decision.errors else []
        parts.append(("The pick", [*lines, *sure, _sentence(decision.reason)]))
    head = "By how much" if decision.pick else "The best trial beside the controls"
    parts.append((head, [_comparison_words(one) for one in decision.comparisons]))
    parts.append(("What was given up for it", [_given_up_words(one) for one in decision.given_up]))
    parts.append(("What would change it", decision.changes))
    parts.append(("What is open", decision.open))
    parts.append(("Test examples", [decision.test] if decision.test else []))
    parts.append(("What it cost", [_cost_words(decision.cost)]))
    return [(heading, lines) for heading, lines in parts if lines]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _error_words(errors: Mapping[str, float]) -> str:
    names = {"runs": "seeds and orders together"}
    parts = ", ".join(f"{names.get(name, name)} {error:.3f}" for name, error in errors.items())
    whole = math.sqrt(sum(error**2 for error in errors.values()))
    return f"Its gain has a standard error of {whole:.3f}: over {parts}."


def _comparison_words(one: Comparison) -> str:
    return (
        f"{show(one.difference, signed=True)} {show_interval(one.interval)} over {one.other}, on "
        f"{one.examples} examples"
    )


def _given_up_words(one: GivenUp) -> str:
    def words(differences: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {show(d, signed=True)}" for name, d in differences.items())

    return f"{one.trial} ({one.method}): {words(one.better)}; for {words(one.worse) or 'nothing'}"


def _cost_words(cost: Mapping[str, float]) -> str:
    trials = [
        count(int(cost["trials"]), "trial"), f"{int(cost['complete'])} whole",
        f"{int(cost['stopped'])} stopped early", f"{int(cost['failed'])} failed",
    ]  # fmt: skip
    spent = ""
    if cost["seconds"]:
        spent = f"; {show_duration(cost['seconds'])}, {cost['core_seconds'] / 3600:.2f} core-hours"
    return f"{trials[0]}: {', '.join(trials[1:])}{spent}."
