"""One adapter of a trial: after how many tasks it was kept, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from orchestrator.records.event import TRIAL_NAME
from orchestrator.system.field_types import wrong_fields
from orchestrator.system.user_error import UsageError
from orchestrator.system.wording import suggestion


def is_folder_name(name: str) -> bool:
    """Whether a text names one folder in another, and nothing outside of it."""
    return bool(name) and name not in {".", ".."} and not set(name) & {"/", "\\", "\0"}


@dataclass(frozen=True)
class AdapterKey:
    """Which adapter: told by the sweep's identity, the trial and the tasks learnt; never a path."""

    sweep: str
    """The sweep's name, which is that of its folder when it began."""
    sweep_id: str
    """What no other sweep shares."""
    trial: str
    learnt: int
    """How many tasks it had learnt."""
    task: str | None = None
    """The task that it had learnt last; None of the adapter after the last task."""
    adapter_sha256: str | None = None
    """The hash of its files; None of an earlier version."""

    @property
    def reference(self) -> str:
        """How commands name it: `SWEEP/TRIAL`, or `SWEEP/TRIAL@TASK` before the last task."""
        return f"{self.sweep}/{self.trial}" + ("" if self.task is None else f"@{self.task}")

    def is_same(self, other: AdapterKey | None) -> bool:
        """Whether both are the same adapter of the same sweep, whatever the sweep is called."""
        if other is None:
            return False
        own = (self.sweep_id, self.trial, self.learnt, self.adapter_sha256)
        return own == (other.sweep_id, other.trial, other.learnt, other.adapter_sha256)

    def as_document(self) -> dict[str, Any]:
        """The key as JSON has it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The key of a JSON document; what a later version added is left out.

        Args:
            document: What `as_document` gave.

        Returns:
            The key.

        Raises:
            ValueError: If a field is of another type, or names what no sweep or trial is called: a
                registry may be anybody's, and both are names of folders.
        """
        if not isinstance(document, Mapping):
            raise ValueError("an adapter should be an object")  # noqa: TRY004 (as all of it)
        held = {name: document.get(name) for name in cls.__dataclass_fields__}
        key = cls(**(held | {"learnt": document.get("learnt") or 0}))  # pyright: ignore[reportArgumentType]
        for name, wanted in wrong_fields(key).items():
            raise ValueError(f"`{name}` of an adapter should be {wanted}")
        if TRIAL_NAME.fullmatch(key.trial) is None or not is_folder_name(key.sweep):
            raise ValueError("an adapter names no sweep or no trial")
        return key


def split_reference(reference: str) -> tuple[str, str, str | None]:
    """The parts of `SWEEP/TRIAL` or `SWEEP/TRIAL@TASK`.

    Args:
        reference: What the user wrote.

    Returns:
        The sweep, the trial, and what follows `@`, if anything does.

    Raises:
        UsageError: If it is written otherwise.
    """
    sweep, slash, rest = reference.partition("/")
    trial, at, task = rest.partition("@")
    if not slash or not sweep or not trial or (at and not task):
        raise UsageError(
            f"A trial's adapter is written SWEEP/TRIAL or SWEEP/TRIAL@TASK, got {reference!r}."
        )
    return sweep, trial, task or None


def learnt_of(task: str | None, order: Sequence[str], reference: str) -> int:
    """After how many tasks an adapter was kept.

    Args:
        task: The task that it had learnt last, or how many it had learnt; None: all.
        order: The tasks in the order in which its trial learns them.
        reference: What the user wrote, for the message.

    Returns:
        The number of tasks, from 1.

    Raises:
        UsageError: If the trial learns no such task.
    """
    if task is None:
        return len(order)
    if task in order:
        return order.index(task) + 1
    if task.isdigit() and 1 <= int(task) <= len(order):
        return int(task)
    raise UsageError(
        f"{reference!r}: after `@` should stand one of its tasks ({', '.join(order)}), or how many "
        f"of them were learnt (1 to {len(order)}), got {task!r}.{suggestion(task, list(order))}"
    )
