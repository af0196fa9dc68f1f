"""The report's pictures as inline SVG in the page's colours, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.formatting import show, show_interval
from orchestrator.report.figures import Axis, Curves, Dot, Parallel, Series, TradeOff, measure_words
from orchestrator.report.markup import Markup, element, join

_MARKERS = ("circle", "square", "diamond", "triangle")
_BACKGROUND = {"champion": "k0", "front": "kf", "control": "kc"}


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within a range.

    Args:
        low: Lower end.
        high: Upper end, above `low`.
        about: How many are wanted.

    Returns:
        At least one tick, ascending.
    """
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(max(1, count))]


def powers(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 where they are few."""
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        found = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(found) >= 3:
            break
    return found or [low]


@dataclass(frozen=True)
class _Frame:
    """Where data lie within a picture: a box, and the ranges along its sides."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    xs: tuple[float, float]
    ys: tuple[float, float]
    logarithmic: bool = False

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.ys
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        inside = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * inside


def _span(
    values: Iterable[float], *, room: float = 0.06, zero: bool = False
) -> tuple[float, float]:
    """A range that holds the values with some room; never empty."""
    known = [v for v in values if not math.isnan(v)] + ([0.0] if zero else [])
    low, high = min(known, default=0.0), max(known, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    pad = (high - low) * room
    return low - pad, high + pad


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "0" if text == "-0" else text


def _text(x: float, y: float, words: object, class_: str = "", **attributes: object) -> Markup:
    return element("text", words, x=_n(x), y=_n(y), class_=class_ or None, **attributes)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=class_)


def _svg(width: float, height: float, label: str, *parts: object) -> Markup:
    return element(
        "svg", *parts, viewBox=f"0 0 {_n(width)} {_n(height)}", role="img", aria_label=label,
        style=f"max-width:{_n(width * (1.5 if width < 600 else 1.2))}px",
    )  # fmt: skip


def _grid(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    return join(
        *(_line(frame.left, frame.y(t), right, frame.y(t), "grid") for t in y_ticks),
        *(_text(frame.left - 5, frame.y(t) + 4, _number(t), "tick end") for t in y_ticks),
        *(_text(frame.x(t), bottom + 15, _number(t), "tick mid") for t in x_ticks),
        _line(frame.left, bottom, right, bottom, "axis"),
    )


def _names(frame: _Frame, x: str, y: str) -> Markup:
    middle = (frame.top + frame.height - frame.bottom) / 2
    return join(
        _text((frame.left + frame.width - frame.right) / 2, frame.height - 4, x, "name mid"),
        _text(12, middle, y, "name mid", transform=f"rotate(-90 12 {_n(middle)})"),
    )


def role_class(role: str, colour: int | None) -> str:
    """The page's class for a line or dot: its own colour, or that of the background."""
    return f"k{colour}" if colour is not None else _BACKGROUND.get(role, "ko")


# --- the trade-off -------------------------------------------------------------------------------


def trade_off(figure: TradeOff, colours: dict[str, int]) -> Markup:
    """Gain against what was lost, with the interval of the gain as a bar.

    Args:
        figure: What to draw.
        colours: The colours of the trials that stand out.

    Returns:
        An SVG element.
    """
    bounds = [bound for dot in figure.dots for bound in dot.interval or (dot.y, dot.y)]
    frame = _Frame(
        460, 350, 52, 14, 12, 40,
        _span([dot.x for dot in figure.dots], room=0.09, zero=figure.base),
        _span(bounds, zero=figure.base),
    )  # fmt: skip
    groups = sorted({dot.group for dot in figure.dots})
    parts = [
        _grid(frame, ticks(*frame.xs), ticks(*frame.ys)),
        _names(frame, f"{measure_words(figure.x)} (less is better)", measure_words(figure.y)),
        _line(frame.left, frame.y(0), frame.width - frame.right, frame.y(0), "zero"),
        _line(frame.x(0), frame.top, frame.x(0), frame.height - frame.bottom, "zero"),
    ]
    places = {dot.name: (frame.x(dot.x), frame.y(dot.y)) for dot in figure.dots}
    if len(figure.best) > 1:
        path = " ".join(f"{_n(places[n][0])},{_n(places[n][1])}" for n in figure.best)
        parts.append(element("polyline", points=path, class_="best"))
    ordered = sorted(figure.dots, key=lambda dot: dot.name in colours)
    parts += [_dot(frame, dot, groups.index(dot.group), colours.get(dot.name)) for dot in ordered]
    parts.append(_base_mark(frame))
    parts.append(_dot_names(frame, ordered, places, colours))
    label = f"{measure_words(figure.y)} against {measure_words(figure.x)} of each trial"
    return _svg(frame.width, frame.height, label, *parts)


def _dot(frame: _Frame, dot: Dot, group: int, colour: int | None) -> Markup:
    x, y = frame.x(dot.x), frame.y(dot.y)
    told = (
        f"{dot.name} ({dot.group}): gain {show(dot.y, signed=True)} {show_interval(dot.interval)}"
    )
    told += f", {show(dot.x, signed=True)}"
    bar = None
    if dot.interval:
        low, high = frame.y(dot.interval[0]), frame.y(dot.interval[1])
        bar = join(
            _line(x, low, x, high, "bar"), _line(x - 3, low, x + 3, low, "bar"),
            _line(x - 3, high, x + 3, high, "bar"),
        )  # fmt: skip
    filled = "" if dot.role in {"champion", "front"} else " open"
    ring = (
        element("circle", cx=_n(x), cy=_n(y), r="10", class_="ring")
        if dot.role == "champion"
        else None
    )
    size = 3.5 if dot.role == "repeat" else 5
    return element(
        "g", element("title", told), bar, ring, marker(x, y, group, size),
        class_=role_class(dot.role, colour) + filled, data_trial=dot.name,
    )  # fmt: skip


def marker(x: float, y: float, group: int, size: float = 5) -> Markup:
    """The marker of an adapter's kind, by its number."""
    shape = _MARKERS[group % len(_MARKERS)]
    if shape == "circle":
        return element("circle", cx=_n(x), cy=_n(y), r=_n(size), class_="dot")
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
        "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    }[shape]
    points = " ".join(f"{_n(x + a * size * 0.9)},{_n(y + b * size * 0.9)}" for a, b in corners)
    return element("polygon", points=points, class_="dot")


def _base_mark(frame: _Frame) -> Markup:
    x, y = frame.x(0), frame.y(0)
    return element(
        "g", element("title", "untouched base"), _line(x - 5, y - 5, x + 5, y + 5, "cross"),
        _line(x - 5, y + 5, x + 5, y - 5, "cross"), _text(x + 8, y + 14, "base", "label quiet"),
    )  # fmt: skip


def _dot_names(
    frame: _Frame,
    dots: Sequence[Dot],
    places: dict[str, tuple[float, float]],
    colours: dict[str, int],
) -> Markup:
    """Names beside the dots, where they cover nothing; few trials are all named."""
    few = len(dots) <= 14
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    x, y = frame.x(0), frame.y(0)
    taken.append((x - 6, y - 6, x + 36, y + 16))
    parts: list[Markup] = []
    for dot in sorted(dots, key=lambda dot: dot.name not in colours):
        if not few and dot.name not in colours:
            continue
        x, y = places[dot.name]
        width = 7.0 * len(dot.name)
        for dx, dy, anchor in ((9, 4, ""), (-9, 4, "end"), (9, -9, ""), (-9, -9, "end"),
                               (9, 17, ""), (-9, 17, "end")):  # fmt: skip
            left = x + dx - (width if anchor else 0)
            box = (left, y + dy - 11, left + width, y + dy + 3)
            free = not any(_overlap(box, other) for other in taken)
            if free and frame.left <= box[0] and box[2] <= frame.width and box[1] >= 0:
                taken.append(box)
                quiet = "" if dot.name in colours else " quiet"
                parts.append(_text(x + dx, y + dy, dot.name, f"label {anchor}{quiet}".strip()))
                break
    return join(*parts)


def _overlap(
    mine: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return mine[0] < other[2] and other[0] < mine[2] and mine[1] < other[3] and other[1] < mine[3]


# --- curves --------------------------------------------------------------------------------------


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
    span = _span(ys)
    if figure.logarithmic:
        span = (min(ys) / 1.15, max(ys) * 1.15)
    named = bool(figure.ticks)
    xs = (0.0, float(len(figure.ticks) - 1)) if named else _span([x for x, _ in points], room=0.01)
    size = (340.0, 230.0) if small else (900.0, 340.0)
    frame = _Frame(*size, 48, 14, 18, 38, xs, span, figure.logarithmic)
    y_ticks = powers(*span) if figure.logarithmic else ticks(*span, 4 if small else 6)
    bottom = frame.height - frame.bottom
    parts = [
        _grid(frame, [] if named else ticks(*xs), y_ticks),
        _names(frame, figure.x, figure.y),
        *(_line(frame.x(x), frame.top, frame.x(x), bottom, "mark") for x, _ in figure.marks),
        *_mark_names(frame, figure.marks),
        *(_curve(frame, line) for line in figure.series),
    ]
    if named:
        parts += _counted(frame, figure.ticks)
    return _svg(frame.width, frame.height, f"{figure.title}: {figure.y} by {figure.x}", *parts)


def _mark_names(frame: _Frame, marks: Sequence[tuple[float, str]]) -> list[Markup]:
    """Names over upright lines, cut to the room until the next one."""
    parts = []
    for i, (x, name) in enumerate(marks):
        right = frame.x(marks[i + 1][0]) if i + 1 < len(marks) else frame.width
        at, room = frame.x(x), right - frame.x(x)
        if len(name) * 6.2 > room and len(marks) == 1:
            parts.append(_text(at - 3, frame.top - 5, _cut(name, at - frame.left), "tick end"))
        else:
            parts.append(_text(at + 3, frame.top - 5, _cut(name, room - 8), "tick"))
    return parts


def _counted(frame: _Frame, names: Sequence[str]) -> list[Markup]:
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
        shown = _cut(written, room * every * (0.8 if 0 < i < len(names) - 1 else 0.55))
        y = frame.height - frame.bottom + 15
        parts.append(_text(frame.x(i), y, join(element("title", name), shown), f"tick {anchor}"))
    return parts


def _cut(name: str, room: float) -> str:
    fits = max(1, int(room / 6.2))
    return name if len(name) <= fits else name[: max(1, fits - 1)] + "…"


def _curve(frame: _Frame, line: Series) -> Markup:
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
                element("circle", cx=_n(run[0][0]), cy=_n(run[0][1]), r="2.5", class_="dot")
            )
        elif run:
            path = " ".join(f"{_n(x)},{_n(y)}" for x, y in run)
            parts.append(element("polyline", points=path))
    control = {"majority class": " majority", "chance": " chance"}.get(line.name, "")
    class_ = "curve " + role_class(line.role, line.colour) + control * (line.role == "control")
    name = None if line.role == "control" else line.name
    return element("g", *parts, class_=class_, data_trial=name)


# --- parallel coordinates ------------------------------------------------------------------------


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
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in (place(*point) for point in line.points))
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
        parts.append(_text(4, height - 12, "not set", "tick"))
    return _svg(width, height, "Settings and measures of every trial", *parts)


def _upright(x: float, top: float, bottom: float, axis: Axis) -> Markup:
    head, _, name = axis.label.rpartition(".")
    parts = [
        _line(x, top, x, bottom, "axis"),
        _text(x, top - 32, _cut(head.replace("method.", ""), 126), "tick mid") if head else None,
        _text(x, top - 18, _cut(name, 126), "name mid" + " measure" * (not axis.searched)),
    ]
    for at, text in axis.ticks:
        y = bottom - at * (bottom - top)
        # The ends stand clear of the axis, where most lines meet.
        aside = {0.0: 14.0, 1.0: -4.0}.get(at, 4.0)
        parts += [_line(x - 3, y, x + 3, y, "axis"), _text(x + 6, y + aside, text, "tick halo")]
    return element("g", element("title", axis.label), *parts)
