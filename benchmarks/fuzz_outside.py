"""Damaged cards, registries, requests and bundles, for `benchmarks.fuzz`: all may be anybody's.

Sums and hashes are no secret: half of the damages are sealed again as an honest writer would, and
must be refused, or read, for what they say.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.fuzz import damage_bytes, damage_document, damage_json
from benchmarks.fuzz_records import damage_lines, write_sweep

NAME = "e"
"""The sweep of `write_sweep`."""


def _shown(*things: Any) -> None:
    """Print as the commands do."""
    from rich.console import Console

    with io.StringIO() as nowhere:
        for thing in things:
            Console(file=nowhere, width=100).print(thing)
        nowhere.getvalue().encode()


def _as_json(document: Any) -> None:
    """As `--json` prints it."""
    json.dumps(document, default=str, allow_nan=False).encode()


# --- cards of adapters ---------------------------------------------------------------------------


def write_champion(folder: Path) -> None:
    """A sweep of which a trial was made champion."""
    import orchestrator

    write_sweep(folder)
    # By hand: with so little to learn a verdict may choose nobody.
    orchestrator.promote(f"{NAME}/t001", folder / "runs", reason="a hunch", force=True)


def damage_card(folder: Path, chance: random.Random) -> None:
    """Damage the card of an adapter, or put another one, a link or a folder in its place."""
    cards = sorted(folder.glob("runs/*/trials/*/cards/after-*.json"))
    card = chance.choice(cards)
    kind = chance.randrange(8)
    if kind == 0:
        other = chance.choice(cards).read_bytes()
        card.write_bytes(other)
    elif kind == 1:
        card.unlink()
        if chance.random() < 0.5:
            card.symlink_to(chance.choice(["/dev/zero", "/etc/passwd", "nowhere", card.name]))
        else:
            card.mkdir()
    elif kind == 2:
        document = json.loads(card.read_text())
        document["adapter"]["place"] = chance.choice(["../../../x", "/etc/passwd", "trials/../.."])
        card.write_text(json.dumps(document))
    else:
        damage_json(card, chance)


def use_cards(folder: Path) -> object:
    """What `champion show`, `compare` and the page of a champion do."""
    from orchestrator.cli.champions import tables
    from orchestrator.registry.champions.adapters import find_adapter
    from orchestrator.registry.champions.champion import champion
    from orchestrator.registry.champions.comparison import compare
    from orchestrator.web.pages.champions import _matrix

    storage = folder / "runs"
    _without_mlflow(storage)
    found = champion(storage, NAME)
    _as_json(tables.champion_document(found, storage))
    _shown(tables.render_champion(found))
    _matrix(found)
    for trial in sorted(path.name for path in (storage / NAME / "trials").iterdir()):
        if not (storage / NAME / "trials" / trial / "adapter").is_dir():
            continue
        adapter = find_adapter(storage, f"{NAME}/{trial}")
        if adapter.place is not None and not adapter.place.is_relative_to(storage):
            raise AssertionError(f"{adapter.place} lies elsewhere")
        compared = compare(storage, NAME, f"{NAME}/{trial}")
        _as_json(tables.comparison_document(compared))
        _shown(tables.render_comparison(compared))
    return found


def _without_mlflow(storage: Path) -> None:
    """MLflow's own database is no input of this kind, and opening it takes long."""
    (storage / "mlflow.db").unlink(missing_ok=True)


# --- the registry --------------------------------------------------------------------------------


def write_registry(folder: Path) -> None:
    """A sweep of which two trials were promoted by hand, and the second rolled back."""
    import orchestrator

    write_champion(folder)
    storage = folder / "runs"
    orchestrator.promote(f"{NAME}/t002", storage, reason="another", force=True)
    orchestrator.rollback(NAME, storage, reason="it was wrong")


def damage_registry(folder: Path, chance: random.Random) -> None:
    """Damage the registry's bytes, or what one of its lines says."""

    def led_astray(line: Any, kind: int) -> Any:
        if kind != 2:
            return None
        key = chance.choice(["trial", "sweep", "sweep_id"])
        place = chance.choice(["../../x", "/etc", "", "..", "a\0b", "x" * 5000])
        return {**line, "adapter": {**(line.get("adapter") or {}), key: place}}

    damage_lines(folder / "runs" / "registry.jsonl", chance, led_astray)


def use_registry(folder: Path) -> object:
    """What `champion show`, `history`, `promote` and `prune` do."""
    from orchestrator.cli.champions import tables
    from orchestrator.records.registry.change import Change
    from orchestrator.records.registry.registry_file import open_registry
    from orchestrator.registry.champions.champion import champion, champion_names, history
    from orchestrator.system.user_error import UserError
    from orchestrator.web.pages.champions import _change

    storage = folder / "runs"
    _without_mlflow(storage)
    refused: UserError | None = None
    for name in sorted({NAME, *champion_names(storage)}):
        try:
            changes = history(storage, name)
            _as_json(tables.history_document(changes))
            _shown(tables.render_history(name, changes))
            for change in changes:
                _change(change)
            found = champion(storage, name)
            _as_json(tables.champion_document(found, storage))
            _shown(tables.render_champion(found))
            if not found.found.folder.path.is_relative_to(storage):
                raise AssertionError(f"{found.found.folder.path} lies elsewhere")
        except UserError as error:
            refused = error
    with open_registry(storage) as registry:
        registry.append(Change("withdrawn", NAME, who="me", reason="a test"))
    if refused is not None:
        raise refused
    return storage


# --- requests ------------------------------------------------------------------------------------

RANKS = {"method.adapter.r": {"choice": [2, 4, 8]}}
SEARCH = {"space": RANKS, "searcher": "random", "trials": 2}


def write_requests(folder: Path) -> None:
    """The folder of a sweep in which people have left requests."""
    from orchestrator.records.requests.request_files import Request, leave
    from orchestrator.records.sweep_folder import SweepFolder

    inside = SweepFolder(folder / "made-up")
    changes = {"training.learning_rate": 0.0123, "method.adapter.r": 4}
    leave(inside, Request("add", "me@here", "t001", changes, "a hunch", id="1-a"))
    leave(inside, Request("add", "me@here", None, changes, id="2-b"))
    leave(inside, Request("stop", "me@here", "t002", reason="it leads nowhere", id="3-c"))


def damage_request(folder: Path, chance: random.Random) -> None:
    """Damage a request, or put something else in its place."""
    import os

    place = chance.choice(sorted(folder.glob("made-up/requests/*.json")))
    kind = chance.randrange(10)
    if kind == 0:
        place.unlink()
        what = chance.randrange(3)
        if what == 0:
            place.mkdir()
        elif what == 1:
            os.mkfifo(place)
        else:
            place.symlink_to(chance.choice(["/dev/zero", "/etc/passwd", "nowhere"]))
    elif kind == 1:
        place.rename(place.with_name(chance.choice(["\udcff.json", " .json", "x" * 200 + ".json"])))
    elif kind == 2:
        document = json.loads(place.read_text())
        path = chance.choice(["training", "method.adapter", "resources.workers", "storage", "tasks",
                              "training.seed", "name", "", ".", "a..b", "method.retention.kind",
                              "training.deepspeed.optimizer.type"])  # fmt: skip
        document["changes"] = {path: damage_document({"a": 1}, chance)}
        place.write_text(json.dumps(document), encoding="utf-8", errors="surrogatepass")
    else:
        damage_json(place, chance)


class _Nobody:
    """An observer that keeps nothing."""

    def note(self, text: str) -> None:
        text.encode()

    def event(self, event: Any, *, replayed: bool = False) -> None:
        json.dumps([event.to_line(), replayed], allow_nan=False)

    def progress(self, trial: str, progress: Any) -> None:
        pass


def use_requests(folder: Path) -> object:
    """What a driver does with them, and a second one that reads what the first has journalled."""
    from orchestrator.records.journal_lines import read_journal
    from orchestrator.records.sweep_state import SweepState
    from orchestrator.sweep.deciding import asked
    from tests.made_up_sweep import MadeUp, answers

    asked.LOOKS_SECONDS = 0.0
    place = folder / "made-up"
    for _ in range(2):
        made = MadeUp(place, _Nobody(), search=SEARCH)
        made.run(lambda name, _: answers(0.4 if name == "base" else 0.8, seed=len(name)))
    return SweepState.of(read_journal(place))


# --- bundles -------------------------------------------------------------------------------------


def write_bundle(folder: Path) -> None:
    """The bundle of a trial."""
    from orchestrator.serving.bundle.contents import bundle
    from orchestrator.serving.find import model_folder

    made = folder / "sweep"
    made.mkdir()
    write_sweep(made)
    storage, reference = made / "runs", f"{NAME}/t001"
    with model_folder(reference, storage, None) as model:
        bundle(model, storage, reference, folder / "it.zip")
    shutil.rmtree(made)


def damage_bundle(folder: Path, chance: random.Random) -> None:
    """Damage the archive's bytes, a member, the manifest, or what the archive says of a member."""
    from orchestrator.serving.bundle.archive import write_archive

    path = folder / "it.zip"
    kind = chance.randrange(6)
    if kind < 2:
        damage_bytes(path, chance)
        return
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if kind == 2:  # as no honest writer would
        name = chance.choice(sorted(files))
        files[name] = _damaged(files[name], folder, chance)
        odd = chance.choice([name, "../x", "/x", "a\\b", "x/../../y", ".", "a\nb", name + "\0"])
        with zipfile.ZipFile(path, "w", chance.choice([0, 8])) as archive:
            for member, content in files.items():
                archive.writestr(odd if member == name else member, content)
        return
    manifest = json.loads(files.pop("manifest.json"))
    facts = {key: value for key, value in manifest.items() if key not in {"files", "schema"}}
    if kind == 3:
        facts = damage_document(facts, chance)
        facts = facts if isinstance(facts, dict) else {"model": facts}
        facts = json.loads(json.dumps(facts).replace("\\ud83d", "?"))
    else:
        name = chance.choice(sorted(files))
        files[name] = _damaged(files[name], folder, chance)
    write_archive(path, files, facts)


def _damaged(content: bytes, folder: Path, chance: random.Random) -> bytes:
    """A member, damaged as a document where it is one."""
    place = folder / "member"
    place.write_bytes(content)
    try:
        json.loads(content)
    except ValueError:
        damage_bytes(place, chance)
    else:
        damage_json(place, chance)
    content = place.read_bytes()
    place.unlink()
    return content


def use_bundle(folder: Path) -> object:
    """What `orchestrate verify` does."""
    from typer.testing import CliRunner

    from orchestrator.cli import app
    from orchestrator.serving.bundle.verify import verify

    for words in (["verify", str(folder / "it.zip")], ["verify", str(folder / "it.zip"), "--json"]):
        done = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
    left = sorted(path.name for path in folder.rglob("*"))
    if left != ["it.zip"]:
        raise AssertionError(f"it was unpacked: {left}")
    return verify(folder / "it.zip")


# --- model cards ---------------------------------------------------------------------------------

MODEL_CARD = """---
license: apache-2.0
language: [en, de]
tags: [a, b]
model-index:
- name: it
  results: [{task: {type: text-generation}, metrics: [{type: accuracy, value: 0.5}]}]
---

# It

A model.
"""


def write_model_card(folder: Path) -> None:
    """The folder of a base with its card and its licence."""
    (folder / "README.md").write_text(MODEL_CARD)
    (folder / "LICENSE").write_text("Apache License\n\nVersion 2.0\n")


def damage_model_card(folder: Path, chance: random.Random) -> None:
    """Damage the card's metadata as YAML, or any of it as bytes."""
    card = folder / "README.md"
    kind = chance.randrange(4)
    if kind == 0:
        damage_bytes(chance.choice(sorted(folder.iterdir())), chance)
        return
    _, matter, rest = MODEL_CARD.split("---\n", 2)
    if kind == 1:
        levels = chance.randint(3, 40)
        bomb = ["a0: &a0 {k: v}", *(
            f"a{n}: &a{n} {chance.choice(['[*a%d, *a%d]', '{<<: [*a%d, *a%d]}']) % (n - 1, n - 1)}"
            for n in range(1, levels)
        ), f"license: *a{levels - 1}"]  # fmt: skip
        matter = "\n".join(bomb) + "\n"
    else:
        place = folder / "matter"
        place.write_text(matter)
        damage_bytes(place, chance)
        matter = place.read_bytes().decode(errors="replace")
        place.unlink()
    card.write_text(f"---\n{matter}---\n{rest}", encoding="utf-8", errors="surrogatepass")


def use_model_card(folder: Path) -> object:
    """What `orchestrate bundle` reads of the base's folder."""
    from orchestrator.serving.bundle.contents import _licence

    told = _licence(folder)
    if not isinstance(told["licence"], str) or not 0 < len(told["licence"]) <= 300:
        raise AssertionError(f"this is no licence: {told['licence']!r}")
    _as_json(told)
    return told
