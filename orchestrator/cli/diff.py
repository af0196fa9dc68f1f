"""What differs between two trials, adapters or sweeps, for people in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, table
from orchestrator.records.scores import mean
from orchestrator.system.formatting import show, show_interval, show_setting


def render_diff(document: Mapping[str, Any]) -> RenderableType:
    """What `diff` found, for people.

    Args:
        document: From `diff_trials`, `diff_cards` or `diff_sweeps`.

    Returns:
        Tables of settings, measures, scores and provenance; what is the same is said to be.
    """
    left, right = document["left"], document["right"]
    parts: list[RenderableType] = []
    for name in ("settings", "provenance"):
        if not document[name]:
            parts += [Text(f"{name.capitalize()}: the same."), Text()]
            continue
        made = table(f"{name.capitalize()} that differ", name, left, right,
                     left={name, left, right})  # fmt: skip
        for path, pair in document[name].items():
            cells = [show_setting(path, pair[side], exact=True) for side in ("left", "right")]
            add_cells(made, [path, *cells])
        parts += [made, Text()]
    on = document["examples"]
    title = "Measures"
    if on["left"] and on["left"] == on["right"]:
        title += f", on {_examples_words(on['left'])} examples"
    numbers = table(title, "measure", left, right, "difference", left={"measure"})
    for name, pair in document["measures"].items():
        digits = 0 if name.startswith("cost") else 3
        add_cells(numbers, [name, *_pair_cells(pair, digits)])
    parts += [numbers, Text()]
    if on["left"] != on["right"]:
        sides = (f"{document[side]} on {_examples_words(on[side])}" for side in on)
        parts += [Text(f"Measures stand on different examples: {', '.join(sides)}."), Text()]
    scored = _scores("Final scores", document["scores"], document["interval"], left, right)
    parts += [scored, Text()]
    if document.get("forgotten"):
        lost = table("Forgotten since it was learnt", "task", left, right, "difference",
                     left={"task"})  # fmt: skip
        for task, pair in document["forgotten"].items():
            add_cells(lost, [task, *_pair_cells(pair, 3)])
        parts += [lost, Text()]
    if document.get("test"):
        read = _scores("Test scores", document["test"], document["test_interval"], left, right)
        parts += [read, Text()]
    parts.append(Text(f"Differences are {right} minus {left}; intervals are paired over the same "
                      "examples, \"-\" where the examples differ.", style="dim"))  # fmt: skip
    return Group(*parts)


def _scores(
    title: str, found: Mapping[str, Any], interval: Any, left: str, right: str
) -> RenderableType:
    """Scores by task with paired intervals, and their mean."""
    made = table(title, "task", left, right, "difference", "95 % interval", "examples",
                 left={"task"})  # fmt: skip
    for task, pair in found.items():
        add_cells(made, [task, *_pair_cells(pair, 3), show_interval(pair["interval"]),
                         str(pair["examples"] or "-")])  # fmt: skip
    if found:
        ends = [[pair[side] for pair in found.values()] for side in ("left", "right")]
        whole = {"left": mean(ends[0]), "right": mean(ends[1])}
        whole["difference"] = whole["right"] - whole["left"]
        add_cells(made, ["mean", *_pair_cells(whole, 3), show_interval(interval), ""])
    return made


def _examples_words(counts: Mapping[str, int] | None) -> str:
    """On how many examples of each task a trial's measures stand."""
    if counts is None:
        return "all"
    return " + ".join(str(count) for count in counts.values())


def _pair_cells(pair: Mapping[str, float], digits: int) -> list[str]:
    return [
        show(pair["left"], digits=digits),
        show(pair["right"], digits=digits),
        show(pair["difference"], signed=True, digits=digits),
    ]
