"""Tables of what can be named: ours, and what plugins declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeGuard, TypeVar

Entry = TypeVar("Entry")


class Table(Mapping[str, Entry], Generic[Entry]):
    """Entries by name, in the order in which they came; plugins may add to it."""

    def __init__(
        self,
        noun: str,
        entries: Iterable[Entry],
        *,
        takes: Callable[[object], TypeGuard[Entry]],
        name_of: Callable[[Entry], str],
    ) -> None:
        """Make a table of our own entries.

        Args:
            noun: What an entry is, for messages.
            entries: Ours.
            takes: Whether something that a plugin declares is an entry of this table.
            name_of: Gives an entry's name.
        """
        self._noun, self._takes, self._name_of = noun, takes, name_of
        self._entries = {name_of(entry): entry for entry in entries}
        self._plugins: dict[str, str] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def plugin_of(self, name: str) -> str | None:
        """Say which plugin declares an entry.

        Args:
            name: The entry's name, which need not be in the table.

        Returns:
            The plugin's module; None for what is ours or unknown.
        """
        return self._plugins.get(name)

    def add(self, plugin: str, declared: Iterable[object]) -> list[str]:
        """Take what a plugin declares and this table holds.

        Args:
            plugin: The plugin's module.
            declared: All that it declares; what is of another kind, or here already, is left out.

        Returns:
            The names of the entries that were added.

        Raises:
            ValueError: A name is taken. Nothing is added then.
        """
        known = list(self._entries.values())
        fresh: dict[str, Entry] = {}
        for thing in declared:
            if not self._takes(thing) or any(thing is entry for entry in known):
                continue
            name = self._name_of(thing)
            if name in self._entries or name in fresh:
                owner = self._plugins.get(name, plugin if name in fresh else "")
                whose = f"of the plugin `{owner}`" if owner else "built in"
                raise ValueError(
                    f"it declares the {self._noun} {name!r}, and there is one of that name "
                    f"already, {whose}. Give it another name."
                )
            fresh[name] = thing
        self._entries |= fresh
        self._plugins |= dict.fromkeys(fresh, plugin)
        return list(fresh)

    def remove(self, plugin: str) -> None:
        """Forget what a plugin has declared.

        Args:
            plugin: The plugin's module.
        """
        for name in [name for name, owner in self._plugins.items() if owner == plugin]:
            del self._entries[name], self._plugins[name]
