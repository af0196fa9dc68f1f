"""Addresses that `storage` may be, and the folder on this machine that stands for one."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER_VARIABLE = "ORCHESTRATOR_STORES"
"""Names the folder of working folders; every node of a cluster needs the same one."""
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_CREDENTIALS = re.compile(r"://([^\s/]*|[^\s/@:]+:[^\s@]*)@")
"""A user before the host; the secret of a key may have slashes in it."""
_GONE_WITH_THE_PROCESS = {"memory"}
_NOT_A_STORE = {"http", "https", "ray", "sqlite", "postgresql", "mysql", "ftp", "git", "github"}


def is_address(storage: str | Path) -> bool:
    """Whether a storage is in an object store, not a folder (`file://` names a folder)."""
    scheme = _SCHEME.match(str(storage))
    return scheme is not None and scheme[1].lower() != "file"


def wrong_storage(storage: str) -> str | None:
    """Why sweeps cannot be kept there.

    Args:
        storage: The path of a folder, or an address.

    Returns:
        What is wrong and what to write, None where it may be a storage.
    """
    scheme = _SCHEME.match(storage)
    if scheme is None:
        return None if storage.strip() else "`storage` is empty; write the path of a folder"
    kind, parts = scheme[1].lower(), urlsplit(storage.strip())
    # First of all: every other message says the address.
    if _CREDENTIALS.search(storage) or (kind != "file" and (parts.query or parts.fragment)):
        return (
            "`storage` is an address with credentials or options in it, which would be written "
            "into journals; write scheme://BUCKET/PREFIX and give credentials in the environment"
        )
    if kind == "file":
        named = parts.netloc in {"", "localhost"} and parts.path.startswith("/")
        cure = "write file:///PATH, or the path alone"
        return None if named else f"`storage` is {storage!r}, which names no whole path; {cure}"
    if kind in _GONE_WITH_THE_PROCESS or kind in _NOT_A_STORE:
        return (
            f"`storage` is {storage!r}, and `{kind}://` keeps no files that outlive the process or "
            "can be written; write the path of a folder or the address of an object store, such as "
            "s3://BUCKET/PREFIX"
        )
    if not parts.netloc:
        return f"`storage` is {storage!r}, which names no bucket; write {kind}://BUCKET/PREFIX"
    return None


def plain_address(address: str) -> str:
    """An address in the one form in which it is compared: no blanks, no slash at its end."""
    text = address.strip().rstrip("/")
    scheme, _, rest = text.partition("://")
    return f"{scheme.lower()}://{re.sub(r'/+', '/', rest)}"


def stores_folder() -> Path:
    """The folder that holds a working folder for each address."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given).expanduser().resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(home) / "curlora-orchestrator" / "stores").resolve()


def working_folder(storage: str | Path) -> Path:
    """The folder on this machine in which the sweeps of a storage are worked on.

    Args:
        storage: The path of a folder, which is that folder itself, or an address.

    Returns:
        A path; of an address always the same one, whether anything is there or not.
    """
    text = str(storage)
    if is_address(text):
        address = plain_address(text)
        digest = hashlib.sha256(address.encode()).hexdigest()[:10]
        shown = re.sub(r"[^A-Za-z0-9]+", "-", address.partition("://")[2]).strip("-")[:40]
        return stores_folder() / f"{shown}-{digest}"
    if _SCHEME.match(text):
        return Path(unquote(urlsplit(text.strip()).path))
    return Path(text).expanduser()
