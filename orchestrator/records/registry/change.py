"""A line of the registry: something that became of a champion, or of what MLflow shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.system.field_types import check_of
from orchestrator.system.strict_json import without_nan

Kind = Literal[
    "decided",      # a verdict has named a champion
    "promoted",     # somebody made an adapter champion with our commands or pages
    "rolled_back",  # somebody made the champion before this one champion again
    "moved",        # the alias was given to another version in MLflow
    "withdrawn",    # the alias was taken away in MLflow
    "shown",        # we gave the alias to the champion's version in MLflow
    "renamed",      # a run, an experiment or a registered model has another name in MLflow
    "deleted",      # it was deleted there
    "restored",     # it was brought back there
]  # fmt: skip
KINDS = get_args(Kind)
BY_VERDICT = "driver"
"""Who changes a champion by a verdict."""
BY_MLFLOW = "unknown/MLflow"
"""Who has changed something in MLflow, which does not say who it was."""


@dataclass(frozen=True)
class Change:
    """One line of `registry.jsonl`."""

    event: Kind
    name: str
    """The registered model: the name of its sweep."""
    who: str = ""
    """`USER@HOST`, `driver`, or `unknown/MLflow`."""
    reason: str = ""
    """Why, as it was given; of a verdict its own reason."""
    adapter: AdapterKey | None = None
    """The adapter that it is about; None where nothing is champion any more, or where MLflow's
    version is none of ours."""
    before: AdapterKey | None = None
    """Who was champion until then."""
    stands: bool = True
    """Whether it made the adapter champion; a verdict does not where a person chose another one."""
    overridden: tuple[str, ...] = ()
    """What spoke against a promotion that was forced, a sentence each."""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was known: `measures`, `gain_interval`, `test`, `scores`, and `journal_line`, the number
    of the verdict or the report in the sweep's journal."""
    version: str | None = None
    """MLflow's version of the adapter, of `shown` and `moved`."""
    what: str | None = None
    """Of `renamed`, `deleted` and `restored`: `run`, `experiment` or `model`, and whose:
    `run SWEEP_ID/TRIAL`."""
    now: str | None = None
    """Its new name."""
    n: int = field(default=-1, kw_only=True)
    """The number of its line, from 0; -1 of a change that the sweep's journal alone knows of."""
    time: float | None = field(default=None, kw_only=True)
    """Seconds since the epoch."""

    @property
    def sets(self) -> bool:
        """Whether it says who is champion."""
        return self.event in {"promoted", "rolled_back", "moved", "withdrawn"} or (
            self.event == "decided" and self.stands
        )

    def to_line(self) -> dict[str, Any]:
        """The line, without its number and time; what says nothing is left out."""
        line: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in {"n", "time"} or value in (None, "", (), {}):
                continue
            line[one.name] = value.as_document() if isinstance(value, AdapterKey) else value
        if self.stands:
            del line["stands"]
        return line

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self | None:
        """The change of a line.

        Args:
            line: The line.

        Returns:
            The change; None of a kind that a later version writes.

        Raises:
            ValueError: If a field is of a type that no version writes, or a number is not finite.
        """
        event = line.get("event")
        if not isinstance(event, str) or event not in KINDS:
            return None
        if line != without_nan(line):
            raise ValueError("a number in it is not finite")
        known = {one.name for one in fields(cls)}
        held = {key: value for key, value in line.items() if key in known and value is not None}
        for key in ("adapter", "before"):
            if key in held:
                held[key] = AdapterKey.from_document(held[key])
        for key, check in _CHECKS.items():
            if key in held and not check(held[key]):
                raise ValueError(f"`{key}` is of another type")
        for key, check in _EVIDENCE_CHECKS.items():
            if key in held.get("evidence", {}) and not check(held["evidence"][key]):
                raise ValueError(f"`evidence.{key}` is of another type")
        held["overridden"] = tuple(held.get("overridden", ()))
        whole: dict[str, Any] = {"name": "", **held}
        return cls(**whole)


_TYPES: dict[str, Any] = {
    "name": str, "who": str, "reason": str, "stands": bool, "overridden": list[str],
    "evidence": dict, "version": str, "what": str, "now": str, "n": int, "time": float,
}  # fmt: skip
_CHECKS = {name: check_of(hint) for name, hint in _TYPES.items()}
_EVIDENCE: dict[str, Any] = {
    "measures": dict[str, float], "gain_interval": tuple[float, float] | None, "scores": dict,
    "test": dict | None, "journal_line": int | None, "verdict_time": float,
}  # fmt: skip
_EVIDENCE_CHECKS = {name: check_of(hint) for name, hint in _EVIDENCE.items()}
