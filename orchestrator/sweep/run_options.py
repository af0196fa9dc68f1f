"""How a sweep is run, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.records.event import Line


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run, as opposed to what it runs."""

    address: str | None = None
    """Address of a running Ray cluster; None starts a local one."""
    new: bool = False
    """Start another sweep of the same name instead of continuing the last."""
    retry_failed: bool = False
    """Run trials that had failed once more, from their beginning."""
    data_root: Path | None = None
    began: float | None = None
    """When what its time budget counts began, by `time.monotonic`; None: when it is run."""
    scheduler: Any = None
    """A scheduler of `ray.tune` that may stop trials. After each task they report `gain` over the
    untouched base and `tasks_learnt`."""
    kind: Literal["sweep", "run", "extension", "reproduction"] = "sweep"
    """`run` is one trial with the experiment's own method, `search` ignored; `extension` goes on
    from a trial of another sweep (`experiment.extends`); `reproduction` trains one again."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left in its journal."""

    folder: Path
    lines: list[Line]
    complaint: str = ""
    """What is to be mended although the sweep is finished; empty where nothing is."""
