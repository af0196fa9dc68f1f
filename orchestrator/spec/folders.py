"""Paths of folders as an experiment file or an option names them."""

from __future__ import annotations

import re


def not_a_folder(storage: str) -> str | None:
    """Why a storage is not the path of a folder; None when it may be one."""
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", storage)
    if scheme is None:
        return None if storage.strip() else "`storage` is empty; write the path of a folder"
    cure = (
        "write its path, without `file://`"
        if scheme[1].lower() == "file"
        else "write the path of a folder, for example one where the bucket is mounted"
    )
    return f"`storage` is {storage!r}, an address, and sweeps are kept in a folder; {cure}"
