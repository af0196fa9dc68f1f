"""What the environment tells the client of the model hub."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.system.environment import can_hold_files


def hub_cache() -> Path:
    """Where the hub's client keeps what it has downloaded, as it finds it itself."""
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.path.expandvars(home)).expanduser()


def hub_hindered() -> str:
    """What in the environment keeps models and data of the hub from this machine.

    Returns:
        Sentences with their cures; empty where nothing does.
    """
    found: list[str] = []
    offline = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
               if os.environ.get(name, "").upper() in _YES]  # fmt: skip
    if offline:
        found.append(f"{', '.join(offline)} says that the hub is not to be asked; unset it.")
    places = {"HF_HOME": hub_cache()} | {
        name: Path(os.environ[name]).expanduser()
        for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE")
        if os.environ.get(name)
    }
    for name, folder in places.items():
        if not can_hold_files(folder.absolute()):
            found.append(
                f"The cache {folder} cannot be written; set {name} to a folder that you can write "
                "to."
            )
    return " ".join(found)


_YES = {"1", "ON", "YES", "TRUE"}
