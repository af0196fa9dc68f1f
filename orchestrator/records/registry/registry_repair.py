"""A damaged `registry.jsonl`: what a crash cut short is removed, anything else is only described.

Nothing is rebuilt from half of a history: who is champion would be a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.errors import RegistryError
from orchestrator.records.faults.vouched_lines import Vouched, vouched_lines
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import REGISTRY_NAME, open_registry, read_changes
from orchestrator.records.registry.standing import Standing
from orchestrator.system.formatting import count, moment

_MOST_NAMED = 10
"""Champions that a message names."""


@dataclass(frozen=True)
class RegistryRepair:
    """What a registry holds, and what was done to it."""

    lines: int
    cut: int
    """Bytes of a line that was never finished, removed from its end; 0: none."""


def repair_registry(storage: Path) -> RegistryRepair | None:
    """Let the registry of a storage folder end with a whole line.

    Args:
        storage: The storage folder.

    Returns:
        What was done; None where there is no registry.

    Raises:
        RegistryError: A line before the end is damaged: the message says which, what the others
            say, and what can be done. Nothing was changed. Or the file cannot be written, or
            another process goes on writing it.
    """
    path = storage / REGISTRY_NAME
    if not path.is_file():
        return None
    try:
        read_changes(storage)
    except RegistryError:
        raise RegistryError(_damage(path)) from None
    before = path.stat().st_size
    with open_registry(storage):
        content = path.read_bytes()
    return RegistryRepair(content.count(b"\n"), before - len(content))


def _damage(path: Path) -> str:
    vouched = vouched_lines(path.read_bytes())
    lost = [str(number + 1) for number in vouched.lost]
    # One that was swapped or doubled is not lost, only in the wrong place; a last line is vouched
    # for by the one before it alone.
    what = "its lines are out of order"
    if lost:
        what = f"damaged, missing or vouched for by none: line {', '.join(lost)}"
    said = _champions(vouched)
    shown = "; ".join(said[:_MOST_NAMED])
    if len(said) > _MOST_NAMED:
        shown += f"; and {len(said) - _MOST_NAMED} more"
    return (
        f"{path}: {what}. {count(len(vouched.lines), 'line')} can be read"
        f"{', and by them: ' + shown if shown else ''}. Nothing was changed. Restore the file from "
        "a copy; or move it away: the verdicts are then read from the journals again, and each "
        "promotion that is to stay is made again with `orchestrate champion promote` (the moved "
        "file goes on saying who made it and why)."
    )


def _champions(vouched: Vouched) -> list[str]:
    """By name, who is champion as far as the lines that can be read say it."""
    read = (Change.from_line(line) for _, line in sorted(vouched.lines.items()) if _is_whole(line))
    changes: Sequence[Change] = [change for change in read if change is not None]
    found: list[str] = []
    for name in dict.fromkeys(change.name for change in changes):
        current = Standing.of(name, changes).current
        if current is not None and current.adapter is not None:
            since = f"{current.event.replace('_', ' ')} by {current.who} on {moment(current.time)}"
            found.append(f"{name}@champion was {current.adapter.reference} ({since})")
    return found


def _is_whole(line: dict[str, object]) -> bool:
    return isinstance(line.get("name"), str)
