"""What a sweep was made of, and whether it still is: settings, data, base model, code.

Trials of one sweep are compared with one another, so a sweep is continued only with what it was
begun with.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.experiment import LoadedExperiment
from orchestrator.journal import Journal


class ChangedSweepError(ValueError):
    """Something that its trials depend on has changed since a sweep began."""


_MAY_CHANGE = {
    ("search", "trials"),
    ("search", "max_concurrent"),
    ("storage",),
    ("tracking", "uri"),
    ("resources", "max_failures"),
}
"""Fields that may differ when a sweep is continued: they change no trial's result."""


def check_same(loaded: LoadedExperiment, journal: Journal) -> None:
    """Refuse to continue a sweep with another experiment.

    Args:
        loaded: The experiment as it is now.
        journal: The sweep's journal.

    Raises:
        ChangedSweepError: If they differ, with the differences.
    """
    opened = journal.lines[0]
    old = {"experiment": opened["experiment"], "tasks": opened["tasks"]}
    new = {
        "experiment": loaded.experiment.model_dump(mode="json"),
        "tasks": {n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
    }
    differences = [
        (path, a, b)
        for path, a, b in _differences(old, new, ())
        if path[1:] not in _MAY_CHANGE and path[-1] not in {"description", "source"}
    ]
    if differences:
        shown = "\n".join(
            f"  {'.'.join(path[1:] if path[0] == 'experiment' else path)}: "
            f"{_short(old_value)} -> {_short(new_value)}"
            for path, old_value, new_value in differences[:10]
        )
        raise ChangedSweepError(
            f"{loaded.origin} differs from the sweep in {journal.folder}, whose trials could not "
            f"be compared with new ones:\n{shown}\nStart another sweep with --new, or undo the "
            "change to continue this one."
        )


def _differences(
    old: Any, new: Any, path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted({*old, *new}, key=str)
            for difference in _differences(old.get(key), new.get(key), (*path, str(key)))
        ]
    return [] if old == new else [(path, old, new)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_provenance(journal: Journal, provenance: Mapping[str, Any]) -> None:
    """Refuse to continue a sweep whose data or base model have changed.

    Args:
        journal: The sweep's journal.
        provenance: Hashes as they are now.

    Raises:
        ChangedSweepError: If they differ from the journal's, naming what.
    """
    old = journal.lines[0]["provenance"]
    changed = [name for name, digest in provenance["data"].items() if old["data"][name] != digest]
    if old["base"]["sha256"] != provenance["base"]["sha256"]:
        changed.insert(0, "the base model's weights")
    if changed:
        raise ChangedSweepError(
            f"Since the sweep in {journal.folder} began, this has changed: {', '.join(changed)}. "
            "Its trials could not be compared with new ones; start another sweep with --new."
        )


def provenance_now() -> dict[str, Any]:
    """Code, packages and machine, for the records."""
    packages = ("torch", "transformers", "peft", "ray", "deepspeed", "mlflow", "optuna")
    return {
        "code": {"version": _version("curlora-orchestrator"), "commit": _commit()},
        "packages": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this code when it runs from a checkout, `+` when it was changed since."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if changes else ''}" if commit else None
