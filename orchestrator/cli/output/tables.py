"""Tables for a terminal in the house style. A cell that was not measured prints "-"."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def table(title: str, *columns: str, left: Iterable[str] = ()) -> Table:
    """An empty table in the house style: numbers to the right, the columns in `left` to the left.

    Args:
        title: What the table shows.
        *columns: Headings.
        left: The headings of columns that hold words.

    Returns:
        The table.
    """
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    words = set(left)
    for name in columns:
        made.add_column(name, justify="left" if name in words else "right", overflow="fold")
    return made


def natural_width(made: Table) -> int:
    """Columns that a table needs where it may be as wide as it likes."""
    return Console(width=10_000).measure(made).maximum


def add_cells(target: Table, cells: Iterable[str], style: str = "") -> None:
    """Add a row of plain text."""
    # `Text`, because a plain string such as "[+0.1, +0.2]" would be read as markup.
    target.add_row(*(Text(cell) for cell in cells), style=style)


def print_on(console: Console, shown: RenderableType) -> None:
    """Print what a `render_...` function made; long commands and paths are never cut."""
    console.print(shown, crop=False)
