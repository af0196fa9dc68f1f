"""What is counted over all trials of a sweep, from the rows that the index has of them."""

from __future__ import annotations

import sqlite3
from typing import Any

from orchestrator.measures.pareto import covered
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.index.fields import known_fields
from orchestrator.registry.index.sweep_values import Counted


def counted(database: sqlite3.Connection, sweep: int, state: SweepState) -> Counted:
    """What is counted over a sweep's trials, see `SweepState.best` for the best of them."""
    rows = database.execute(
        "SELECT state, count(*), sum(searched), sum(core_seconds), sum(seconds) FROM trial "
        "WHERE sweep = ? GROUP BY state",
        (sweep,),
    ).fetchall()
    champion = state.champion
    chosen = "name = ?2" if champion is not None else (
        "?2 IS NULL AND searched AND over AND NOT joint AND searched_gain IS NOT NULL"
    )  # fmt: skip
    best = database.execute(
        f"SELECT name, gain FROM trial WHERE sweep = ?1 AND {chosen} "
        "ORDER BY searched_gain DESC, number LIMIT 1",
        (sweep, champion),
    ).fetchone()
    held = [cores for *_, cores, _ in rows if cores is not None]
    return Counted(
        {name: count for name, count, *_ in rows},
        sum(searched for _, _, searched, *_ in rows),
        best,
        sum(seconds or 0.0 for *_, seconds in rows),
        sum(held) if held else None,
        _hypervolume(database, sweep, state.experiment.get("objectives")),
    )


def _hypervolume(database: sqlite3.Connection, sweep: int, objectives: Any) -> float | None:
    """How much of what lies between the worst and the best of each objective trials cover."""
    known, wanted = known_fields(database, [sweep]), dict(objectives or {})
    fields = [known[name] for name in wanted if name in known and known[name].block is not None]
    if len(fields) < max(1, len(wanted)):
        return None  # no trial has such a measure
    tables = "".join(
        f" JOIN values_{block} ON values_{block}.trial = trial.id"
        for block in sorted({field.block for field in fields if field.block is not None})
    )
    there = " AND ".join(f"{field.sql} IS NOT NULL" for field in fields)
    rows = database.execute(
        f"SELECT {', '.join(field.sql for field in fields)} FROM trial{tables} "
        f"WHERE trial.sweep = ? AND trial.searched AND trial.over AND {there}",
        (sweep,),
    ).fetchall()
    return covered([dict(zip(wanted, row, strict=True)) for row in rows], wanted)
