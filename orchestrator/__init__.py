"""Search, training and records around continual learning: from one YAML file to a champion.

`orchestrator.load("NAME@champion")` gives a trained model to be asked.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

# PEFT imports what it finds installed, and these tell of every optional kernel that they lack.
for _name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.ERROR)


if TYPE_CHECKING:
    from orchestrator.serving.find import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: a mistake is answered before anything heavy loads."""
    if name == "load":
        from orchestrator.serving import find

        return find.load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
