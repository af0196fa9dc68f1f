"""What may go by a rule, and letting it go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.records.cards.pruned import note_gone, note_pruned
from orchestrator.records.journal import is_being_written
from orchestrator.records.mlflow.pruning import trash_runs
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.serving.pruning.storage import OldSweep, PruneError
from orchestrator.system.formatting import show_duration
from orchestrator.system.wording import suggestion

Keep = Literal["front", "champions"]
CACHE = "cache"


@dataclass(frozen=True)
class Rule:
    """What may go."""

    older_s: float
    """Seconds since the trial ended, or a cache's entry was written."""
    keep: Keep
    """`front`: whoever stays keeps all that it carries. `champions`: only champions and what was
    registered do; of others on the front and of finalists the adapter alone stays."""
    caches: bool
    runs: bool

    @property
    def words(self) -> str:
        """For whoever misses what has gone."""
        return f"older than {show_duration(self.older_s)}, kept: {self.keep}"


@dataclass(frozen=True)
class Piece:
    """A folder or file that may go."""

    path: Path
    size: int
    what: str
    """`adapter`, `task adapters`, `carried` or `cache`."""
    sweep: str = ""
    trial: str = ""


@dataclass(frozen=True)
class Plan:
    """What would go, and what would not."""

    pieces: tuple[Piece, ...]
    runs: Mapping[str, tuple[str, ...]]
    """By sweep, the trials whose runs would go to MLflow's trash."""
    kept: Mapping[str, Mapping[str, str]]
    """By sweep, why trials stay."""
    skipped: Mapping[str, str]
    """Sweeps of which nothing goes, and why."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(piece.size for piece in self.pieces)


def plan(
    sweeps: Mapping[str, OldSweep],
    storage: Path,
    rule: Rule,
    named: Collection[str],
    now: float | None = None,
) -> Plan:
    """What may go.

    Args:
        sweeps: All of a storage folder.
        storage: The folder.
        rule: The rule.
        named: Sweeps that are meant; none: all.
        now: Seconds since the epoch; None: now.

    Returns:
        The plan; nothing is done.

    Raises:
        PruneError: A name is no sweep's.
    """
    unknown = sorted(set(named) - sweeps.keys())
    if unknown:
        raise PruneError(
            f"{storage} has no sweep {unknown[0]!r}.{suggestion(unknown[0], list(sweeps))} It has "
            f"{', '.join(sweeps) or 'none'}."
        )
    before = (time.time() if now is None else now) - rule.older_s
    pieces: list[Piece] = []
    runs: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    for name, sweep in sweeps.items():
        if named and name not in named:
            continue
        why = _why_not(sweep)
        if why is not None:
            skipped[name] = why
            continue
        own = list(_pieces(sweep, name, rule, before))
        pieces += own
        gone = sorted({piece.trial for piece in own if piece.trial not in sweep.protected})
        if rule.runs and sweep.uri and gone:
            runs[name] = tuple(gone)
    if rule.caches:
        if any(sweep.busy for sweep in sweeps.values()):
            skipped[CACHE] = "a sweep of this folder is running and may read it"
        else:
            pieces += _cache(storage / CACHE, before)
    kept = {name: dict(s.protected) for name, s in sweeps.items() if not named or name in named}
    return Plan(tuple(pieces), runs, kept, skipped)


def _why_not(sweep: OldSweep) -> str | None:
    if sweep.busy:
        return "it is running"
    if not sweep.state.ended:
        return "it has not ended: its command would go on from what its trials have left"
    return None


def _pieces(sweep: OldSweep, name: str, rule: Rule, before: float) -> Iterator[Piece]:
    for record in sweep.state.everything.values():
        old = record.over and record.ended is not None and record.ended < before
        if record.name == BASE_TRIAL or not old:
            continue
        stays = record.name in sweep.protected
        if stays and (rule.keep == "front" or record.name in sweep.chosen):
            continue
        places = _places(sweep, record)
        for what, path in places.items():
            if (what == "adapter" and stays) or not path.is_dir() or path.is_symlink():
                continue
            yield Piece(path, _size(path), what, name, record.name)


def _places(sweep: OldSweep, record: TrialRecord) -> dict[str, Path]:
    """Where a trial's things are, all of them in its own folder."""
    inside = sweep.folder
    return {
        "adapter": inside.adapter(record.name),
        "task adapters": inside.task_adapter(record.name, 1).parent,
        "carried": inside.carried(record.name),
    }


def _cache(folder: Path, before: float) -> list[Piece]:
    """The entries of the cache that nobody has written for so long; they can be made again."""
    entries = [
        entry
        for entry in sorted(folder.glob("*/*"))
        if not entry.is_symlink() and not entry.parent.is_symlink()
    ]
    old = [entry for entry in entries if entry.stat().st_mtime < before]
    return [Piece(entry, _size(entry), CACHE) for entry in old]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def carry_out(plan: Plan, sweeps: Mapping[str, OldSweep], rule: Rule) -> list[str]:
    """Let go what a plan names; what goes is noted first.

    Args:
        plan: The plan.
        sweeps: As it was made from.
        rule: The rule that it follows.

    Returns:
        What could not be done, in words.
    """
    trouble: list[str] = []
    busy = {name for name in sweeps if is_being_written(sweeps[name].folder.path)}
    by_trial: dict[tuple[str, str], list[Piece]] = {}
    for piece in plan.pieces:
        by_trial.setdefault((piece.sweep, piece.trial), []).append(piece)
    for (name, trial), pieces in by_trial.items():
        if name in busy or (not name and busy):
            trouble.append(f"{name or CACHE}: a sweep has begun to run meanwhile")
            continue
        try:
            if name:
                folder = sweeps[name].folder.trials / trial
                note_pruned(folder, [_entry(sweeps[name], piece, folder, rule) for piece in pieces])
            for piece in pieces:
                _remove(piece.path)
            if name:
                note_gone(sweeps[name].folder.path, trial)
        except OSError as error:
            trouble.append(f"{name or CACHE}/{trial}: {error.strerror or error}")
    for name, trials in plan.runs.items():
        sweep = sweeps[name]
        if sweep.uri and name not in busy:
            trash_runs(sweep.uri, sweep.folder.path, sweep.state, trials)
    return list(dict.fromkeys(trouble))


def _entry(sweep: OldSweep, piece: Piece, folder: Path, rule: Rule) -> dict[str, object]:
    record = sweep.state.everything[piece.trial]
    hashes = {"adapter": record.adapter_sha256, "carried": record.carried_sha256}
    entry: dict[str, object] = {
        "time": time.time(), "place": piece.path.relative_to(folder).as_posix(),
        "bytes": piece.size, "rule": rule.words, "sha256": hashes.get(piece.what),
    }  # fmt: skip
    if piece.what == "task adapters":
        entry["sha256"] = {str(k): digest for k, (_, digest) in record.task_adapters.items()}
    return entry


def _remove(path: Path) -> None:
    """Remove a folder or file; one that a crash left half removed is not taken for whole."""
    if path.is_file():
        path.unlink()
        return
    away = path.with_name(f"{path.name}.pruned")
    path.rename(away)
    shutil.rmtree(away)


@dataclass
class Row:
    """What would go of one sweep, of one kind."""

    sweep: str
    what: str
    trials: list[str] = field(default_factory=list[str])
    count: int = 0
    size: int = 0
    """Bytes."""


def rows_of(plan: Plan) -> Sequence[Row]:
    """The plan by sweep and kind."""
    found: dict[tuple[str, str], Row] = {}
    for piece in plan.pieces:
        key = piece.sweep or CACHE, piece.what
        row = found.setdefault(key, Row(*key))
        row.count += 1
        row.size += piece.size
        row.trials += [piece.trial] if piece.trial else []
    return list(found.values())


def reasons_of(kept: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """Why trials of a sweep stay, each reason with those that it holds."""
    found: dict[str, list[str]] = {}
    for trial, why in kept.items():
        found.setdefault(why, []).append(trial)
    return found
