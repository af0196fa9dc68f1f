"""Pieces that the sections of the page share: tables, lists of facts, cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.markup import Markup, element, join
from orchestrator.system.formatting import show

SIGNED = {
    "gain",
    "forgetting",
    "forgetting_from_learned",
    "forgetting_vs_base",
    "probe_drift",
    "backward_transfer",
    "forward_transfer",
}
"""Measures that are differences, and are written with their sign."""


def fact_list(facts: Mapping[str, object]) -> Markup:
    """Names and values one under the other; empty values are left out."""
    pairs = (
        join(element("dt", name), element("dd", value))
        for name, value in facts.items()
        if value not in {"", None}
    )
    return element("dl", *pairs, class_="facts")


def scrolled(label: str, *content: object) -> Markup:
    """Content that may be wider than the page, reachable by keyboard."""
    return element("div", *content, class_="scroll", tabindex="0", role="region", aria_label=label)


def plain_table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[object]]],
    *,
    words: Iterable[int] = (),
    class_: str | None = None,
) -> Markup:
    """A table in a frame of its own.

    Args:
        caption: What it shows; may be empty.
        heads: Headings.
        rows: The row's class and its cells, of which the first names the row.
        words: Columns of text, which stand to the left.
        class_: Of the table.

    Returns:
        Markup.
    """
    left = {0, *words}
    made = element(
        "table",
        element("caption", caption) if caption else None,
        element(
            "thead",
            element(
                "tr",
                *(
                    element("th", head, scope="col", class_="w" if i in left else None)
                    for i, head in enumerate(heads)
                ),
            ),
        ),
        element(
            "tbody",
            *(
                element(
                    "tr",
                    element("th", cells[0], scope="row"),
                    *(
                        element(
                            "td",
                            cell,
                            class_=("w wrap" if len(str(cell)) > 40 else "w")
                            if i in left
                            else None,
                        )
                        for i, cell in enumerate(cells[1:], 1)
                    ),
                    class_=kind or None,
                )
                for kind, cells in rows
            ),
        ),
        class_=class_,
    )
    return scrolled(caption or heads[0], made)


def measure_cell(trial: TrialRecord, name: str) -> str:
    """A measure as the tables write it."""
    digits = 0 if name.startswith("cost") else 3
    return show(trial.measure(name), signed=name in SIGNED, digits=digits)


def trial_link(name: str) -> Markup:
    """A trial's name that leads to its matrix."""
    return element("a", name, href=f"#matrix-{name}")
