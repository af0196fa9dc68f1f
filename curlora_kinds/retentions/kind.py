"""A kind of retention: its settings, what it carries, what it does not go with, how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.pairs import Refusal, goes_with_all
from curlora_kinds.retentions.state import Setup, State
from curlora_kinds.settings import Setting, complete, maker

Values = dict[str, Any]
"""A value for every setting of a kind."""


def _all_agree(_: Values) -> None:
    """Let any values stand together."""


def _nothing(_: Setup) -> State:
    """Carry nothing."""
    return State()


def waits_for_a_second_task(_: Values) -> Values:
    """Let no setting act before a first task has ended."""
    return {}


@dataclass(frozen=True, kw_only=True)
class RetentionKind:
    """One row of the table of retentions."""

    name: str
    """What an experiment calls it."""
    summary: str
    """One line, with the paper."""
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    """What can be set, by name; everything has a default."""
    check: Callable[[Values], None] = _all_agree
    """Refuses, with a ValueError, values that are in their ranges and contradict each other."""
    made_by: str | Callable[..., Any]
    """The class as "module:name", or a function that gives the retention; it is called with a full
    set of settings. Only then is torch loaded: a function imports it itself."""
    why_not: Refusal = goes_with_all
    """From an adapter's kind and a full set of settings: why the two do not go together."""
    state: Callable[[Setup], State] = _nothing
    """What it carries from task to task."""
    guards_adapter: bool = True
    """Whether what it protects is in the adapter, so that there has to be one."""
    needs_whole_adapter: bool = False
    """Whether it puts other values in the adapter's place, or reads all of it at once."""
    packable: bool = False
    """Whether it can protect an adapter in a pack (`curlora.packing`)."""
    replays: bool = False
    """Whether rows of finished tasks join every batch."""
    reads_texts: bool = False
    """Whether it can take its statistics from named sets before the first task."""
    first_task: Callable[[Values], Values] | None = None
    """From a full set of settings to those that act while a first task is learnt, or leave a trace
    in what is carried by then. Trials that agree in them, and in all else, learn it alike, so that
    one can go on from what another has learnt; where nothing acts, trials of other kinds as well.
    None: this is not known, and every trial learns for itself."""
    follows: tuple[str, ...] = ()
    """How the names of those tensors of its state begin that follow the parameters step by step.
    They cannot be made from what a task ends with, so they are kept with it."""

    @property
    def defaults(self) -> Values:
        """The settings where nothing is said."""
        return {name: setting.default for name, setting in self.settings.items()}

    def complete(self, settings: Mapping[str, Any] | None = None) -> Values:
        """Check settings and fill in the defaults.

        Args:
            settings: Some of the settings.

        Returns:
            All of them, numbers of the setting's type.

        Raises:
            ValueError: A setting is unknown or outside its range, or two contradict each other.
        """
        values = complete(f"Retention {self.name!r}", self.settings, settings or {})
        self.check(values)
        return values

    def build(self, settings: Mapping[str, Any] | None = None) -> Any:
        """Build the retention.

        Args:
            settings: Some of the settings.

        Returns:
            A `curlora.retention.protocol.Retention` that has seen nothing.

        Raises:
            ValueError: A setting is unknown or wrong.
        """
        return maker(self.made_by)(**self.complete(settings))

    def refuses(self, adapter_kind: str, settings: Mapping[str, Any] | None = None) -> str | None:
        """Say why this retention does not go with an adapter.

        Args:
            adapter_kind: The adapter's name. `r`, among `settings`, may give its rank.
            settings: Some of the settings.

        Returns:
            The reason and what to do instead, or None if the two go together.

        Raises:
            ValueError: A setting is unknown or outside its range.
        """
        given = dict(settings or {})
        rank = given.pop("r", None)
        values = self.complete(given)
        if self.guards_adapter and ADAPTERS[adapter_kind].trains_nothing:
            return (
                f"`{adapter_kind}` trains no adapter, so there is nothing of earlier tasks to "
                "protect. Use retention `none`, or `replay`."
            )
        return self.why_not(adapter_kind, values | {"r": rank})
