"""Choosing, ordering and writing out the trials of a sweep: `--filter`, `--sort` and CSV.

A filter is one or several comparisons joined by `and`, for example

    gain > 0.05 and method.adapter.kind = curlora and state != FAILED

Names are the columns of `orchestrator.api.trial_rows`: `trial`, `state`, `of`, measures, the ends
of intervals, and settings by their dotted path. A comparison with a value that was not measured or
not set is false, `!=` included.
"""

from __future__ import annotations

import csv
import io
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.api.trial_rows import INTERVALS, WORDS, columns, trial_rows
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.strict_json import is_number
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import suggestion


class QueryError(UserError, ValueError):
    """A filter or an order that cannot be used; the message says why."""


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "==": operator.eq,
    "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_COMPARISON = re.compile(
    r"""\s*(?P<name>[\w.\-]+)\s*(?P<sign><=|>=|!=|==|=|<|>)\s*
        (?P<value>"[^"]*"|'[^']*'|[^\s<>=!"']+)\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"and(?=\s)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Comparison:
    """One condition of a filter."""

    name: str
    sign: str
    value: str
    quoted: bool

    def holds(self, found: Any) -> bool:
        """Whether a trial's value satisfies it; numbers are compared as numbers."""
        if found is None or (isinstance(found, float) and math.isnan(found)):
            return False
        if is_number(found) and not self.quoted:
            return _COMPARISONS[self.sign](float(found), float(self.value))
        mine = str(found).lower() if isinstance(found, bool) else str(found)
        wanted = self.value
        if self.name == "state" or isinstance(found, bool):
            mine, wanted = mine.lower(), wanted.lower()
        return _COMPARISONS[self.sign](mine, wanted)


def parse_filter(text: str) -> list[Comparison]:
    """The comparisons of a filter.

    Args:
        text: For example `gain>0.05 and method.adapter.kind=curlora`.

    Returns:
        At least one comparison.

    Raises:
        QueryError: If it is not comparisons joined by `and`.
    """
    found: list[Comparison] = []
    at = 0
    while True:
        match = _COMPARISON.match(text, at)
        if match is None:
            raise QueryError(
                f"`--filter` should be comparisons joined by `and`, for example "
                f"'gain>0.05 and method.adapter.kind=curlora', got {text!r}, which is not one from "
                f"{text[at : at + 20]!r} on. Text with spaces is quoted."
            )
        value = match["value"]
        quoted = value[0] in "\"'"
        found.append(
            Comparison(
                match["name"], match["sign"], value.strip("\"'") if quoted else value, quoted
            )
        )
        at = match.end()
        if at == len(text):
            return found
        joined = _AND.match(text, at)
        if joined is None:
            raise QueryError(
                f"`--filter`: {text[at:]!r} does not follow the comparison before it. Comparisons "
                "are joined by `and`; there is no `or`, and no brackets."
            )
        at = joined.end()


def select(
    view: SweepState, *, conditions: str | None = None, order: str | None = None
) -> list[TrialRecord]:
    """The trials that a filter keeps, in the order asked for.

    Args:
        view: The sweep.
        conditions: A filter; None keeps every trial.
        order: A name, ascending, or with `-` before it descending; None is the order of proposal.
            Trials without a value come last.

    Returns:
        Trials.

    Raises:
        QueryError: If the filter is not one, names nothing, or compares unlike things.
    """
    known = columns(view)
    rows = {row["trial"]: row for row in trial_rows(view)}
    trials = view.trials
    for comparison in parse_filter(conditions) if conditions else []:
        _check_name("--filter", comparison.name, known, view)
        found = [(trial, rows[trial.name].get(comparison.name)) for trial in trials]
        if any(is_number(value) for _, value in found):
            _check_number(comparison)
        trials = [trial for trial, value in found if comparison.holds(value)]
    if order is not None:
        name = order.removeprefix("-")
        _check_name("--sort", name, known, view)
        values = {trial: row.get(name) for trial, row in rows.items()}
        trials = _ordered(trials, values, falling=order.startswith("-"))
    return trials


def _check_name(option: str, name: str, known: list[str], view: SweepState) -> None:
    if name in known:
        return
    # The last part of a path is what people remember: `kind` for `method.adapter.kind`.
    ends = [path for path in known if path.endswith(f".{name}")]
    hint = f" Did you mean {ends[0]!r}?" if ends else suggestion(name, known)
    raise QueryError(
        f"`{option}`: sweep {view.name!r} has no measure or setting {name!r}.{hint} "
        f"Names are {', '.join(WORDS)}, the measures {', '.join(NATURAL_DIRECTIONS)}, the ends of "
        f"intervals {', '.join(INTERVALS)}, and settings by their dotted path (`orchestrate runs "
        "show SWEEP TRIAL` lists them)."
    )


def _check_number(comparison: Comparison) -> None:
    try:
        float(comparison.value)
    except ValueError:
        if comparison.sign in {"=", "==", "!="} and comparison.quoted:
            return
        raise QueryError(
            f"`--filter`: {comparison.name} is a number, so it should be compared with one, "
            f"got {comparison.value!r}."
        ) from None


def _ordered(
    trials: list[TrialRecord], values: Mapping[str, Any], *, falling: bool
) -> list[TrialRecord]:
    def missing(trial: TrialRecord) -> bool:
        value = values[trial.name]
        return value is None or (isinstance(value, float) and math.isnan(value))

    def key(trial: TrialRecord) -> tuple[int, float, str]:
        value = values[trial.name]
        return (0, float(value), "") if is_number(value) else (1, 0.0, str(value))

    present = sorted((t for t in trials if not missing(t)), key=key, reverse=falling)
    return present + [trial for trial in trials if missing(trial)]


def to_csv(view: SweepState, trials: Iterable[TrialRecord]) -> str:
    """Trials as CSV (RFC 4180): a heading, then a line per trial, lines ended by CRLF.

    Args:
        view: The sweep.
        trials: Which of its trials.

    Returns:
        The text; what was not measured or not set is an empty cell.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(view), lineterminator="\r\n")
    writer.writeheader()
    for row in trial_rows(view, trials):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | Mapping):
        return json.dumps(value)
    return "" if value is None else str(value)
