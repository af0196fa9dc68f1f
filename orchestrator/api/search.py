"""The trials of all sweeps of a storage folder as one data frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from orchestrator.registry.index.index import open_index
from orchestrator.registry.query.fields import Field

_NUMBERS = frozenset(("measure", "interval", "score"))
"""The groups of fields that are numbers, NaN where they were not measured."""


def search(
    where: str | None = None,
    *,
    storage: Path | str = "./runs",
    sweep: str | Sequence[str] | None = None,
    order: str | Sequence[str] = (),
    limit: int | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Find trials of one, several or all sweeps, in the language of `runs list --filter`.

    Args:
        where: For example `gain > 0.05 and (method.adapter.kind = curlora or state = STOPPED)`;
            None: every trial.
        storage: The folder that sweeps are kept in.
        sweep: Only of these; None: of all.
        order: By what, `-` before a name: largest first. Trials without a value come last.
        limit: How many at most; None: all.
        columns: Which; None: all that any of the sweeps has.

    Returns:
        A row for each trial by the names of its sweep and its own. Measures, intervals and scores
        are float64, NaN where they were not measured; times are in seconds since the epoch.

    Raises:
        QueryError: A name is unknown, or `where` is no filter; the message shows the place.
        UsageError: There is no such sweep.
    """
    names = [order] if isinstance(order, str) else list(order)
    with open_index(storage) as index:
        fields = {field.name: field for field in index.fields(sweep)}
        wanted = list(fields) if columns is None else list(columns)
        page = index.search(
            where, order=names, limit=limit, sweep=sweep,
            columns=list(dict.fromkeys(["sweep", "trial", *wanted])),
        )  # fmt: skip
    frame = pd.DataFrame(page.rows, columns=list(page.columns))
    numbers = [name for name in page.columns if _is_number(fields.get(name))]
    return frame.astype(dict.fromkeys(numbers, float)).set_index(["sweep", "trial"])


def _is_number(field: Field | None) -> bool:
    return field is not None and field.group in _NUMBERS
