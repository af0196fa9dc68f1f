"""The environment variables of this process, which other programs read and set.

Ray, MLflow and the libraries below them read dozens of them, which login scripts, job launchers
and notebooks set for purposes of their own. An experiment's file and the command's options say
which cluster and which MLflow are meant; what would lead elsewhere is set aside. Credentials,
certificates, proxies and timeouts are the user's, and stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def changed(values: Mapping[str, str | None]) -> Iterator[None]:
    """Meanwhile the environment of this process, and of what it starts, has other values.

    Args:
        values: By name; None takes the variable out.

    Yields:
        Nothing; afterwards every one of them is as it was.
    """
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def can_hold_files(folder: Path) -> bool:
    """Whether something can be written in a folder, which may have yet to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
