"""Search, training and records around continual learning: from one YAML file to a champion.

`orchestrator.run_sweep("x.yaml")` runs a sweep, `orchestrator.open_sweep("runs/demo")` gives its
trials as tables, `orchestrator.search("gain > 0.1")` finds trials of all sweeps, and
`orchestrator.load("NAME@champion")` a trained model to be asked.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

# PEFT imports what it finds installed, and these tell of every optional kernel that they lack.
for _name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.ERROR)


if TYPE_CHECKING:
    from orchestrator.api.champions import (
        champion,
        champion_history,
        compare,
        promote,
        rollback,
    )
    from orchestrator.api.diff import diff
    from orchestrator.api.run import run_sweep
    from orchestrator.api.search import search
    from orchestrator.api.select import select
    from orchestrator.api.sweep import Sweep, open_sweep
    from orchestrator.selection.request import Request
    from orchestrator.serving.find import load
    from orchestrator.spec.experiment import Experiment
    from orchestrator.sweep.race_scheduler import RaceScheduler

__all__ = [
    "Experiment", "RaceScheduler", "Request", "Sweep", "champion", "champion_history", "compare",
    "diff", "load", "open_sweep", "promote", "rollback", "run_sweep", "search", "select",
]  # fmt: skip

_PLACES = {
    "Experiment": "orchestrator.spec.experiment",
    "RaceScheduler": "orchestrator.sweep.race_scheduler",
    "Request": "orchestrator.selection.request",
    "Sweep": "orchestrator.api.sweep",
    "champion": "orchestrator.api.champions",
    "champion_history": "orchestrator.api.champions",
    "compare": "orchestrator.api.champions",
    "diff": "orchestrator.api.diff",
    "load": "orchestrator.serving.find",
    "open_sweep": "orchestrator.api.sweep",
    "promote": "orchestrator.api.champions",
    "rollback": "orchestrator.api.champions",
    "run_sweep": "orchestrator.api.run",
    "search": "orchestrator.api.search",
    "select": "orchestrator.api.select",
}


def __getattr__(name: str) -> Any:
    """A name of the Python API, imported when it is asked for, as commands load this module too."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
