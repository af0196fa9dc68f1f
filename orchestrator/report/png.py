"""The report's pictures as PNG, drawn by matplotlib without a display."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.sweep_state import SweepState
from orchestrator.report.figures import (
    COLOURS,
    Curves,
    Figures,
    Parallel,
    Series,
    TradeOff,
    measure_words,
)
from orchestrator.report.trial_roles import by_merit
from orchestrator.system.formatting import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "^")
_QUIET = "#9aa3ab"
_INK = "#1c2126"
_MOST_MATRICES = 12
_MOST_CHARACTERS = 32
_CONTROL_LINES = {"majority class": "--", "chance": ":"}


def draw_pictures(view: SweepState, figures: Figures, folder: Path) -> list[Path]:
    """Write every picture that there is; the same figures give the same bytes.

    Args:
        view: The sweep.
        figures: From `make_figures`.
        folder: An existing folder.

    Returns:
        The files, in the order in which the page shows the pictures.
    """
    made: dict[str, Figure] = {}
    if figures.trade_offs:
        made["front"] = _front(figures)
    if figures.parallel is not None:
        made["settings"] = _parallel(figures.parallel)
    if figures.learning is not None:
        made["learning"] = _single(figures.learning)
    if figures.forgetting:
        made["forgetting"] = _forgetting(figures.forgetting)
    matrices = _matrices(view)
    if matrices is not None:
        made["matrices"] = matrices
    files = []
    for name, figure in made.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110, metadata={"Software": None})
    return files


def _sheet(columns: int, rows: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula, cut to what a picture has room for."""
    cut = text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
    return cut.replace("$", r"\$")


def _front(figures: Figures) -> Figure:
    figure, axes = _sheet(len(figures.trade_offs), 1, 5.6, 4.4)
    for place, trade_off in zip(axes, figures.trade_offs, strict=True):
        _trade_off(place, trade_off, figures.colours)
    return figure


def _trade_off(axes: Axes, figure: TradeOff, colours: Mapping[str, int]) -> None:
    groups = sorted({dot.group for dot in figure.dots})
    places = {dot.name: (dot.x, dot.y) for dot in figure.dots}
    if len(figure.best) > 1:
        line = [places[name] for name in figure.best]
        axes.plot(*zip(*line, strict=True), "--", color=_QUIET, linewidth=1, zorder=1)
    few = len(figure.dots) <= 14
    for dot in figure.dots:
        index = colours.get(dot.name)
        colour = _QUIET if index is None else COLOURS[index]
        bars = None
        if dot.interval:
            bars = [[max(0.0, dot.y - dot.interval[0])], [max(0.0, dot.interval[1] - dot.y)]]
        filled = dot.role in {"champion", "front"}
        axes.errorbar(
            dot.x, dot.y, yerr=bars, fmt=_MARKERS[groups.index(dot.group) % len(_MARKERS)],
            color=colour, markerfacecolor=colour if filled else "white", capsize=3, elinewidth=1,
            markersize=9 if dot.role == "champion" else 6, zorder=2 if index is None else 3,
        )  # fmt: skip
        if few or index is not None:
            axes.annotate(_plain(dot.name), (dot.x, dot.y), (6, 4), textcoords="offset points",
                          fontsize=8)  # fmt: skip
    for number, group in enumerate(groups):
        axes.plot(
            [], [], _MARKERS[number % len(_MARKERS)], color=_QUIET, label=_plain(group or "-")
        )
    axes.plot(0, 0, "x", color=_INK, label="untouched base")
    axes.axhline(0, color=_QUIET, linewidth=0.6)
    axes.axvline(0, color=_QUIET, linewidth=0.6)
    axes.set_xlabel(f"{measure_words(figure.x)} (less is better)")
    axes.set_ylabel(measure_words(figure.y))
    axes.legend(loc="upper right", fontsize=8, framealpha=0.6)


def _draw(axes: Axes, line: Series) -> None:
    colour, width = _QUIET, 0.7
    if line.role == "control":
        colour, width = _INK, 0.8
    elif line.colour is not None:
        colour, width = COLOURS[line.colour], 1.7
    label = _plain(line.name) if line.colour is not None else None
    few = len(line.points) < 12
    style = _CONTROL_LINES.get(line.name, "-") if line.role == "control" else "-"
    axes.plot(
        [x for x, _ in line.points], [y for _, y in line.points], style, color=colour,
        linewidth=width, label=label, marker="." if few and line.role != "control" else None,
    )  # fmt: skip


def _lines(axes: Axes, figure: Curves) -> None:
    for line in figure.series:
        _draw(axes, line)
    for x, _ in figure.marks:
        axes.axvline(x, color=_QUIET, linewidth=0.6, linestyle=":")
    if figure.logarithmic:
        axes.set_yscale("log")
    if figure.ticks:
        axes.set_xticks(range(len(figure.ticks)), [_plain(t) for t in figure.ticks], rotation=25,
                        ha="right", fontsize=7)  # fmt: skip
    axes.set_title(_plain(figure.title), fontsize=10)
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8, framealpha=0.6)


def _single(figure: Curves) -> Figure:
    sheet, axes = _sheet(1, 1, 9, 4)
    _lines(axes[0], figure)
    for x, name in figure.marks:
        axes[0].annotate(_plain(name), (x, 1), (3, -10), xycoords=("data", "axes fraction"),
                         textcoords="offset points", fontsize=8)  # fmt: skip
    _legend(axes[0])
    return sheet


def _forgetting(figures: tuple[Curves, ...]) -> Figure:
    columns = min(3, len(figures))
    sheet, axes = _sheet(columns, math.ceil(len(figures) / columns), 4, 3.2)
    for place, curves in zip(axes, figures, strict=False):
        _lines(place, curves)
    _legend(axes[0])
    _empty(axes[len(figures) :])
    return sheet


def _empty(axes: Iterable[Axes]) -> None:
    for place in axes:
        place.set_axis_off()


def _parallel(figure: Parallel) -> Figure:
    sheet, axes = _sheet(1, 1, max(6.0, 1.5 * len(figure.axes)), 4)
    for line, _ in figure.lines:
        _draw(axes[0], line)
    axes[0].set_xticks(
        range(len(figure.axes)), [_plain(a.label).replace(".", ".\n") for a in figure.axes],
        fontsize=7,
    )  # fmt: skip
    for number, axis in enumerate(figure.axes):
        axes[0].axvline(number, color=_QUIET, linewidth=0.8)
        for at, text in axis.ticks:
            axes[0].annotate(_plain(text), (number, at), (3, 0), textcoords="offset points",
                             fontsize=7)  # fmt: skip
    axes[0].set_yticks([])
    _legend(axes[0])
    return sheet


def _matrices(view: SweepState) -> Figure | None:
    import numpy as np

    found: list[tuple[str, Any]] = []
    for trial in by_merit(view):
        matrix = view.matrix(trial)
        if matrix is not None and trial.reports and len(found) < _MOST_MATRICES:
            found.append((trial.name, matrix))
    if not found:
        return None
    tasks = len(view.tasks)
    columns = min(3, len(found))
    side = min(9.0, max(3.2, 0.55 * tasks + 1.6))
    sheet, axes = _sheet(columns, math.ceil(len(found) / columns), side, side)
    for place, (name, matrix) in zip(axes, found, strict=False):
        place.imshow(np.array(matrix.rows, dtype=float), vmin=0, vmax=1, cmap="Blues")
        for row, scores in enumerate(matrix.rows):
            for column, score in enumerate(scores):
                place.text(column, row, show(score, digits=2), ha="center", va="center", fontsize=7,
                           color="white" if score > 0.6 else _INK)  # fmt: skip
        labels = [_plain(task) for task in view.tasks]
        place.set_xticks(range(tasks), labels, rotation=35, ha="right", fontsize=7)
        place.set_yticks(range(len(matrix.rows)), ["base", *labels][: len(matrix.rows)], fontsize=7)
        place.set_title(_plain(name), fontsize=9)
    _empty(axes[len(found) :])
    return sheet
