"""The trade-off of two measures as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.report.figures import Dot, TradeOff, measure_words
from orchestrator.report.svg import (
    Frame,
    axis_names,
    element,
    grid,
    join,
    line_between,
    padded_range,
    picture,
    px,
    role_class,
    text_at,
    ticks,
)
from orchestrator.system.formatting import show, show_interval

_STRONG = ("champion", "front")
_MANY = 60
_MARKERS = ("circle", "square", "diamond", "triangle")


def trade_off(figure: TradeOff, colours: dict[str, int]) -> Markup:
    """Gain against what was lost, with the interval of the gain as a bar.

    Args:
        figure: What to draw.
        colours: The colours of the trials that stand out.

    Returns:
        An SVG element.
    """
    bounds = [bound for dot in figure.dots for bound in dot.interval or (dot.y, dot.y)]
    frame = Frame(
        460, 350, 52, 14, 12, 40,
        padded_range([dot.x for dot in figure.dots], room=0.09, zero=figure.base),
        padded_range(bounds, zero=figure.base),
    )  # fmt: skip
    groups = sorted({dot.group for dot in figure.dots})
    parts = [
        grid(frame, ticks(*frame.xs), ticks(*frame.ys)),
        axis_names(frame, f"{measure_words(figure.x)} (less is better)", measure_words(figure.y)),
        line_between(frame.left, frame.y(0), frame.width - frame.right, frame.y(0), "zero"),
        line_between(frame.x(0), frame.top, frame.x(0), frame.height - frame.bottom, "zero"),
    ]
    places = {dot.name: (frame.x(dot.x), frame.y(dot.y)) for dot in figure.dots}
    if len(figure.best) > 1:
        path = " ".join(f"{px(places[n][0])},{px(places[n][1])}" for n in figure.best)
        parts.append(element("polyline", points=path, class_="best"))
    # What stands out lies above the many, which are faint where they are very many.
    ordered = sorted(figure.dots, key=lambda dot: (dot.name in colours, dot.role in _STRONG))
    faint = len(ordered) > _MANY
    parts += [
        _dot(frame, dot, groups.index(dot.group), colours.get(dot.name), faint=faint)
        for dot in ordered
    ]
    parts.append(_base_mark(frame))
    parts.append(_dot_names(frame, ordered, places, colours))
    label = f"{measure_words(figure.y)} against {measure_words(figure.x)} of each trial"
    return picture(frame.width, frame.height, label, *parts)


def _dot(frame: Frame, dot: Dot, group: int, colour: int | None, *, faint: bool) -> Markup:
    x, y = frame.x(dot.x), frame.y(dot.y)
    title = (
        f"{dot.name} ({dot.group}): gain {show(dot.y, signed=True)} {show_interval(dot.interval)}"
    )
    title += f", {show(dot.x, signed=True)}"
    bar = None
    faint = faint and dot.role not in _STRONG
    if dot.interval and not faint:
        low, high = frame.y(dot.interval[0]), frame.y(dot.interval[1])
        bar = join(
            line_between(x, low, x, high, "bar"), line_between(x - 3, low, x + 3, low, "bar"),
            line_between(x - 3, high, x + 3, high, "bar"),
        )  # fmt: skip
    filled = "" if dot.role in _STRONG else " open"
    ring = (
        element("circle", cx=px(x), cy=px(y), r="10", class_="ring")
        if dot.role == "champion"
        else None
    )
    size = 3.5 if dot.role == "repeat" or faint else 5
    return element(
        "g", element("title", title), bar, ring, marker(x, y, group, size),
        class_=role_class(dot.role, colour) + filled, data_trial=dot.name,
    )  # fmt: skip


def marker(x: float, y: float, group: int, size: float = 5) -> Markup:
    """The marker of an adapter's kind, by its number."""
    shape = _MARKERS[group % len(_MARKERS)]
    if shape == "circle":
        return element("circle", cx=px(x), cy=px(y), r=px(size), class_="dot")
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
        "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    }[shape]
    points = " ".join(f"{px(x + a * size * 0.9)},{px(y + b * size * 0.9)}" for a, b in corners)
    return element("polygon", points=points, class_="dot")


def _base_mark(frame: Frame) -> Markup:
    x, y = frame.x(0), frame.y(0)
    return element(
        "g",
        element("title", "untouched base"),
        line_between(x - 5, y - 5, x + 5, y + 5, "cross"),
        line_between(x - 5, y + 5, x + 5, y - 5, "cross"),
        text_at(x + 8, y + 14, "base", "label quiet"),
    )


def _dot_names(
    frame: Frame,
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
                parts.append(text_at(x + dx, y + dy, dot.name, f"label {anchor}{quiet}".strip()))
                break
    return join(*parts)


def _overlap(
    mine: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return mine[0] < other[2] and other[0] < mine[2] and mine[1] < other[3] and other[1] < mine[3]
