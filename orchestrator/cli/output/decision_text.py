"""A sweep's decision on the terminal: one page of plain sentences."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from orchestrator.report.deciding.decision import Decision
from orchestrator.report.deciding.words import decision_lines


def render_decision(decision: Decision) -> RenderableType:
    """The decision, headings and sentences.

    Args:
        decision: What a sweep decides.

    Returns:
        What is printed.
    """
    parts: list[RenderableType] = []
    style = "bold green" if decision.pick is not None else "bold yellow"
    for number, (heading, lines) in enumerate(decision_lines(decision)):
        parts.append(Text(f"{heading}", style=style if number == 0 else "bold"))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in lines]
    return Group(*parts)
