"""The signs of life that a worker gives to the actor at whose desk the driver hears of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.system.pulse import pulse

BEAT_SECONDS = 5.0
"""How often a worker gives one, whatever it does."""


@contextmanager
def signs_of_life(actor: Any) -> Iterator[None]:
    """Meanwhile, tell an actor that this process is there and how it stands with its work.

    Args:
        actor: Its handle; `beat` is called with a `Pulse`.

    Yields:
        Nothing.
    """
    import ray
    from ray.exceptions import RayActorError

    done = threading.Event()

    def beat() -> None:
        while True:
            with suppress(RayActorError):  # whoever works meets it too, and decides
                ray.get(actor.beat.remote(pulse()))
            if done.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
