"""Who is champion, folded from the lines of the registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.change import BY_VERDICT, Change

_OF_ALIAS = {"shown", "moved", "withdrawn"}


@dataclass
class Standing:
    """What the registry says of one name."""

    name: str
    changes: list[Change] = field(default_factory=list[Change])
    """All of that name, oldest first."""
    line: list[Change] = field(default_factory=list[Change])
    """The changes by which the champions came that a roll-back could go to, the last in force."""
    decided: Change | None = None
    """The last verdict, whether or not it stands."""
    versions: dict[tuple[str, str, int], str] = field(
        default_factory=dict[tuple[str, str, int], str]
    )
    """MLflow's versions by sweep identity, trial and tasks learnt."""

    @classmethod
    def of(cls, name: str, changes: Iterable[Change]) -> Self:
        """Fold the changes of a name; those of others are passed over."""
        made = cls(name)
        for change in changes:
            if change.name == name:
                made.take(change)
        return made

    def take(self, change: Change) -> None:
        """Take in the next change of this name."""
        self.changes.append(change)
        if change.version is not None and change.adapter is not None:
            key = change.adapter
            self.versions[key.sweep_id, key.trial, key.learnt] = change.version
        if change.event == "decided":
            self.decided = change
        if not change.sets:
            return
        if change.event == "rolled_back":
            self._go_back(change)
        else:
            self.line.append(change)

    def _go_back(self, change: Change) -> None:
        """Put a roll-back in the place of the champion that it goes back to."""
        places = [
            index
            for index, earlier in enumerate(self.line[:-1])
            if change.adapter is not None and change.adapter.is_same(earlier.adapter)
        ]
        self.line = [*self.line[: places[-1] if places else len(self.line)], change]

    @property
    def current(self) -> Change | None:
        """The change that says who is champion; None where nobody ever was."""
        return self.line[-1] if self.line else None

    @property
    def last_of_alias(self) -> Change | None:
        """What was last known to become of the alias in MLflow, by us or by a person."""
        return next((c for c in reversed(self.changes) if c.event in _OF_ALIAS), None)

    @property
    def champion(self) -> AdapterKey | None:
        """The champion; None where there is none, or MLflow's version is none of ours."""
        return self.current.adapter if self.current is not None else None

    @property
    def by_hand(self) -> bool:
        """Whether a person chose the champion, so that no verdict takes its place.

        A person who chooses what the last verdict chose leaves it to the next verdict.
        """
        current, decided = self.current, self.decided
        if current is None or current.who == BY_VERDICT:
            return False
        return not (
            decided is not None
            and current.adapter is not None
            and current.adapter.is_same(decided.adapter)
        )

    @property
    def previous(self) -> AdapterKey | None:
        """The champion that a roll-back goes to; None where there is none."""
        for earlier in reversed(self.line[:-1]):
            if earlier.adapter is not None and not earlier.adapter.is_same(self.champion):
                return earlier.adapter
        return None

    def version_of(self, key: AdapterKey | None) -> str | None:
        """MLflow's version of an adapter, as far as the registry knows."""
        return None if key is None else self.versions.get((key.sweep_id, key.trial, key.learnt))
