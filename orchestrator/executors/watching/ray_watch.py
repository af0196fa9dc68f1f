"""Noticing that a process of Ray itself is gone, without which a driver cannot go on.

Ray notices it, too, after up to a minute in which nothing moves, and ends the driver's process with
its own words in the middle of whatever that does. So the processes are looked at from outside.
"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

LOOK_SECONDS = 0.5
"""How often the processes are looked at."""
MISSES = 6
"""How often in a row the head of a cluster may not answer."""
ANSWER_SECONDS = 3.0
"""How long it may take to answer."""
ROLES = {"gcs_server": "its head process", "raylet": "its process on this machine"}
"""Ray's own programs that a driver needs, in words."""


class RayGoneError(RuntimeError):
    """Ray is gone; the message says which of its processes."""


class RayWatch:
    """Looks at Ray's processes in a thread, and interrupts the driver where one is gone."""

    def __init__(self, processes: Sequence[psutil.Process], head: str | None) -> None:
        """Name what is needed.

        Args:
            processes: Of Ray on this machine, of which those of `ROLES` are looked at.
            head: HOST:PORT of the cluster's head, which must answer; None: it is not asked.
        """
        self._needed = [(process, name) for process in processes if (name := _name(process))]
        self._head, self._missed = head, 0
        self.gone = ""
        """What is gone, in words; empty while nothing is."""

    def look(self) -> str:
        """What is gone now, in words; empty where nothing is."""
        for process, name in self._needed:
            if not _runs(process):
                return f"{ROLES[name]} (`{name}`, process {process.pid}) has ended"
        if self._head is not None and not _answers(self._head):
            self._missed += 1
            if self._missed >= MISSES:
                return f"the head of its cluster at {self._head} does not answer any more"
        else:
            self._missed = 0
        return ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile, interrupt the body as soon as something is gone.

        Yields:
            Nothing.

        Raises:
            RayGoneError: If something was gone, whatever the body came to by that.
        """
        stop = threading.Event()
        interrupt = _interrupter()

        def look() -> None:
            while not stop.wait(LOOK_SECONDS):
                self.gone = self.look()
                if self.gone:
                    # What Ray would tell now is the end of its own logs.
                    logging.getLogger("ray._private.worker").setLevel(logging.CRITICAL)
                    interrupt()
                    return

        looks = threading.Thread(target=look, name="ray-watch", daemon=True)
        looks.start()
        _watches.append(self)
        try:
            yield
        except BaseException as error:
            if not self.gone and not isinstance(error, KeyboardInterrupt):
                self.gone = self.look()  # an error of Ray's may have come first
            if self.gone:
                raise RayGoneError(self.gone) from None
            raise
        finally:
            stop.set()
            _watches.remove(self)


def _interrupter() -> Callable[[], None]:
    """What interrupts the thread that calls this, where that is the main one."""
    caller = threading.current_thread()
    if caller is not threading.main_thread() or caller.ident is None:
        return lambda: None
    ident = caller.ident
    # A command that a shell has put into the background ignores SIGINT; a sweep's own handler of
    # SIGTERM interrupts it all the same.
    handled = callable(signal.getsignal(signal.SIGTERM))
    number = signal.SIGTERM if handled else signal.SIGINT
    return lambda: signal.pthread_kill(ident, number)


def _name(process: psutil.Process) -> str | None:
    try:
        return process.name() if process.name() in ROLES else None
    except psutil.Error:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _answers(head: str) -> bool:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def session_folder() -> Path | None:
    """Where the Ray to which this process is connected keeps logs and sockets."""
    node = _node()
    return None if node is None else Path(node.get_session_dir_path())


def _node() -> Any:
    """Ray's own object of this machine; nothing public says what it knows."""
    return importlib.import_module("ray._private.worker").global_worker.node


def own_raylet() -> list[psutil.Process]:
    """The process of a joined cluster on this machine to which this driver is connected."""
    node = _node()
    name = str(getattr(node, "raylet_socket_name", "") or "")
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["name", "cmdline"]) if name else ():
        words = process.info["cmdline"] or ()
        if process.info["name"] == "raylet" and any(name in word for word in words):
            found.append(process)
    return found


_watches: list[RayWatch] = []
"""Those that look now."""


def ray_is_gone() -> bool:
    """Whether Ray is known to be gone, so that nothing is to be asked of it any more."""
    return any(watch.gone for watch in _watches)
