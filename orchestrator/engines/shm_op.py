"""DeepSpeed's shared-memory communication op, which CPU workers compile on first use."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OP_NAME = "deepspeed_shm_comm"
"""DeepSpeed's shared-memory communication op, compiled where it is first used."""
BUILD_SECONDS = 600
"""No build takes longer."""


def keep_in_environment() -> None:
    """Let torch compile into this Python environment, unless the user has named a folder.

    Torch's own place is the home folder, where two environments would compile over each other
    again and again, and a build that was killed in one stops the workers of all.
    """
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))


def op_folder() -> Path:
    """Where torch keeps DeepSpeed's compiled communication op."""
    keep_in_environment()
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen) / OP_NAME
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root()) / OP_NAME


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


def build_communication_op() -> str:
    """Compile DeepSpeed's shared-memory operation for CPU workers, once a machine.

    Returns:
        What was done, in words.
    """
    keep_in_environment()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.comm.torch import build_shm_op

    built: Callable[..., Any] | Any = build_shm_op()
    return "built" if built is not None else "not needed on this accelerator"
