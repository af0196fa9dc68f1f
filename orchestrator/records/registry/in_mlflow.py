"""What people deleted or renamed in MLflow, so that it stays so when MLflow is made anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.records.registry.change import BY_MLFLOW, Change
from orchestrator.records.registry.registry_file import open_registry, read_changes


class SeenInMlflow:
    """What the registry knows of the runs, the experiment and the model of one name."""

    def __init__(self, storage: Path, name: str) -> None:
        """Read it.

        Args:
            storage: The storage folder.
            name: The sweep's name.
        """
        self._storage, self._name = storage, name
        self._gone: set[str] = set()
        self._names: dict[str, str] = {}
        for change in read_changes(storage):
            if change.name == name and change.what is not None:
                self._take(change.event, change.what, change.now)

    def _take(self, event: str, what: str, now: str | None) -> None:
        if event == "deleted":
            self._gone.add(what)
        elif event == "restored":
            self._gone.discard(what)
        elif event == "renamed" and now is not None:
            self._names[what] = now

    def is_gone(self, what: str) -> bool:
        """Whether it was deleted, and not brought back."""
        return what in self._gone

    def name_of(self, what: str, usual: str) -> str:
        """The name that somebody gave it; the usual one where nobody did."""
        return self._names.get(what, usual)

    def found(self, there: Iterable[str], deleted: Sequence[str]) -> None:
        """Note what was deleted in MLflow since, and what was brought back.

        Args:
            there: What is there, such as `run SWEEP_ID/t001`.
            deleted: What is there, and deleted.
        """
        new = [what for what in deleted if what not in self._gone]
        back = [what for what in there if what in self._gone]
        self._note([("deleted", what, None) for what in new])
        self._note([("restored", what, None) for what in back])

    def named(self, what: str, usual: str, now: str) -> None:
        """Note another name that somebody gave it in MLflow.

        Args:
            what: Such as `experiment` or `model`.
            usual: The name that it was made with.
            now: Its name.
        """
        if self.name_of(what, usual) != now:
            self._note([("renamed", what, now)])

    def _note(self, found: Sequence[tuple[str, str, str | None]]) -> None:
        if not found:
            return
        with open_registry(self._storage) as registry:
            for event, what, now in found:
                registry.append(
                    Change(
                        event,  # pyright: ignore[reportArgumentType]
                        self._name, who=BY_MLFLOW, what=what, now=now,
                    )
                )  # fmt: skip
                self._take(event, what, now)
