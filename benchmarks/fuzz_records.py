"""Damaged records of a sweep, for `benchmarks.fuzz`: its journal, and its trials' saved state.

A journal may come from anybody, and its sums are no secret: so half of the damages are sealed again
as an honest writer would, and must be refused, or read, for what they say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz import damage_bytes, damage_document, write_experiment


def write_sweep(folder: Path) -> None:
    """A finished sweep of four tiny trials, with its journal and adapters."""
    import orchestrator

    write_experiment(folder)
    file = folder / "e.yaml"
    text = file.read_text().replace("storage: ./runs", f"storage: {folder / 'runs'}")
    # A little to learn, and a verdict with finalists.
    file.write_text(text.replace("epochs: 1", "epochs: 2"))
    orchestrator.run_sweep(file)


def written(lines: list[dict[str, Any]]) -> bytes:
    """Lines as a journal holds them, each with the sum that vouches for it."""
    from orchestrator.records.journal_lines import sealed

    before, out = b"", []
    for line in lines:
        text = json.dumps(line, separators=(",", ":")).encode("utf-8", "surrogatepass")
        raw = sealed(text, before)
        out.append(raw)
        before = raw
    return b"".join(raw + b"\n" for raw in out)


def damage_lines(
    path: Path, chance: random.Random, change: Callable[[Any, int], Any] | None = None
) -> None:
    """Damage the bytes of a file of sealed lines, or what one of its lines says.

    Args:
        path: The file.
        chance: Chooses how.
        change: Changes a line in a way of its own for one kind of 2 to 7, which it is given; it
            gives None for the others. None: all are damaged as any document is.
    """
    if chance.random() < 0.3:
        damage_bytes(path, chance)
        return
    lines = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    for line in lines:
        line.pop("sum", None)
    kind = chance.randrange(8)
    at = chance.randrange(len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, dict(chance.choice(lines)))
    else:
        changed = None if change is None else change(lines[at], kind)
        lines[at] = damage_document(lines[at], chance) if changed is None else changed
    if kind < 2:
        lines = [{**line, "n": number} for number, line in enumerate(lines)]
    path.write_bytes(written(lines))


def damage_journal(folder: Path, chance: random.Random) -> None:
    """Damage a journal's bytes, or what one of its lines says."""
    (path,) = folder.glob("runs/*/journal.jsonl")
    damage_lines(path, chance)


def use_journal(folder: Path) -> object:
    """What the commands that read sweeps do with one."""
    from orchestrator.api.journals import begun_sweeps, read_sweep
    from orchestrator.cli.output.documents import outcome_document, trial_document
    from orchestrator.cli.output.outcome_tables import render_outcome
    from orchestrator.cli.output.trial_details import render_trial
    from orchestrator.records.sweep_state import SweepState
    from orchestrator.report.written import write_report

    (sweep,) = begun_sweeps(folder / "runs")
    _, lines = read_sweep(sweep.name, sweep.parent)
    state = SweepState.of(lines)
    outcome_document(lines, sweep)
    render_outcome(lines, sweep, width=100)
    for trial in state.everything.values():
        trial_document(state, trial, sweep)
        render_trial(state, trial, sweep)
    write_report(lines, sweep, folder / "report")
    return state


def use_model_of_sweep(folder: Path) -> object:
    """What `orchestrate export SWEEP/TRIAL` does first, of every trial."""
    from orchestrator.records.journal_lines import read_journal
    from orchestrator.records.sweep_state import SweepState
    from orchestrator.serving.find import model_folder
    from orchestrator.system.user_error import UserError

    (sweep,) = (path.parent for path in folder.glob("runs/*/journal.jsonl"))
    refused: UserError | None = None
    for trial in SweepState.of(read_journal(sweep)).trials:
        try:
            with model_folder(f"{sweep.name}/{trial.name}", sweep.parent, None):
                pass
        except UserError as error:
            refused = error
    if refused is not None:
        raise refused
    return sweep
