"""Locks between processes: a file that one of them holds, given free by the system when it ends."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
"""What file systems answer that cannot lock: Lustre without `-o flock`, some FUSE and SMB mounts,
NFS without a lock server."""
_POLL_SECONDS = 0.05


class LockingUnsupportedError(OSError):
    """The file system cannot lock; the message says where, and what to do."""


def try_lock(file: IO[Any], path: Path, *, shared: bool = False, wait_s: float = 0.0) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: The open file.
        path: Its path, for the message.
        shared: Let others hold it in the same way.
        wait_s: How long to try; 0: once.

    Returns:
        Whether it is locked now; False when another process has it.

    Raises:
        LockingUnsupportedError: If the file system cannot lock.
        OSError: If the lock cannot be asked for, for another reason.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            raise LockingUnsupportedError(
                error.errno,
                f"the file system cannot lock ({error.strerror}), and without a lock two processes "
                "could write at once. Set `storage` to a folder on a file system that can, or have "
                "this one mounted with locks (Lustre: `-o flock`; NFS 3: its lock server)",
                str(path),
            ) from None
        else:
            return True


def unlock(file: IO[Any]) -> None:
    """Give a lock free before the file is closed."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made when missing and left behind, while the body runs.

    Args:
        path: The file; nothing is written into it.

    Yields:
        Nothing, once every other holder has given it free.
    """
    with path.open("ab") as file:
        while not try_lock(file, path, wait_s=60.0):
            pass  # it is held for as long as a database takes to be made, or its holder lives
        yield
