"""Checking a bundle without network: hashes, the chains of sums, and that all agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_card, adapter_key, adapter_of
from orchestrator.records.errors import JournalError, RegistryError
from orchestrator.records.event import Line
from orchestrator.records.journal_lines import SUM_END, checked_line
from orchestrator.records.model_folder import model_document
from orchestrator.records.registry.registry_file import changes_in
from orchestrator.records.registry.standing import Standing
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.serving.bundle.archive import LARGEST_DOCUMENT, Archive, BundleError, opened
from orchestrator.serving.bundle.contents import (
    ADAPTER,
    ADAPTER_CARD,
    DATA,
    EXPERIMENT,
    JOURNAL,
    LICENCES,
    MODEL,
    READINGS,
    REGISTRY,
    data_hashes,
    readings,
    trial_of,
)
from orchestrator.system.formatting import moment
from orchestrator.system.seals import content_hash, is_vouched_for

_BY_REGISTRY = "the registry's lines follow each other, and say who is champion"
SMALL = 1e-9
"""Difference of two scores that were summed in another order."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    wrong: str | None = None
    """What is wrong with it; None if nothing is."""
    note: str = ""


@dataclass(frozen=True)
class Verified:
    """What was found of a bundle."""

    model: str
    manifest_sha256: str
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.wrong is None for check in self.checks)


def verify(path: Path) -> Verified:
    """Check a bundle; nothing of it is unpacked or executed.

    Args:
        path: The file.

    Returns:
        What was looked at, and what of it is wrong.

    Raises:
        BundleError: It is no bundle at all, or is made to do harm.
    """
    with opened(path) as archive:
        manifest = archive.manifest
        flaws = archive.flaws()
        checks = [
            Check("every file is there, with the hash of the manifest", "; ".join(flaws) or None)
        ]
        try:
            state, summed = _journal(archive)
        except BundleError as error:
            checks.append(Check("the journal's lines follow each other unchanged", str(error)))
        else:
            checks.append(_chain(summed, state))
            checks += _agreements(archive, state)
        return Verified(str(manifest.get("model"))[:300], archive.manifest_sha256, tuple(checks))


def _journal(archive: Archive) -> tuple[SweepState, tuple[int, int]]:
    """The sweep that the journal tells, and how many of its lines have a sum."""
    counted = [0, 0]

    def lines() -> Iterator[Line]:
        before = b""
        with archive.open(JOURNAL) as file:
            while raw := file.readline(LARGEST_DOCUMENT):
                if not raw.endswith(b"\n"):
                    raise BundleError(f"line {counted[1] + 1} of {JOURNAL} is not whole")
                raw = raw[:-1]
                yield checked_line(Path(JOURNAL), counted[1], raw, before)
                counted[0] += SUM_END.search(raw) is not None
                counted[1] += 1
                before = raw

    try:
        state = SweepState.of(lines(), whole=False)
    except JournalError as error:
        raise BundleError(str(error).split(" Nothing was changed")[0]) from None
    except KeyError:
        raise BundleError(f"{JOURNAL} is missing") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BundleError(f"{JOURNAL} tells nothing that any sweep writes ({error})") from None
    return state, (counted[0], counted[1])


def _chain(summed: tuple[int, int], state: SweepState) -> Check:
    known, whole = summed
    what = "the journal's lines follow each other unchanged"
    if not whole or not state.everything:
        return Check(what, "it has no trials")
    if known == whole:
        return Check(what, note=f"{whole} lines")
    # Those of earlier versions have none; one without a sum after one with is not of ours.
    return Check(what, note=f"{whole - known} of {whole} lines are of a version without sums")


def _agreements(archive: Archive, state: SweepState) -> list[Check]:
    manifest = archive.manifest
    record = trial_of(state, str(manifest.get("trial")))
    if record is None or record.state != "COMPLETE":
        return [
            Check("the journal knows the trial", f"no finished trial {manifest.get('trial')!r}")
        ]
    looked: list[tuple[str, Callable[[], str | None]]] = [
        ("the bundle is of the journal's sweep", lambda: _sweep(archive, state)),
        ("the adapter's hash is the journal's", lambda: _adapter(archive, state, record)),
        ("model.json says what the journal says", lambda: _model(archive, state, record)),
        ("the adapter's card is the journal's", lambda: _card(archive, state, record)),
        ("YAML and data hashes are the journal's", lambda: _sources(archive, state)),
        ("the test readings are the journal's", lambda: _readings(archive, state)),
        ("verdict and reading agree", lambda: _verdict(archive, state, record)),
        ("licences are stated, or said not to be", lambda: _licences(archive)),
    ]
    if REGISTRY in archive.names:
        looked.append((_BY_REGISTRY, lambda: _champion(archive, state, record)))
    found: list[Check] = []
    for what, look in looked:
        try:
            wrong = look()
            note = _who(archive) if what == _BY_REGISTRY and wrong is None else ""
            found.append(Check(what, wrong, note))
        except BundleError as error:
            found.append(Check(what, str(error)))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            found.append(Check(what, f"it is not of the form that a bundle has ({error})"))
    return found


def _sweep(archive: Archive, state: SweepState) -> str | None:
    said = archive.manifest.get("sweep_id")
    return (
        None if said == state.identity else f"it is of {state.identity}, the manifest's is {said}"
    )


def _adapter(archive: Archive, state: SweepState, record: TrialRecord) -> str | None:
    _, expected = adapter_of(state, record, _learnt(archive, state))
    names = [name for name in archive.names if name.startswith(ADAPTER)]
    kept = {name.removeprefix(ADAPTER): name for name in names}
    hashes = {
        short: archive.sha256(name) for short, name in sorted(kept.items()) if is_vouched_for(short)
    }
    found = content_hash(hashes)
    if expected is None:
        return "the journal is of a version that hashed no adapters: nothing vouches for it"
    if archive.manifest.get("adapter_sha256") != expected:
        return "the manifest names another hash"
    return None if found == expected else f"it is {found}"


def _learnt(archive: Archive, state: SweepState) -> int:
    """After how many tasks the adapter was kept; bundles of earlier versions hold the last."""
    return int(archive.manifest.get("learnt") or len(state.tasks))


def _model(archive: Archive, state: SweepState, record: TrialRecord) -> str | None:
    document = archive.document(MODEL)
    told = model_document(state, record.name, _learnt(archive, state))
    kept = ("sweep_id", "trial", "adapter_sha256", "measures", "overrides")
    odd = [name for name in kept if document.get(name) != json.loads(json.dumps(told[name]))]
    base = (document.get("base") or {}).get("sha256")
    if base != state.base_sha256:
        odd.append("base.sha256")
    return f"these differ: {', '.join(odd)}" if odd else None


def _card(archive: Archive, state: SweepState, record: TrialRecord) -> str | None:
    if ADAPTER_CARD not in archive.names:
        return None  # of an earlier version
    told = json.loads(json.dumps(adapter_card(state, record, _learnt(archive, state))))
    found = archive.document(ADAPTER_CARD)
    odd = [name for name in told if found.get(name) != told[name]]
    return f"these differ: {', '.join(odd)}" if odd or set(found) != set(told) else None


def _sources(archive: Archive, state: SweepState) -> str | None:
    if archive.text(EXPERIMENT) != state.yaml:
        return f"{EXPERIMENT} is another file"
    same = archive.document(DATA) == data_hashes(state)
    return None if same else f"{DATA} has other hashes"


def _readings(archive: Archive, state: SweepState) -> str | None:
    found = json.loads(archive.text(READINGS))
    if found != json.loads(json.dumps(readings(state))):
        return f"{READINGS} says something else"
    for reading in state.readings:
        for name, side in reading.sides.items():
            for task, score in zip(state.tasks, side.row, strict=False):
                each = side.per_example.get(task)
                if each and abs(sum(each) / len(each) - score) > SMALL and not math.isnan(score):
                    return f"reading {reading.reading}: {name}'s score on {task} is not its mean"
    return None


def _verdict(archive: Archive, state: SweepState, record: TrialRecord) -> str | None:
    champion = state.champion
    last = _learnt(archive, state) == len(state.tasks)
    by_registry = REGISTRY in archive.names  # says who is champion, whoever chose it
    if not by_registry and bool(archive.manifest.get("champion")) != (
        champion == record.name and last
    ):
        return f"the journal's champion is {champion}"
    if not by_registry and _called_champion(archive) and champion != record.name:
        return (
            f"it is called the champion, and the verdict's is {champion}: it was promoted by hand, "
            f"or the sweep went on since, and the bundle has no {REGISTRY} that would say so"
        )
    by_verdict = [r for r in state.readings if r.preference is None and r.reading is not None]
    if champion is not None and by_verdict and by_verdict[-1].champion != champion:
        return f"the last reading is of {by_verdict[-1].champion}, the verdict's is {champion}"
    return None


def _called_champion(archive: Archive) -> bool:
    return str(archive.manifest.get("model")).endswith("@champion")


def _standing(archive: Archive) -> Standing:
    """What the registry says of the bundle's name; every line of it is checked."""
    with archive.open(REGISTRY) as file:
        content = file.read(LARGEST_DOCUMENT + 1)
    if len(content) > LARGEST_DOCUMENT or not content.endswith(b"\n"):
        raise BundleError(f"{REGISTRY} is too large, or its last line is not whole")
    try:
        changes = changes_in(Path(REGISTRY), content)
    except RegistryError as error:
        raise BundleError(str(error).split(" Nothing was changed")[0]) from None
    return Standing.of(str(archive.manifest.get("name")), changes)


def _champion(archive: Archive, state: SweepState, record: TrialRecord) -> str | None:
    standing = _standing(archive)
    key = adapter_key(state, record, _learnt(archive, state))
    champion = standing.champion
    said = "no adapter" if champion is None else champion.reference
    if bool(archive.manifest.get("champion")) != key.is_same(champion):
        return f"by {REGISTRY} the champion of {standing.name!r} is {said}"
    if _called_champion(archive) and not key.is_same(champion):
        return f"it is called the champion, and by {REGISTRY} that is {said}"
    return None


def _who(archive: Archive) -> str:
    """Who made the champion of the bundle's name champion, when and why."""
    current = _standing(archive).current
    if current is None or current.adapter is None:
        return "by it no adapter is champion"
    words = f"{current.adapter.reference} was {current.event.replace('_', ' ')}"
    words += f" by {current.who} on {moment(current.time)}"
    against = "".join(f"; although {sentence}" for sentence in current.overridden)
    return f"{words}: {current.reason or 'no reason was given'}{against}"


def _licences(archive: Archive) -> str | None:
    document: dict[str, Any] = archive.document(LICENCES)
    silent = [name for name, told in document.items() if not told.get("licence")]
    if "base" not in document:
        return "nothing is said of the base"
    return f"nothing is said of {', '.join(silent)}" if silent else None
