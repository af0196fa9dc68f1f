"""Files that others may read as far as the user lets them.

safetensors (from 0.8) writes through a temporary file, which is its owner's alone, whatever the
umask says: a server under another user could not read what was exported for it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the permissions of any new file.

    Args:
        path: Where to; replaced if it is there.
        tensors: On the CPU, contiguous, and no two of one storage.
    """
    save_file(dict(tensors), path, metadata={"format": "pt"})
    open_to_others(path)


def open_to_others(place: Path) -> None:
    """Give safetensors files the permissions that `open` gives a new file: what the umask leaves.

    Args:
        place: A file, or a folder whose safetensors files (not those of folders in it) are meant.
    """
    mask = _umask()
    for path in place.glob("*.safetensors") if place.is_dir() else (place,):
        path.chmod(0o666 & ~mask)


def _umask() -> int:
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.is_file() else ():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    mask = os.umask(0o077)  # it can only be read by setting it; nothing is opened up meanwhile
    os.umask(mask)
    return mask
