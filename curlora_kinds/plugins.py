"""A user's own kinds: modules that declare them, and that were named by somebody.

    load_plugin("my_method", folder=Path("experiments"))

A plugin is a module like those that declare our own kinds: every public name in it that holds an
`AdapterKind`, a `RetentionKind` or another entry of a table is added to that table. It is found as
a file, `my_method.py` or `my_method/__init__.py`, beside the experiment file that names it, or else
as a module that can be imported.

**A plugin is code, and runs when it is loaded.** It is loaded only where an experiment file, a
caller or the environment names it: the entry points `curlora.plugins` of what is installed, and the
variable CURLORA_PLUGINS. What a saved adapter or a journal names is never loaded on that ground.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.table import RETENTIONS
from curlora_kinds.table import Table

ENTRY_POINTS = "curlora.plugins"
"""The group in which an installed package names its plugins."""
VARIABLE = "CURLORA_PLUGINS"
"""The environment variable that names plugins, separated by commas."""
_LONGEST_NAME, _LONGEST_PATH = 200, 2000
"""Characters; a file system refuses to look for longer ones."""

_PINNED = "#sha256="
"""Between the reference of a plugin and the hash that its source must have."""


class PluginError(ValueError):
    """A plugin that cannot be loaded; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that has been loaded."""

    name: str
    """Its module."""
    reference: str
    """What finds it in another process: the path of its file, or the module's name."""
    file: Path
    """The file of the module."""
    sha256: str
    """Of its source: of that file, or of every Python file of the package that it belongs to."""

    @property
    def pinned(self) -> str:
        """A reference that takes no other source."""
        return f"{self.reference}{_PINNED}{self.sha256}"


LOADED: dict[str, Plugin] = {}
"""The plugins of this process by their modules, in the order in which they were loaded."""

OURS: tuple[Table[Any], ...] = (ADAPTERS, RETENTIONS)


def load_plugin(
    reference: str, *, folder: Path | None = None, tables: Sequence[Table[Any]] = OURS
) -> Plugin:
    """Import a plugin and add what it declares to the tables; its code runs.

    Args:
        reference: A module's name, or the path of a Python file.
        folder: Where the file of a name is looked for first, and what a path is relative to. None:
            a name is imported, and a path is relative to the working directory.
        tables: What it may add to.

    Returns:
        The plugin, which may have been loaded before.

    Raises:
        PluginError: There is no such module, it fails while it is imported, it is not the source
            that was named or that this process has loaded, or a name that it declares is taken.
    """
    plain, _, wanted = reference.partition(_PINNED)
    name, file = _located(plain, folder)
    known = LOADED.get(name)
    if known is not None and known.sha256 == wanted:
        plugin = known
    else:
        module = _imported(plain, name, file)
        own = Path(str(module.__file__))
        plugin = Plugin(name, str(file or name), own, _source_sha256(module))
        _check_source(plain, plugin, known, wanted)
    declared = [v for key, v in vars(sys.modules[name]).items() if not key.startswith("_")]
    try:
        for table in tables:
            table.add(name, declared)
    except ValueError as error:
        if known is None:
            unload_plugin(name, tables)
        raise PluginError(f"The plugin {plain!r} ({plugin.file}) cannot be used: {error}") from None
    LOADED[name] = plugin
    return plugin


def unload_plugin(name: str, tables: Sequence[Table[Any]] = OURS) -> None:
    """Forget a plugin and what it declares, as far as this process knows of it.

    Args:
        name: Its module.
        tables: What it was added to.
    """
    for table in tables:
        table.remove(name)
    LOADED.pop(name, None)
    sys.modules.pop(name, None)


def plugins_of_environment() -> list[str]:
    """References of the plugins that installed packages and CURLORA_PLUGINS name."""
    installed = [point.module for point in metadata.entry_points(group=ENTRY_POINTS)]
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return list(dict.fromkeys([*installed, *filter(None, named)]))


def load_plugins_of_environment(tables: Sequence[Table[Any]] = OURS) -> list[Plugin]:
    """Load the plugins that installed packages and the variable CURLORA_PLUGINS name.

    Args:
        tables: What they may add to.

    Returns:
        The plugins. One that cannot be loaded is a `PluginError`.
    """
    return [load_plugin(reference, tables=tables) for reference in plugins_of_environment()]


def missing_plugins(names: Iterable[str]) -> list[str]:
    """Give those of some references whose plugins this process has not loaded.

    Args:
        names: Modules, paths of files, or pinned references.

    Returns:
        The modules.
    """
    modules = (_module_name(name.partition(_PINNED)[0]) for name in names)
    return [name for name in dict.fromkeys(modules) if name not in LOADED]


def how_to_load(names: Sequence[str]) -> str:
    """Say how plugins are loaded that something needs.

    Args:
        names: Modules.

    Returns:
        A sentence.
    """
    quoted = ", ".join(f"`{name}`" for name in names)
    return (
        f"It needs the plugin {quoted}, which is not loaded. If you trust its code, name it in the "
        f"variable {VARIABLE} (a module or the path of its file), or call "
        "`curlora.load_plugin` with that first."
    )


def _module_name(reference: str) -> str:
    """The module of a reference: of a path, its stem, or its folder's name for a package."""
    if not _is_path(reference):
        return reference
    path = Path(reference)
    return path.parent.name if path.name == "__init__.py" else path.stem


def _is_path(reference: str) -> bool:
    return reference.endswith(".py") or os.sep in reference


def _located(reference: str, folder: Path | None) -> tuple[str, Path | None]:
    """The module's name, and its file where that is known; None where it is to be imported."""
    name = _module_name(reference)
    names = Path(reference).parts
    possible = len(reference) <= _LONGEST_PATH and all(len(n) <= _LONGEST_NAME for n in names)
    is_module = all(part.isidentifier() for part in name.split("."))
    if not (possible and is_module) or "\0" in reference:
        raise PluginError(
            f"The plugin {reference[:200]!r} is neither the name of a module, such as "
            "`my_method`, nor the path of a Python file whose name can be a module's, such as "
            "`./my_method.py`."
        )
    if _is_path(reference):
        file = ((folder or Path.cwd()) / Path(reference).expanduser()).resolve()
        # On another machine the file may have come as a module.
        return name, file if file.is_file() else None
    # Whoever names no folder gets no file of whatever folder the command runs in.
    if folder is not None and "." not in name:
        for file in (folder / f"{name}.py", folder / name / "__init__.py"):
            if file.is_file():
                return name, file.resolve()
    return name, None


def _imported(reference: str, name: str, file: Path | None) -> ModuleType:
    """The module, imported unless it was before."""
    if name in sys.modules:
        module = sys.modules[name]
        own = getattr(module, "__file__", None)
        if own is None or (file is not None and Path(own).resolve() != file):
            raise PluginError(
                f"The plugin {reference!r} is {file}, and another module {name!r} is loaded, "
                f"{own or 'which has no file'}. Give the plugin another name."
            )
        return module
    try:
        return importlib.import_module(name) if file is None else _from_file(name, file)
    except ModuleNotFoundError as error:
        if error.name == name.split(".", maxsplit=1)[0] and file is None:
            raise PluginError(
                f"There is no plugin {reference!r}: neither a file {name}.py in the folder of "
                "the file that names it, nor a module that can be imported here. In `plugins`, "
                "write the module's name, or the path of its file; on a cluster, install it on "
                "every node, or keep it in a single file."
            ) from None
        raise PluginError(_failed(reference, error)) from error
    except Exception as error:  # whatever the user's code raises
        raise PluginError(_failed(reference, error)) from error


def _from_file(name: str, file: Path) -> ModuleType:
    places = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Pickles, and kinds that name their classes, look for it there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _failed(reference: str, error: BaseException) -> str:
    return (
        f"The plugin {reference!r} cannot be imported: {type(error).__name__}: {error}. It must "
        "not import files that lie beside it; make it a package (a folder with `__init__.py`) or "
        "install what it needs."
        if isinstance(error, ImportError)
        else f"The plugin {reference!r} fails while it is imported: {type(error).__name__}: {error}"
    )


def _source_sha256(module: ModuleType) -> str:
    """A hash of the module's file, or of every Python file of its top package, with their names."""
    top = sys.modules.get(module.__name__.split(".", maxsplit=1)[0], module)
    file = Path(str(top.__file__ or module.__file__))
    if not hasattr(top, "__path__"):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for part in sorted(file.parent.rglob("*.py")):
        digest.update(f"{part.relative_to(file.parent).as_posix()}\0".encode())
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def _check_source(reference: str, plugin: Plugin, known: Plugin | None, wanted: str) -> None:
    """Refuse a source that is not the one that was named, or that this process runs."""
    if wanted and plugin.sha256 != wanted:
        if known is None:
            sys.modules.pop(plugin.name, None)  # what was imported is the wrong source
        raise PluginError(
            f"The plugin {reference!r} ({plugin.file}) is not the source that the sweep goes on "
            f"with: its SHA-256 is {plugin.sha256[:12]}..., and should be {wanted[:12]}.... "
            "Undo the change, or stop the sweep and give its command again."
        )
    if known is not None and known.sha256 != plugin.sha256:
        raise PluginError(
            f"The plugin {reference!r} ({plugin.file}) was changed since this process loaded it. "
            "Start a new process."
        )
