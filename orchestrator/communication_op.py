"""DeepSpeed's shared-memory communication op, which CPU workers compile on first use."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

OP_NAME = "deepspeed_shm_comm"
"""DeepSpeed's shared-memory communication op, compiled where it is first used."""
BUILD_SECONDS = 600
"""No build takes longer."""


def op_folder() -> Path:
    """Where torch keeps DeepSpeed's compiled communication op."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen) / OP_NAME
    import torch

    cuda = torch.version.cuda
    device = "cpu" if cuda is None else "cu" + cuda.replace(".", "")
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "torch_extensions" / f"{python}_{device}" / OP_NAME


def forgotten_lock() -> Path | None:
    """The lock of a build whose process is gone: every worker would wait for it for ever.

    Returns:
        The file, None where there is none that is older than any build.
    """
    lock = op_folder() / "lock"
    try:
        age = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
    return lock if age > BUILD_SECONDS else None
