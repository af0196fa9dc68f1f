"""Journals written to files as a driver writes them, from the lines of a made-up sweep."""

import json
from pathlib import Path

from orchestrator.records.journal_lines import JOURNAL_NAME, sealed
from orchestrator.system.strict_json import without_nan


def content(lines):
    """The bytes of a journal, each line with its sum; numbered as they come."""
    before, parts = b"", []
    for n, line in enumerate(lines):
        document = {"n": n, **{k: v for k, v in line.items() if k != "n"}}
        text = json.dumps(without_nan(document), separators=(",", ":")).encode()
        before = sealed(text, before)
        parts.append(before + b"\n")
    return parts


def write(storage: Path, name: str, lines) -> Path:
    """Write a whole journal; gives the sweep's folder."""
    folder = storage / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL_NAME).write_bytes(b"".join(content(lines)))
    return folder
