"""Results kept by what they follow from: tokenised tasks, and what the untouched base scores.

An entry is one JSON file named by the hash of its key. It is written whole under another name and
then renamed, so that any number of sweeps may write the same entry at once; its own hash stands in
it, so that a damaged one is seen, computed again and replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from orchestrator.system import durable
from orchestrator.system.stores.opening import bring_file

FORMAT = 3
"""Raised when what is computed from the same key changes."""


class ContentCache:
    """A folder of entries; a cache that cannot be written is no reason to stop."""

    def __init__(self, folder: Path) -> None:
        """Name the folder.

        Args:
            folder: Made with its first entry.
        """
        self._folder = folder

    def read(self, kind: str, key: Any) -> Any | None:
        """An entry, or None when there is none that is whole.

        Args:
            kind: What is kept, such as "task"; a folder of its own.
            key: A JSON document of everything that the entry follows from.

        Returns:
            The JSON document that was written.
        """
        path = self._path(kind, key)
        try:
            if not path.is_file():
                bring_file(path)
            text = path.read_text(encoding="utf-8")
            digest, _, body = text.partition("\n")
            if digest != _sha256(body):
                return None
            entry = json.loads(body)
        except (OSError, ValueError):
            return None
        return entry["value"] if entry["key"] == json.loads(_text(_versioned(key))) else None

    def write(self, kind: str, key: Any, value: Any) -> bool:
        """Keep an entry.

        Args:
            kind: What is kept.
            key: A JSON document of everything that the entry follows from.
            value: A JSON document.

        Returns:
            Whether it was written; a full or read-only disk is not an error here.
        """
        path = self._path(kind, key)
        body = _text({"key": _versioned(key), "value": value})
        try:
            durable.write(path, f"{_sha256(body)}\n{body}")
        except OSError:
            return False
        return True

    def _path(self, kind: str, key: Any) -> Path:
        return self._folder / kind / f"{_sha256(_text(_versioned(key)))[:32]}.json"


def user_cache() -> Path:
    """The folder for what is kept between sweeps, whatever their storage."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "curlora-orchestrator"


def _versioned(key: Any) -> dict[str, Any]:
    return {"format": FORMAT, "of": key}


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
