"""What a bundle holds: the adapter, its sweep's journal, and what is read of both."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_card, adapter_key, adapter_of
from orchestrator.records.cards.card import card_text as adapter_card_text
from orchestrator.records.model_folder import (
    ADAPTER_FOLDER,
    CARD_FILE,
    MODEL_FILE,
    adapter_flaw,
    model_document,
)
from orchestrator.records.parts.trial_part import adapter_part
from orchestrator.records.registry.registry_file import REGISTRY_NAME, changes_in
from orchestrator.records.registry.standing import Standing
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.serving.bundle.archive import BundleError, write_archive
from orchestrator.serving.hub.card import card_text
from orchestrator.serving.hub.card_facts import card_facts, sweep_of
from orchestrator.system.strict_json import read_object, without_nan
from orchestrator.system.wording import cut
from orchestrator.system.yaml_file import parse_yaml

JOURNAL = "journal.jsonl"
REGISTRY = "registry.jsonl"
EXPERIMENT = "experiment.yaml"
DATA = "data.json"
READINGS = "test_readings.json"
LICENCES = "licences.json"
CARD = "README.md"
ADAPTER = f"model/{ADAPTER_FOLDER}/"
MODEL = f"model/{MODEL_FILE}"
ADAPTER_CARD = f"model/{CARD_FILE}"
NOT_STATED = "not stated"
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LONGEST = 1 << 20
_MOST_NAMED = 8
"""Licences of one card."""


def bundle(folder: Path, storage: Path, reference: str, target: Path) -> dict[str, Any]:
    """Write a model and all that accounts for it into one file.

    Args:
        folder: Its model folder.
        storage: The folder that sweeps are kept in.
        reference: How it was asked for.
        target: The file.

    Returns:
        `sha256` of the manifest, and what is not stated of licences.

    Raises:
        BundleError: Its sweep's journal is not there, or does not know it.
        OSError: The file cannot be written.
    """
    document = read_object(folder / MODEL_FILE, BundleError, "Copy the model folder again.")
    place = sweep_of(document, storage)
    if place is None:
        raise BundleError(
            f"The journal of the sweep that made {reference} is not in {storage}, and without it "
            "nothing accounts for the choice. Name the folder of sweeps with `--storage`."
        )
    state = adapter_part(place, [str(document.get("trial"))])
    record = state.everything.get(str(document.get("trial")))
    # Earlier versions kept the adapter after the last task alone.
    learnt = document.get("learnt") or len(state.tasks)
    kept, sha256 = (None, None) if record is None else adapter_of(state, record, learnt)
    if record is None or not kept:
        raise BundleError(f"The journal in {place} knows no adapter of {reference}.")
    adapter = SweepFolder(place).within(kept)
    wrong = adapter_flaw(adapter, sha256, record.name)
    if wrong is not None:
        raise BundleError(
            f"{adapter} is not the adapter that the journal vouches for: {wrong}. Restore it from "
            "a copy, or train it again with `--retry-failed`."
        )
    files: dict[str, Path | bytes] = {
        f"{ADAPTER}{path.relative_to(adapter).as_posix()}": path
        for path in adapter.rglob("*")
        if path.is_file()
    }
    licences = _licences(state)
    whole = (place / JOURNAL).read_bytes()
    files |= {
        # As the journal tells it now: what was registered may be older than the last measures.
        MODEL: _json(model_document(state, record.name, learnt)),
        ADAPTER_CARD: adapter_card_text(adapter_card(state, record, learnt)).encode(),
        JOURNAL: whole[: whole.rfind(b"\n") + 1],  # a torn last line was never read
        EXPERIMENT: state.yaml.encode(),
        DATA: _json(data_hashes(state)),
        READINGS: _json(readings(state)),
        LICENCES: _json(licences),
        CARD: card_text(card_facts(folder, storage, reference), "adapter", "model").encode(),
    }
    name = registered_name(reference) or state.name
    key = adapter_key(state, record, learnt)
    champion = state.champion == record.name and learnt == len(state.tasks)
    content, standing = _registry(storage, name)
    if standing is not None:
        # Whole, though other names have lines in it: the sums vouch for them only together.
        files[REGISTRY] = content
        champion = key.is_same(standing.champion)
    facts = {
        "model": reference,
        "name": name,
        "sweep": state.name,
        "sweep_id": state.identity,
        "trial": record.name,
        "learnt": learnt,
        "adapter_sha256": sha256,
        "champion": champion,
    }
    manifest_sha256 = write_archive(target, files, facts)
    open_points = [name for name, found in licences.items() if found["licence"] == NOT_STATED]
    return {"sha256": manifest_sha256, "files": len(files), "licences_not_stated": open_points}


def registered_name(reference: str) -> str | None:
    """The name in a reference such as `NAME@champion`; None of one that names a trial."""
    owner, slash, _ = reference.partition("/")
    name, at, _ = owner.partition("@")
    return name if at and not slash else None


def _registry(storage: Path, name: str) -> tuple[bytes, Standing | None]:
    """The whole lines of a storage folder's registry, and what they say of a name."""
    path = storage / REGISTRY_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b"", None
    content = content[: content.rfind(b"\n") + 1]
    standing = Standing.of(name, changes_in(path, content))
    return content, standing if standing.current is not None else None


def data_hashes(state: SweepState) -> dict[str, Any]:
    """The hashes of the rows of each task and probe, as the journal has them."""
    return dict(state.provenance.get("data") or {})


def readings(state: SweepState) -> list[dict[str, Any]]:
    """The readings of the test data, without the score of each example."""
    found: list[dict[str, Any]] = []
    for reading in state.readings:
        line = reading.to_line()
        sides = {
            name: {k: v for k, v in side.as_document().items() if "per_example" not in k}
            for name, side in reading.sides.items()
        }
        found.append(without_nan({**line, "sides": sides}))
    return found


def trial_of(state: SweepState, name: str) -> TrialRecord | None:
    """A trial of a sweep, if it has one of that name."""
    return state.everything.get(name)


def _licences(state: SweepState) -> dict[str, dict[str, Any]]:
    """What is known on this machine of the licences of base and data; nothing is asked for."""
    base = state.base or state.provenance.get("base") or {}
    place = Path(str(base.get("gguf") or base.get("name") or ""))
    folder = place.parent if place.is_file() else place
    found = {"base": {"of": place.name if place.is_absolute() else str(place), **_licence(folder)}}
    for name, task in state.task_files.items():
        data: Mapping[str, Any] = task.get("data") or {}
        files = data.get("files")
        lies = Path(str(files)) if files else None
        told = _licence(lies) if lies is not None and lies.is_absolute() else _licence(None)
        found[name] = {"of": data.get("hub") or "local files", **told}
    return found


def _licence(folder: Path | None) -> dict[str, Any]:
    """The licence that a folder's card names, and its licence file, if there are."""
    told: dict[str, Any] = {"licence": NOT_STATED, "text": None}
    if folder is None or not folder.is_dir():
        return told
    card = folder / CARD
    if card.is_file() and card.stat().st_size <= _LONGEST:
        matter = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
        told["licence"] = _named(matter[1]) if matter else NOT_STATED
    for file in sorted(folder.glob("LICEN[CS]E*")):
        if file.is_file() and file.stat().st_size <= _LONGEST:
            told["text"] = file.read_text(encoding="utf-8", errors="replace")
            if told["licence"] == NOT_STATED:
                first = next(
                    (line.strip() for line in told["text"].splitlines() if line.strip()), ""
                )
                told["licence"] = f"see its text: {first[:80]}"
            break
    return told


def _named(matter: str) -> str:
    """The licence that a card's metadata name; the card may be anybody's."""
    try:
        found = parse_yaml(matter, "metadata", ValueError)
    except ValueError:
        return NOT_STATED
    named = found.get("license") if isinstance(found, dict) else None
    several: list[Any] = named[:_MOST_NAMED] if isinstance(named, list) else [named]
    if not several or not all(isinstance(one, str) and one for one in several):
        return NOT_STATED
    return cut(", ".join(several), 300)


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
