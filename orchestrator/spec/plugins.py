"""Plugins: a user's own adapters, retentions, measures and kinds of tasks; see `curlora_kinds`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curlora_kinds.plugins import (
    LOADED,
    OURS,
    Plugin,
    PluginError,
    how_to_load,
    load_plugin,
    load_plugins_of_environment,
    missing_plugins,
    unload_plugin,
)
from curlora_kinds.table import Table
from orchestrator.measures.objectives import MEASURES
from orchestrator.spec.task_kinds import TASK_KINDS
from orchestrator.system.user_error import UserError

TABLES: tuple[Table[Any], ...] = (*OURS, MEASURES, TASK_KINDS)
"""All that a plugin may add to."""


class PluginLoadError(UserError, PluginError):
    """A plugin that cannot be loaded; the message says which, why, and what to do."""


def load_plugins(references: Iterable[str], folder: Path | None = None) -> list[Plugin]:
    """Load plugins that somebody names; their code runs.

    Args:
        references: Modules, or paths of Python files.
        folder: Where their files may lie, see `curlora_kinds.plugins.load_plugin`.

    Returns:
        The plugins.

    Raises:
        PluginLoadError: One cannot be loaded, or declares nothing.
    """
    try:
        plugins = [load_plugin(name, folder=folder, tables=TABLES) for name in references]
    except PluginError as error:
        raise PluginLoadError(str(error)) from error.__cause__
    for plugin in plugins:
        if not any(table.plugin_of(name) == plugin.name for table in TABLES for name in table):
            raise PluginLoadError(
                f"The plugin {plugin.name!r} ({plugin.file}) declares nothing: give a public name "
                "in it an `AdapterKind`, a `RetentionKind`, a `Measure` or a kind of task."
            )
    return plugins


def load_installed_plugins() -> list[Plugin]:
    """Load the plugins that the environment names: entry points, and CURLORA_PLUGINS.

    Returns:
        The plugins.

    Raises:
        PluginLoadError: One cannot be loaded.
    """
    try:
        return load_plugins_of_environment(TABLES)
    except PluginError as error:
        raise PluginLoadError(str(error)) from error.__cause__


def unload_plugins() -> None:
    """Forget all plugins of this process."""
    for name in list(LOADED):
        unload_plugin(name, TABLES)


def what_is_missing(document: Any) -> str:
    """Say which plugins an experiment of a record names that are not loaded here.

    Args:
        document: The experiment as a journal or a model folder holds it; nothing is loaded for it.

    Returns:
        A sentence with a space before it; empty where none is missing.
    """
    names = document.get("plugins") if isinstance(document, dict) else None
    known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    missing = missing_plugins(known)
    return f" {how_to_load(missing)}" if missing else ""
