"""The outcome of one check of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do, empty for PASS."""


def worst(checks: list[Check]) -> Status:
    """The worst status among the checks."""
    found = {check.status for check in checks}
    return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "PASS"
