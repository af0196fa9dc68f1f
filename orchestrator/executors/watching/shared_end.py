"""Processes of Ray Train that end together with the process that began their run.

Ray ends the controller of a run when the actor that began it has died, but on a busy machine that
takes seconds, in which the controller goes on: it takes the removal of its placement group for a
failure of its workers and makes another group, which nobody removes any more. What it holds is
lost to the cluster (seen with Ray 2.60; a trial that was started again waited for it for ever).
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

import psutil
from ray.train import UserCallback

POLL_SECONDS = 0.2
"""How often is looked where the system cannot tell of a process's end by itself."""

_watched: set[int] = set()
_lock = threading.Lock()


class SharedEnd(UserCallback):
    """Put into a run's callbacks, ends each of its processes on this node together with this one.

    Ray Train hands callbacks to the processes of a run: whichever unpickles this one, watches.
    """

    def __init__(self) -> None:
        """Name this process as the one to watch."""
        self._pid, self._node = os.getpid(), _node()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin to watch, in a process of the run."""
        self.__dict__.update(state)
        if self._pid == os.getpid() or self._node != _node():
            return
        with _lock:
            if self._pid in _watched:
                return
            _watched.add(self._pid)
        threading.Thread(
            target=_end_with, args=(self._pid,), name="shared-end", daemon=True
        ).start()


def _node() -> str:
    """Ray's id of this node; empty where Ray is not connected."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _end_with(pid: int) -> None:
    """Wait for the end of a process, then end this one as SIGKILL would."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # not Linux; or a container that refuses this call
        while psutil.pid_exists(pid):
            time.sleep(POLL_SECONDS)
    else:
        waiting = select.poll()  # unlike `select.select`, for a descriptor of any number
        waiting.register(descriptor, select.POLLIN)
        waiting.poll()
    os._exit(1)
