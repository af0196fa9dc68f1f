"""What the benchmarks share: facts of the machine, tables, and the sections of the page."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "benchmarks" / "RESULTS.md"


def machine(packages: Sequence[str] = ("torch", "peft", "transformers", "ray")) -> dict[str, Any]:
    """On what is measured.

    Args:
        packages: Whose versions are told.

    Returns:
        `date` (UTC), `cpu`, `cores`, `python`, and the version of each package by its name, "none"
        where it is not installed.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: installed_version(name) for name in packages},
    }


def installed_version(package: str) -> str:
    """A package's version; "none" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between a section's markers.

    Args:
        name: Of the section.
        text: What it becomes.
        page: A Markdown file.

    Raises:
        ValueError: The page does not have the two markers exactly once.
    """
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)"
    old = page.read_text(encoding="utf-8")
    new, count = re.subn(pattern, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", old, flags=re.DOTALL)
    if count != 1:
        raise ValueError(
            f"{page} must have one block <!-- {name} --> ... <!-- end {name} -->, found {count}."
        )
    page.write_text(new, encoding="utf-8")
