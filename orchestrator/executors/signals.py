"""SIGTERM and Ctrl-C: SIGTERM as an interrupt, and stretches that neither interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigterm_as_interrupt() -> Iterator[Callable[[], None]]:
    """Meanwhile SIGTERM does what Ctrl-C does, whatever that is at the moment, and neither is lost.

    Python drops an exception that is raised while it runs a finaliser or the callback of a weak
    reference, and either signal may arrive there. What runs for long in this process should
    therefore ask now and then.

    Yields:
        A function that raises `KeyboardInterrupt` if one of the signals has been seen.
    """
    seen = False

    def ask() -> None:
        if seen:
            raise KeyboardInterrupt

    def interrupt(*_: Any) -> None:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    def terminate(*_: Any) -> None:
        # A shell starts what it puts in the background with SIGINT ignored.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            interrupt()
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield ask
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield ask
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Meanwhile neither Ctrl-C nor SIGTERM: half a shutdown leaves processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Meanwhile the first Ctrl-C or SIGTERM waits for the end of the block; a second does not.

    For short work of others that an exception in its middle would not survive quietly, such as
    MLflow's with its database.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    came: list[int] = []

    def hold(number: int, _: Any) -> None:
        came.append(number)
        _restore(before)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, hold)
    try:
        yield
    finally:
        _restore(before)
        if came:
            signal.raise_signal(came[0])


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
