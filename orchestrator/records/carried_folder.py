"""What a finished trial leaves beside its adapter, so that a further task can be learnt after it.

`weights.safetensors` are the trained tensors as an engine holds them: an adapter that is saved for
use may have another form (O-LoRA's is put together, PiSSA's has twice the rank).
`retention.safetensors` is what the retention carries from task to task, where it carries anything.
`carried.json` says whose they are. The folder is sealed, and the journal holds its hash.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.system.durable import half, put, remove
from orchestrator.system.seals import Maker, seal

WEIGHTS_FILE = "weights.safetensors"
RETENTION_FILE = "retention.safetensors"
ABOUT_FILE = "carried.json"
SMALL = 64 * 2**20
"""Bytes. What is larger is kept of a sweep's champion and front alone, once there is a verdict."""


def write_carried(
    target: Path, checkpoint: Path, maker: Maker, about: Mapping[str, Any]
) -> int | None:
    """Keep of a trial's last checkpoint what a further task begins from; whole or not at all.

    Args:
        target: Its place; what is there is replaced.
        checkpoint: The checkpoint after the last task.
        maker: Whose work it is.
        about: What is to be known of it, as JSON.

    Returns:
        Bytes; None where the checkpoint holds no trained tensors, so that nothing is kept.

    Raises:
        OSError: If the disk refuses.
    """
    files = [checkpoint / name for name in (WEIGHTS_FILE, RETENTION_FILE)]
    if not files[0].is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    with half(target) as fresh:
        fresh.mkdir()
        for file in files:
            if file.is_file():
                shutil.copyfile(file, fresh / file.name)
        text = json.dumps(dict(about), indent=1)
        (fresh / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")
        seal(fresh, maker)
        remove(target)
        put(fresh, target)
    return carried_bytes(target)


def carried_bytes(folder: Path) -> int:
    """How large the tensors of such a folder are, in bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
