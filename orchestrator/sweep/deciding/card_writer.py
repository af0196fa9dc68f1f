"""Cards of adapters, written beside them as the journal's lines arrive.

What a card holds is worked out when its line has been written; a thread writes it and waits for the
disk, so that no trial does: all that has come meanwhile at once. `MARK` says up to which line every
card is written: what came after it when a driver was killed is written by the next one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from orchestrator.records.cards.card import card_text
from orchestrator.records.cards.card_files import (
    Key,
    card_documents,
    card_file,
    touched_by,
    write_cards,
)
from orchestrator.records.errors import TrackingError
from orchestrator.records.event import Event, Line
from orchestrator.records.events import SweepContinued, TrialEnded, TrialStarted, read_events
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.experiment import Experiment
from orchestrator.system import durable

MARK = "cards.json"
"""In the folder of trials: the last line of the journal whose cards are all written."""

_MARK_SECONDS = 1.0
"""How old a mark may be while cards are written: it costs as much as one of them."""


class CardWriter:
    """Writes the cards of a running sweep; used from the driver's thread."""

    def __init__(self, folder: SweepFolder, state: SweepState) -> None:
        """Begin with nothing to write.

        Args:
            folder: The sweep's.
            state: What is known of it, which grows.
        """
        self._folder, self._state = folder, state
        self._wanted: SimpleQueue[tuple[int, dict[Path, dict[str, Any]]] | None] = SimpleQueue()
        self._runs: dict[str, Experiment] = {}
        """What trials that have not ended ran; made once, as it takes as long as a card."""
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None

    def catch_up(self, lines: Sequence[Line]) -> None:
        """Write what a driver that was killed had not written.

        Args:
            lines: The whole journal, which the state has taken.

        Raises:
            OSError: If the disk refuses.
        """
        names: dict[str, None] = {}
        for event in read_events(lines[self._mark() + 1 :]):
            retried = event.retried if isinstance(event, SweepContinued) else []
            names |= dict.fromkeys([*retried, *(n for n, _ in touched_by(self._state, event))])
        with suppress(TrackingError):  # of a version whose settings this one does not know
            if write_cards(self._folder, self._state, names):
                self._set_mark(len(lines) - 1)

    def take(self, event: Event) -> None:
        """Have the cards written that an event has made or changed.

        Args:
            event: What the state has taken last.
        """
        keys = list[Key](touched_by(self._state, event))
        if isinstance(event, TrialStarted) or (isinstance(event, TrialEnded) and not keys):
            self._runs.pop(event.trial, None)
        if not keys:
            return
        try:
            made = card_documents(self._state, keys, self._runs)
            documents = {card_file(self._folder, *key): document for key, document in made}
        except TrackingError:
            return
        for trial, _ in keys:
            if self._state.trial(trial).over:
                self._runs.pop(trial, None)
        self._wanted.put((event.n, documents))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_on, name="cards", daemon=True)
            self._thread.start()

    @contextmanager
    def following(self, lines: Sequence[Line], note: Callable[[str], None]) -> Iterator[None]:
        """Have every card written by the time that the body has ended, however it ends.

        Args:
            lines: The whole journal, which the state has taken.
            note: Told what could not be written: a full disk costs no sweep.

        Yields:
            Nothing, once what a driver that was killed had not written is there.
        """
        try:
            self.catch_up(lines)
        except OSError as error:
            self._trouble = f"{error.strerror or error} ({error.filename})"
        try:
            yield
        finally:
            if self._thread is not None:
                self._wanted.put(None)
                self._thread.join()
                self._thread = None
            if self._trouble is not None:
                note(
                    f"cards of adapters could not be written: {self._trouble}. The journal holds "
                    f"what they say; `orchestrate repair {self._folder.path.name}` writes them"
                )

    def _write_on(self) -> None:
        """Write what comes until there is a None; the mark follows once a second and at the end."""
        line, marked, ends = -1, time.monotonic(), False
        while not ends:
            wanted = [self._wanted.get()]
            # What has come while the disk was waited for; of one card the latest.
            while not self._wanted.empty():
                wanted.append(self._wanted.get())
            ends = wanted[-1] is None
            documents: dict[Path, dict[str, Any]] = {}
            for one in wanted:
                if one is not None:
                    line, documents = one[0], documents | one[1]
            try:
                durable.write_all({place: card_text(card) for place, card in documents.items()})
                if self._trouble is None and (ends or time.monotonic() > marked + _MARK_SECONDS):
                    self._set_mark(line)
                    marked = time.monotonic()
            except OSError as error:
                # Cards follow from the journal: a full disk must cost no trial.
                self._trouble = f"{error.strerror or error} ({error.filename})"

    def _mark(self) -> int:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads((self._folder.trials / MARK).read_text())["line"])
        return -1

    def _set_mark(self, line: int) -> None:
        place = self._folder.trials / MARK
        with durable.half(place) as fresh:
            # Not waited for: an older mark only has more written again.
            fresh.write_text(json.dumps({"line": line}))
            fresh.replace(place)
