"""Curves and parallel coordinates as SVG pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.report.figures import Axis, Curves, Parallel, Series
from orchestrator.report.svg import (
    Frame,
    axis_names,
    cut_to,
    element,
    grid,
    join,
    line_between,
    padded_range,
    picture,
    powers,
    px,
    role_class,
    text_at,
    ticks,
)


def curves(figure: Curves, *, small: bool = False) -> Markup:
    """Lines over steps or over tasks.

    Args:
        figure: What to draw.
        small: One of several beside each other.

    Returns:
        An SVG element.
    """
    points = [point for line in figure.series for point in line.points]
    ys = [y for _, y in points if not math.isnan(y)]
    span = padded_range(ys)
    if figure.logarithmic:
        span = (min(ys) / 1.15, max(ys) * 1.15)
    named = bool(figure.ticks)
    xs = (
        (0.0, float(len(figure.ticks) - 1))
        if named
        else padded_range([x for x, _ in points], room=0.01)
    )
    size = (340.0, 230.0) if small else (900.0, 340.0)
    frame = Frame(*size, 48, 14, 18, 38, xs, span, figure.logarithmic)
    y_ticks = powers(*span) if figure.logarithmic else ticks(*span, 4 if small else 6)
    bottom = frame.height - frame.bottom
    parts = [
        grid(frame, [] if named else ticks(*xs), y_ticks),
        axis_names(frame, figure.x, figure.y),
        *(line_between(frame.x(x), frame.top, frame.x(x), bottom, "mark") for x, _ in figure.marks),
        *_mark_names(frame, figure.marks),
        *(_curve(frame, line) for line in figure.series),
    ]
    if named:
        parts += _counted(frame, figure.ticks)
    return picture(frame.width, frame.height, f"{figure.title}: {figure.y} by {figure.x}", *parts)


def _mark_names(frame: Frame, marks: Sequence[tuple[float, str]]) -> list[Markup]:
    """Names over upright lines, cut to the room until the next one."""
    parts = []
    for i, (x, name) in enumerate(marks):
        right = frame.x(marks[i + 1][0]) if i + 1 < len(marks) else frame.width
        at, room = frame.x(x), right - frame.x(x)
        if len(name) * 6.2 > room and len(marks) == 1:
            parts.append(text_at(at - 3, frame.top - 5, cut_to(name, at - frame.left), "tick end"))
        else:
            parts.append(text_at(at + 3, frame.top - 5, cut_to(name, room - 8), "tick"))
    return parts


def _counted(frame: Frame, names: Sequence[str]) -> list[Markup]:
    """Names under x = 0, 1, ..., as long as the room between two allows."""
    room = (frame.width - frame.left - frame.right) / max(1, len(names) - 1)
    every = max(1, math.ceil(24 / room))
    # Where no name fits, its number, as in the matrices.
    shown_names = names if room >= 45 else [str(i) for i in range(len(names))]
    parts = []
    for i, (name, written) in enumerate(zip(names, shown_names, strict=True)):
        if i % every and i != len(names) - 1:
            continue
        anchor = "end" if i == len(names) - 1 else "mid"
        shown = cut_to(written, room * every * (0.8 if 0 < i < len(names) - 1 else 0.55))
        y = frame.height - frame.bottom + 15
        parts.append(text_at(frame.x(i), y, join(element("title", name), shown), f"tick {anchor}"))
    return parts


def _curve(frame: Frame, line: Series) -> Markup:
    """A line, broken where there is no value; a value on its own is a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if math.isnan(y):
            runs.append([])
        else:
            runs[-1].append((frame.x(x), frame.y(y)))
    parts: list[Markup] = [element("title", line.name)]
    for run in runs:
        if len(run) == 1:
            parts.append(
                element("circle", cx=px(run[0][0]), cy=px(run[0][1]), r="2.5", class_="dot")
            )
        elif run:
            path = " ".join(f"{px(x)},{px(y)}" for x, y in run)
            parts.append(element("polyline", points=path))
    control = {"majority class": " majority", "chance": " chance"}.get(line.name, "")
    class_ = "curve " + role_class(line.role, line.colour) + control * (line.role == "control")
    name = None if line.role == "control" else line.name
    return element("g", *parts, class_=class_, data_trial=name)


def parallel(figure: Parallel) -> Markup:
    """Every trial as a line through its settings and measures.

    Args:
        figure: What to draw.

    Returns:
        An SVG element; it may be wider than a phone.
    """
    apart, top, height = 128.0, 50.0, 340.0
    width = apart * len(figure.axes)
    bottom = height - 42

    def place(axis: float, at: float) -> tuple[float, float]:
        # Without a value a line runs below the axes.
        y = height - 16 if math.isnan(at) else bottom - at * (bottom - top)
        return apart * (axis + 0.5), y

    parts: list[Markup] = []
    for line, gain in figure.lines:
        path = " ".join(f"{px(x)},{px(y)}" for x, y in (place(*point) for point in line.points))
        shade = "" if math.isnan(gain) else f" g{round(gain * 4)}"
        own = role_class(line.role, line.colour) if line.colour is not None else "ko" + shade
        body = element("polyline", points=path)
        parts.append(
            element("g", element("title", line.name), body, class_=f"curve {own}",
                    data_trial=line.name)
        )  # fmt: skip
    for number, axis in enumerate(figure.axes):
        parts.append(_upright(apart * (number + 0.5), top, bottom, axis))
    if any(math.isnan(at) for line, _ in figure.lines for _, at in line.points):
        parts.append(text_at(4, height - 12, "not set", "tick"))
    return picture(width, height, "Settings and measures of every trial", *parts)


def _upright(x: float, top: float, bottom: float, axis: Axis) -> Markup:
    head, _, name = axis.label.rpartition(".")
    parts = [
        line_between(x, top, x, bottom, "axis"),
        text_at(x, top - 32, cut_to(head.replace("method.", ""), 126), "tick mid")
        if head
        else None,
        text_at(x, top - 18, cut_to(name, 126), "name mid" + " measure" * (not axis.searched)),
    ]
    for at, text in axis.ticks:
        y = bottom - at * (bottom - top)
        # The ends stand clear of the axis, where most lines meet.
        aside = {0.0: 14.0, 1.0: -4.0}.get(at, 4.0)
        parts += [
            line_between(x - 3, y, x + 3, y, "axis"),
            text_at(x + 6, y + aside, text, "tick halo"),
        ]
    return element("g", element("title", axis.label), *parts)
