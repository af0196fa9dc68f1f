"""Champions, their history and their challengers for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, table
from orchestrator.records.cards.card_files import card_file
from orchestrator.records.registry.change import BY_VERDICT, Change
from orchestrator.registry.champions.champion import Champion
from orchestrator.registry.champions.comparison import Comparison, Reading
from orchestrator.registry.champions.knowledge import Score, TaskKnowledge, knowledge
from orchestrator.system.formatting import moment, show, show_interval, show_setting

_WORDS = {
    "decided": "chosen by the verdict",
    "promoted": "promoted",
    "rolled_back": "rolled back to",
    "moved": "alias moved in MLflow",
    "withdrawn": "alias taken away in MLflow",
    "renamed": "renamed in MLflow",
    "deleted": "deleted in MLflow",
    "restored": "brought back in MLflow",
}
_DIGITS = 4


def champion_document(found: Champion, storage: Path) -> dict[str, Any]:
    """A champion for programs.

    Args:
        found: The champion.
        storage: The storage folder.

    Returns:
        Which adapter, since when, who chose it and why, `knows` by task, and the whole `card`.
    """
    card, key, folder = found.found.card, found.key, found.found.folder
    place = found.found.place
    return {
        "model": found.name,
        "version": found.version,
        "reference": key.reference,
        **{name: getattr(key, name) for name in ("sweep", "sweep_id", "trial", "learnt", "task")},
        "registered": found.since.time,
        "event": found.since.event,
        "who": found.since.who,
        "reason": found.since.reason,
        "overridden": list(found.since.overridden),
        "by_hand": found.by_hand,
        "challenger": None if found.challenger is None else found.challenger.reference,
        "previous": None if found.previous is None else found.previous.reference,
        "unasked": found.unasked,
        "folder": str(folder.path.resolve()),
        "adapter": None if place is None else str(place.resolve()),
        "storage": str(storage.resolve()),
        **{
            name: card[name]
            for name in ("base", "data", "code", "packages", "seeds", "overrides", "measures",
                         "gain_interval", "test")
        },
        "knows": [asdict(row) for row in knowledge(card)],
        "card": card,
    }  # fmt: skip


def render_champion(found: Champion) -> RenderableType:
    """A champion on one screen: who, why, what it knows and has forgotten, what it is made of."""
    card, since, key = found.found.card, found.since, found.key
    version = "" if found.version is None else f", version {found.version}"
    title = f"{found.name}@champion: {key.reference}{version}"
    known = table(
        title, "task", "base", "when learnt", "now", "95 %", "n", "forgotten", "test", "95 %", "n",
        left={"task"},
    )  # fmt: skip
    for row in knowledge(card):
        add_cells(known, _knowledge_cells(row), style="" if row.learnt else "dim")
    facts = table("", "what", "value", left={"what", "value"})
    for what, value in _facts(found):
        facts.add_row(Text(what), Text(value))
    facts.show_header = False
    lines = [f"{_happened(since)}: {since.reason or 'no reason was given'}"]
    lines += [f"against it spoke: {sentence}" for sentence in since.overridden]
    if found.challenger is not None:
        lines.append(
            f"challenger: {found.challenger.reference}, which the last verdict chose; "
            f"orchestrate champion compare {found.name} {found.challenger.reference}"
        )
    if found.previous is not None:
        lines.append(f"a roll-back goes to {found.previous.reference}")
    if found.unasked is not None:
        lines.append(found.unasked)
    return Group(known, Text("\n".join(lines)), facts)


def _happened(change: Change) -> str:
    by = "" if change.who == BY_VERDICT else f" by {change.who}"
    return f"{_WORDS.get(change.event, change.event)}{by} on {moment(change.time)}"


def _knowledge_cells(row: TaskKnowledge) -> list[str]:
    name = row.task if row.learnt else f"{row.task} (not learnt)"
    return [
        name, _value(row.base), _value(row.learning), *_scored(row.now),
        show(row.forgotten, signed=True, digits=_DIGITS), *_scored(row.test),
    ]  # fmt: skip


def _value(score: Score) -> str:
    return show(score["value"], digits=_DIGITS)


def _scored(score: Score) -> list[str]:
    known = score["low"] is not None
    interval = f"[{score['low']:.3f}, {score['high']:.3f}]" if known else "-"
    examples = score["examples"]
    return [_value(score), interval, "-" if examples is None else str(examples)]


def _facts(found: Champion) -> Iterable[tuple[str, str]]:
    card = found.found.card
    low_high = card["gain_interval"]
    measures = {k: v for k, v in card["measures"].items() if isinstance(v, int | float)}
    if measures:
        shown = ", ".join(f"{name} {v:.6g}" for name, v in measures.items())
        yield "measures", shown + (f"; gain {show_interval(low_high)}" if low_high else "")
    if card["test"]:
        test = card["test"]
        interval = show_interval(test["gain_interval"])
        yield (
            "test",
            f"gain {show(test['gain'], signed=True)} {interval}, reading {test['reading']}",
        )
    else:
        yield "test", "not read"
    method = card["method"]
    kinds = [method["adapter"]["kind"], (method.get("retention") or {}).get("kind")]
    yield "method", " with ".join(kind for kind in kinds if kind and kind != "none")
    if card["overrides"]:
        yield (
            "settings",
            ", ".join(
                f"{path}={show_setting(path, value, exact=True)}"
                for path, value in card["overrides"].items()
            ),
        )
    base = card["base"]
    yield "base", f"{base['name'] or base['gguf']} sha256 {base['sha256'] or 'unknown'}"
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in card["seeds"].items()) or "-"
    cost = card["cost"]
    yield (
        "cost",
        f"{cost['steps']} steps, {cost['tokens'] or '-'} tokens, {show(cost['seconds'])} s",
    )
    place, folder = found.found.place, found.found.folder
    yield "adapter", f"{place or 'not kept'} sha256 {card['adapter']['sha256'] or 'unknown'}"
    yield "card", str(card_file(folder, found.key.trial, card["learnt"]))


def render_history(name: str, changes: Iterable[Change]) -> RenderableType:
    """Everything that became of the champions of a name, the latest last."""
    shown = table(
        f"{name}: champions, the last line is the latest", "line", "when", "what", "adapter", "who",
        "why", left={"when", "what", "adapter", "who", "why"},
    )  # fmt: skip
    for change in changes:
        add_cells(
            shown,
            [
                "-" if change.n < 0 else str(change.n), moment(change.time), _what(change),
                "-" if change.adapter is None else change.adapter.reference, change.who,
                "; ".join(filter(None, [change.reason, *_although(change)])),
            ],
        )  # fmt: skip
    return shown


def _although(change: Change) -> list[str]:
    return [f"although {sentence}" for sentence in change.overridden]


def _what(change: Change) -> str:
    word = _WORDS.get(change.event, change.event)
    if change.event == "decided" and not change.stands:
        return f"{word}, and stays challenger"
    if change.what is not None:
        return f"{change.what} {word}" + (f" to {change.now}" if change.now else "")
    return word


def history_document(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The same for programs: the lines as the registry has them."""
    return [{"n": c.n, "time": c.time, "stands": c.stands, **c.to_line()} for c in changes]


def render_comparison(found: Comparison) -> RenderableType:
    """A challenger beside the champion."""
    champion, challenger = found.champion.key.reference, found.challenger.key.reference
    tables = [_reading(reading, champion, challenger) for reading in found.readings]
    if found.against:
        words = [f"against a promotion speaks: {sentence}" for sentence in found.against]
        words.append("`--force` with `--reason` promotes it all the same")
    else:
        words = ["nothing speaks against a promotion: same base, same data, test data read"]
    if found.champion.unasked is not None:
        words.append(found.champion.unasked)
    words.append(f'orchestrate champion promote {challenger} --to {found.name} --reason "..."')
    return Group(*tables, Text("\n".join(words)))


def _reading(reading: Reading, champion: str, challenger: str) -> RenderableType:
    shown = table(
        f"{challenger} minus {champion} on {reading.data} examples", "task", "champion",
        "challenger", "difference", "95 %, paired", "n", left={"task"},
    )  # fmt: skip
    for row in reading.tasks:
        apart = None
        if row.champion is not None and row.challenger is not None:
            apart = row.challenger - row.champion
        add_cells(
            shown,
            [
                row.task, show(row.champion, digits=_DIGITS), show(row.challenger, digits=_DIGITS),
                show(apart, signed=True, digits=_DIGITS), show_interval(row.interval),
                "-" if row.examples is None else str(row.examples),
            ],
        )  # fmt: skip
    add_cells(
        shown,
        ["mean", "", "", show(reading.difference, signed=True, digits=_DIGITS),
         show_interval(reading.interval), ""],
        style="bold",
    )  # fmt: skip
    return shown


def comparison_document(found: Comparison) -> Mapping[str, Any]:
    """The same for programs."""
    return {
        "name": found.name,
        "champion": found.champion.key.reference,
        "challenger": found.challenger.key.reference,
        "against": list(found.against),
        "readings": [asdict(reading) for reading in found.readings],
        "cards": {"champion": found.champion.found.card, "challenger": found.challenger.card},
    }
