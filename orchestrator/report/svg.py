"""Parts of inline SVG pictures in the page's colours, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_BACKGROUND = {"champion": "k0", "front": "kf", "control": "kc"}


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        tag: Its name.
        *children: Text (escaped) and markup; None is left out.
        **attributes: Values are escaped; None leaves the attribute out. A final underscore of a
            name is dropped (`class_`), others become hyphens.

    Returns:
        The element's markup.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{words}>{join(*children)}</{tag}>" if children else f"<{tag}{words}/>")


def join(*parts: object) -> Markup:
    """Parts one after another, escaped where they are no markup; None is left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))


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
class Frame:
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
        """The place of a value from left to right."""
        low, high = self.xs
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The place of a value from top to bottom."""
        low, high = self.ys
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        inside = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * inside


def padded_range(
    values: Iterable[float], *, room: float = 0.06, zero: bool = False
) -> tuple[float, float]:
    """A range that holds the values with some room; never empty."""
    known = [v for v in values if not math.isnan(v)] + ([0.0] if zero else [])
    low, high = min(known, default=0.0), max(known, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    pad = (high - low) * room
    return low - pad, high + pad


def px(value: float) -> str:
    """A length as SVG writes it."""
    return f"{value:.1f}".removesuffix(".0")


def tick_words(value: float) -> str:
    """A number beside an axis."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "0" if text == "-0" else text


def text_at(x: float, y: float, words: object, class_: str = "", **attributes: object) -> Markup:
    """Text at a place."""
    return element("text", words, x=px(x), y=px(y), class_=class_ or None, **attributes)


def line_between(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line between two places."""
    return element("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), class_=class_)


def picture(width: float, height: float, label: str, *parts: object) -> Markup:
    """A picture of a size, with a label for those who cannot see it."""
    return element(
        "svg", *parts, viewBox=f"0 0 {px(width)} {px(height)}", role="img", aria_label=label,
        style=f"max-width:{px(width * (1.5 if width < 600 else 1.2))}px",
    )  # fmt: skip


def grid(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
    """Lines and numbers of both axes."""
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    return join(
        *(line_between(frame.left, frame.y(t), right, frame.y(t), "grid") for t in y_ticks),
        *(text_at(frame.left - 5, frame.y(t) + 4, tick_words(t), "tick end") for t in y_ticks),
        *(text_at(frame.x(t), bottom + 15, tick_words(t), "tick mid") for t in x_ticks),
        line_between(frame.left, bottom, right, bottom, "axis"),
    )


def axis_names(frame: Frame, x: str, y: str) -> Markup:
    """The names of both axes."""
    middle = (frame.top + frame.height - frame.bottom) / 2
    return join(
        text_at((frame.left + frame.width - frame.right) / 2, frame.height - 4, x, "name mid"),
        text_at(12, middle, y, "name mid", transform=f"rotate(-90 12 {px(middle)})"),
    )


def role_class(role: str, colour: int | None) -> str:
    """The page's class for a line or dot: its own colour, or that of the background."""
    return f"k{colour}" if colour is not None else _BACKGROUND.get(role, "ko")


def cut_to(name: str, room: float) -> str:
    """A name cut to the room that there is."""
    fits = max(1, int(room / 6.2))
    return name if len(name) <= fits else name[: max(1, fits - 1)] + "…"
