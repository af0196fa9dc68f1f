"""What a sweep was made of, and whether it still is: settings, data, base model, code.

Trials of one sweep are compared with one another, so a sweep is continued only with what it was
begun with.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from curlora_kinds.plugins import LOADED
from orchestrator.base.files import UNKNOWN
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_files import TaskFileError, parse_task
from orchestrator.system.package_versions import OF_WORKERS, package_version
from orchestrator.system.strict_json import fingerprint


class ChangedSweepError(ValueError):
    """Something that its trials depend on has changed since a sweep began."""


_MAY_CHANGE = {
    ("search", "trials"),
    ("search", "max_concurrent"),
    ("search", "time_budget"),
    ("search", "compute_budget"),
    ("storage",),
    ("tracking", "uri"),
    # What its plugins are is told by the hashes of their sources.
    ("plugins",),
    ("resources", "max_failures"),
    ("resources", "max_workers"),
    ("resources", "priority"),
    # Addresses: what is there is told by hashes, see `check_provenance`.
    ("model", "name"),
    ("model", "gguf"),
    ("model", "revision"),
}
"""Fields that may differ when a sweep is continued: they change no trial's result."""
_NOT_COMPUTED_WITH = {"data", "description", "source"}
"""Fields of a task file of which the same holds: addresses, and words for people."""


def check_same(loaded: LoadedExperiment, journal: Journal) -> None:
    """Refuse to continue a sweep with another experiment.

    Args:
        loaded: The experiment as it is now.
        journal: The sweep's journal.

    Raises:
        ChangedSweepError: If they differ, with the differences.
    """
    opened = journal.lines[0]
    # Earlier versions always scored everything.
    begun = {"scoring": "full", **opened["experiment"]}
    old = {
        "experiment": _read_today(begun, Experiment.model_validate),
        "tasks": {
            name: _read_today(task, lambda document, name=name: parse_task(document, name))
            for name, task in opened["tasks"].items()
        },
    }
    new = {
        "experiment": loaded.experiment.model_dump(mode="json"),
        "tasks": {n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
    }
    differences = [
        (path, a, b) for path, a, b in _differences(old, new, ()) if not _may_change(path)
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


def _may_change(path: tuple[str, ...]) -> bool:
    part, *inner = path
    if part == "experiment":
        return tuple(inner) in _MAY_CHANGE
    return len(inner) > 1 and inner[1] in _NOT_COMPUTED_WITH


def _read_today(document: dict[str, Any], parse: Callable[[Any], BaseModel]) -> dict[str, Any]:
    """A document of the journal with the fields that were not there yet when it was written."""
    try:
        return parse(document).model_dump(mode="json")
    except (ValidationError, TaskFileError):  # of a version that meant something else
        return document


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
    """Refuse to continue a sweep whose data or base model have changed, wherever they are now.

    Args:
        journal: The sweep's journal.
        provenance: Hashes as they are now.

    Raises:
        ChangedSweepError: If they differ from the journal's, naming what.
    """
    opened = journal.lines[0]
    old = opened["provenance"]
    changed = _changed_base(old["base"], provenance["base"])
    changed += [
        name
        for name, digest in provenance["data"].items()
        if old["data"].get(name) not in {digest, _earlier_hash(opened["tasks"][name], digest)}
    ]
    if changed:
        raise ChangedSweepError(
            f"Since the sweep in {journal.folder} began, this has changed: {', '.join(changed)}. "
            "Its trials could not be compared with new ones; start another sweep with --new."
        )


def _changed_base(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if UNKNOWN in {old["sha256"], new["sha256"]}:
        # Nothing but its name tells which one it is.
        same = all(old.get(key) == new.get(key) for key in ("name", "revision", "gguf", "sha256"))
        return [] if same else ["the base model"]
    if old["sha256"] != new["sha256"]:
        return ["the base model's weights"]
    setups = {old.get("setup_sha256"), new.get("setup_sha256")} - {None}
    return ["the base model's config or tokenizer"] if len(setups) > 1 else []


def _earlier_hash(task: Mapping[str, Any], tokens: str) -> str:
    """The hash that earlier versions kept of a task: of its file's other fields as well."""
    return fingerprint([{k: v for k, v in task.items() if k != "data"}, tokens])


def differing_versions(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What was made with other versions, in words.

    Args:
        old: Versions by name, from `versions`.
        new: The same later.

    Returns:
        Such as "torch 2.13.0 -> 2.14.0".
    """
    names = dict.fromkeys([*old, *new])
    return [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def provenance_now() -> dict[str, Any]:
    """Code, packages, plugins and machine, for the records."""
    packages = (*OF_WORKERS, "mlflow", "optuna")
    return {
        "code": {"version": package_version("curlora-orchestrator"), "commit": _commit()},
        "packages": {name: package_version(name) for name in packages} | _plugins(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _plugins() -> dict[str, str]:
    """The plugins that are loaded, each with the hash of its source in the place of a version."""
    return {f"plugin {name}": f"sha256:{plugin.sha256}" for name, plugin in LOADED.items()}


def _commit() -> str | None:
    """The commit of this code when it runs from a checkout, `+` when it was changed since."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if changes else ''}" if commit else None
