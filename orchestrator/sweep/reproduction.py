"""A finished trial trained again from what its journal says, and compared number by number.

In one process on a CPU in fp32 (`executor: local`), with the packages and the platform of then, the
numbers are the same to the last digit, and so is the adapter's hash. Elsewhere sums are taken in
another order, and a difference grows with every step: what is allowed then is said with each line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.base.facts import vocabulary
from orchestrator.data.preparation import prepare
from orchestrator.records.event import Line
from orchestrator.records.journal_facts import versions
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, complete_recorded
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_files import at_data_root, parse_task
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.extending.parent import Parent
from orchestrator.sweep.provenance import differing_versions, provenance_now
from orchestrator.system.content_cache import ContentCache
from orchestrator.system.seals import file_hashes
from orchestrator.system.stores.address import working_folder

TRIAL = "t001"
"""The one trial of a reproduction."""


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be apart."""

    words: str
    loss: float
    """Of a step's loss, as a share of it."""
    score: float
    """Of a score, as a share of its examples; one example is always allowed unless this is 0."""

    @property
    def exact(self) -> bool:
        """Whether every digit and the adapter's hash have to be the same."""
        return not self.loss


EXACT = Tolerance("exact: one process on a CPU in fp32, with the same packages", 0.0, 0.0)
CLOSE = Tolerance("fp32 elsewhere: a loss to 0.1 %, a score to 2 % of its examples", 1e-3, 0.02)
COARSE = Tolerance("bf16 or a GPU: a loss to 5 %, a score to 5 % of its examples", 0.05, 0.05)


@dataclass(frozen=True)
class Compared:
    """Some numbers then and now."""

    what: str
    count: int
    worst: float
    """The largest difference; NaN where something is missing on a side."""
    allowed: float
    where: str
    """Where the largest is, with both numbers."""

    @property
    def agrees(self) -> bool:
        """Whether all are as far apart as is allowed, or less."""
        return self.worst <= self.allowed


def reproduction_of(
    parent: Parent, storage: Path, *, name: str | None, base: Path | None, data_root: Path | None
) -> LoadedExperiment:
    """The experiment that trains a trial again.

    Args:
        parent: The trial.
        storage: The folder that sweeps are kept in.
        name: Of the new sweep; None: after the trial.
        base: Where the base is now, if it was moved.
        data_root: Where tasks read their rows, if not from their own sources.

    Returns:
        An experiment of that one trial; everything is scored.
    """
    state, old = parent.state, parent.experiment
    place = {key: state.base.get(key) for key in ModelSpec.model_fields}
    if base is not None:
        place |= {"name": str(base.resolve()), "revision": None, "gguf": None}
    document = old.model_dump(mode="json", exclude={"search", "finalists", "published"}) | {
        "name": name or f"{parent.folder.path.name}-{parent.record.name}-again"[:80],
        "model": place | {"quantization": old.model.quantization},
        "scoring": "full",
        "storage": str(storage),
    }
    if document.get("extends"):
        document["extends"]["compared"] = False
    tasks = {
        task: at_data_root(parse_task(state.task_files[task], task), data_root)
        for task in (*old.tasks, *old.probes)
    }
    return complete_recorded(
        Experiment.model_validate(document),
        tasks,
        text=yaml.safe_dump(document, sort_keys=False),
        origin=f"orchestrate reproduce {parent.named}",
        task_files={},
    )


def check_inputs(parent: Parent, loaded: LoadedExperiment, note: Callable[[str], None]) -> None:
    """Refuse to train on another base or other data than the trial was trained on.

    Args:
        parent: The trial.
        loaded: What trains it again.
        note: Told what is being done.

    Raises:
        SweepError: If something differs, with its name.
    """
    from orchestrator.base.identity import base_sha256, setup_sha256, tokenizer_sha256
    from orchestrator.base.loading import load_tokenizer

    experiment = loaded.experiment
    sha256 = base_sha256(experiment.model)
    data = prepare(
        loaded, load_tokenizer(experiment.model), note=note,
        cache=ContentCache(working_folder(experiment.storage) / "cache"),
        tokenizer_sha256=tokenizer_sha256(experiment.model, sha256),
        vocabulary=vocabulary(experiment.model),
    )  # fmt: skip
    now = {"weights": sha256, "config or tokenizer": setup_sha256(experiment.model)}
    base, rows = parent.state.base, parent.state.provenance.get("data", {})
    then = {"weights": base.get("sha256"), "config or tokenizer": base.get("setup_sha256")}
    changed = [f"the base's {n}" for n, h in then.items() if h not in {None, now[n]}]
    changed += [f"the rows of {n}" for n, h in data.hashes.items() if rows.get(n) not in {None, h}]
    if changed:
        raise SweepError(
            f"{parent.named} cannot be reproduced: {', '.join(changed)} are not those of then. "
            "Restore them, or name them with `--base` and `--data-root`."
        )


def changed_packages(parent: Parent) -> list[str]:
    """With what other versions a trial would be made now, in words."""
    now = versions(provenance_now())
    then = parent.state.versions_of(parent.record)
    # Another commit of this code is named as well, and says by itself nothing of the numbers.
    return differing_versions(then, now)


def tolerance(parent: Parent, experiment: Experiment) -> Tolerance:
    """How far the numbers of a reproduction may be apart.

    Args:
        parent: The trial.
        experiment: What trains it again.

    Returns:
        `EXACT` where nothing lets them differ.
    """
    then = parent.experiment
    if experiment.training.precision != "fp32" or experiment.resources.gpus_per_worker:
        return COARSE
    here = all(one.resources.executor == "local" for one in (then, experiment))
    threads = then.resources.cpus_per_worker == experiment.resources.cpus_per_worker
    others = [words for words in changed_packages(parent) if not words.startswith("code ")]
    return EXACT if here and threads and not others else CLOSE


def compare(
    parent: Parent, folder: SweepFolder, lines: list[Line], allowed: Tolerance
) -> list[Compared]:
    """Compare a trial with the one that was trained again.

    Args:
        parent: The trial.
        folder: That of its reproduction.
        lines: The journal in it.
        allowed: How far numbers may be apart.

    Returns:
        A line for the losses of each task, for the scores after each task, for the measures, for
        the test scores where both have some, and for the adapter where everything is exact.
    """
    state = SweepState.of(lines)
    record = state.trial(TRIAL)
    if record.state != "COMPLETE":
        why = record.reason or "it has not ended"
        return [Compared("the trial", 1, math.nan, 0.0, f"it was not completed again: {why}")]
    found = [*_losses(parent.record, record, parent.state.tasks, allowed)]
    found += _scores(parent, state, record, allowed)
    found += _measures(parent.record, record, allowed)
    found += _test_scores(parent, state, allowed)
    if allowed.exact and parent.record.adapter_sha256 is not None:
        found.append(_adapters(parent, folder, record))
    return found


def _adapters(parent: Parent, folder: SweepFolder, new: TrialRecord) -> Compared:
    """The adapters by the hash in the journal, or tensor file by tensor file."""
    # Adapters of earlier versions name their layers in an order that was another in each process.
    then, now = str(parent.record.adapter_sha256), str(new.adapter_sha256)
    what, shown = "the adapter's hash", f"{then[:12]} then, {now[:12]} now"
    if then == now or not parent.adapter.is_dir() or new.adapter is None:
        return Compared(what, 1, 0.0 if then == now else math.nan, 0.0, shown)
    sides = [_tensor_files(parent.adapter), _tensor_files(folder.within(new.adapter))]
    same = sides[0] == sides[1]
    return Compared(f"{what}, tensors alone", 1, 0.0 if same else math.nan, 0.0, shown)


def _tensor_files(adapter: Path) -> dict[str, str]:
    return {n: digest for n, digest in file_hashes(adapter).items() if n.endswith(".safetensors")}


def _losses(
    old: TrialRecord, new: TrialRecord, tasks: list[str], allowed: Tolerance
) -> Iterator[Compared]:
    then, now = dict(old.losses), dict(new.losses)
    before = 0
    for index, count in sorted(old.task_steps.items()):
        steps = range(before + 1, before + count + 1)
        pairs = {
            f"step {step - before}": (then.get(step, math.nan), now.get(step, math.nan))
            for step in steps
            if step in then or step in now
        }
        before += count
        if pairs:
            limits = {where: allowed.loss * abs(a) for where, (a, _) in pairs.items()}
            joint = len(old.task_steps) == 1 and index == len(tasks) - 1 > 0
            name = "all tasks" if joint else tasks[index]
            yield _worst(f"losses of {name}", pairs, limits)


def _scores(
    parent: Parent, state: SweepState, new: TrialRecord, allowed: Tolerance
) -> Iterator[Compared]:
    then, now = parent.state.matrix(parent.record), state.matrix(new)
    if then is None or now is None:
        return
    counts = parent.state.examples(parent.record)
    for row, (a, b) in enumerate(zip(then.rows, now.rows, strict=False)):
        pairs = {
            task: (x, y) for task, x, y in zip(then.tasks, a, b, strict=True) if math.isfinite(x)
        }
        if pairs:
            limits = {task: _of_score(allowed, counts.get(task)) for task in pairs}
            after = "the untouched base" if row == 0 else f"after {then.tasks[row - 1]}"
            yield _worst(f"scores {after}", pairs, limits)


def _measures(old: TrialRecord, new: TrialRecord, allowed: Tolerance) -> Iterator[Compared]:
    pairs = {
        name: (float(value), new.measure(name))
        for name, value in old.measures.items()
        if value is not None and name != "cost_s"  # which depends on what else runs
    }
    scale = {"probe_drift": 1.0, "cost_tokens": abs(pairs.get("cost_tokens", (1.0, 0))[0])}
    limits = {name: _of_score(allowed, None) * scale.get(name, 1.0) for name in pairs}
    if pairs:
        yield _worst("measures", pairs, limits)


def _test_scores(parent: Parent, state: SweepState, allowed: Tolerance) -> Iterator[Compared]:
    name = parent.record.name
    readings = [r for r in parent.state.readings if r.reading and name in r.sides]
    now = [r for r in state.readings if r.reading and TRIAL in r.sides]
    if not readings or not now:
        return
    a, b = readings[0].sides[name].row, now[0].sides[TRIAL].row
    pairs = {
        task: (x, y)
        for task, x, y in zip(parent.state.tasks, a, b, strict=True)
        if math.isfinite(x)
    }
    counts = readings[0].examples
    yield _worst("test scores", pairs, {t: _of_score(allowed, counts.get(t)) for t in pairs})


def _of_score(allowed: Tolerance, examples: int | None) -> float:
    if allowed.exact:
        return 0.0
    return max(allowed.score, 1.0 / examples if examples else 0.0)


def _worst(
    what: str, pairs: Mapping[str, tuple[float, float]], limits: Mapping[str, float]
) -> Compared:
    """The pair that is furthest beyond what is allowed of it."""

    def beyond(where: str) -> float:
        a, b = pairs[where]
        apart = abs(a - b)
        return math.inf if math.isnan(apart) else apart - limits[where]

    where = max(pairs, key=beyond)
    a, b = pairs[where]
    return Compared(what, len(pairs), abs(a - b), limits[where], f"{where}: {a:g} then, {b:g} now")
