"""The live view of a running sweep: a panel on a terminal, a line per event elsewhere.

Only the progress between two journal lines comes from elsewhere, and is never kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output.progress_words import (
    base_words,
    best_words,
    describe,
    phase_words,
    share_done,
    step_place,
    task_place,
)
from orchestrator.records.event import Event
from orchestrator.records.events import (
    ChampionRegistered,
    FaultSurvived,
    SweepEnded,
    TestRead,
    TrialEnded,
)
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.formatting import show, show_duration

_IMPORTANT = (TrialEnded, SweepEnded, TestRead, ChampionRegistered, FaultSurvived)
"""What is are said above the panel, too."""
HEARTBEAT_SECONDS = 10.0
"""A sweep without a terminal is never silent for longer than this."""


class LiveDisplay:
    """Shows a running sweep: a panel on a terminal, one line per event elsewhere.

    Every method may be called from any thread.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.time) -> None:
        """Prepare the display; it begins with `with`.

        Args:
            console: Where to show it; its kind decides between panel and lines.
            clock: Seconds since the epoch, as the journal writes them.
        """
        self.view = SweepState(whole=False)
        self._console = console
        self._clock = clock
        self._lock = threading.RLock()
        self._progress: dict[str, dict[str, Any]] = {}
        self._doing = "starting"
        self._began = clock()
        self._spoke = self._began
        self._caught_up = False
        self._stopped = threading.Event()
        self._heart: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> LiveDisplay:
        self._began = self._spoke = self._clock()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.panel,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        else:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._live is not None:
            self._live.stop()
        if self._heart is not None:
            self._heart.join()

    def note(self, text: str) -> None:
        """Say what the driver is doing."""
        with self._lock:
            self._doing = text
            if self._live is None:
                self._say(text)

    def event(self, event: Event, *, replayed: bool = False) -> None:
        """Take an event; one of an earlier process was shown by that."""
        with self._lock:
            if not replayed:
                self._catch_up()
            self.view.take(event)
            if isinstance(event, TrialEnded):
                self._progress.pop(event.trial, None)
            # Where a sweep goes on, words for all that was would take longer than reading it.
            if not replayed and (self._live is None or isinstance(event, _IMPORTANT)):
                text = describe(event, self.view)
                if text:
                    self._say(text)

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """Take the progress of a running trial; nothing of it is kept."""
        with self._lock:
            self._catch_up()
            self._progress[trial] = progress

    def _catch_up(self) -> None:
        if not self._caught_up and self.view.opened is not None:
            done, total = len(self.view.finished), self.view.total
            self._say(f"continuing {self.view.name}: {done} of {total} trials had finished")
        self._caught_up = True

    def _say(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        self._spoke = self._clock()
        self._console.print(Text(f"{stamp}  {text}"), soft_wrap=True)

    def _beat(self) -> None:
        while not self._stopped.wait(1.0):
            self.beat()

    def beat(self) -> None:
        """Speak when nothing was said for a while."""
        with self._lock:
            if self._clock() - self._spoke >= HEARTBEAT_SECONDS:
                self._say(self.status())

    def status(self) -> str:
        """The state of the sweep in one line."""
        with self._lock:
            view = self.view
            running = [
                f"{name} {phase_words(progress)} {share_done(progress):.0%}"
                for name, progress in sorted(self._progress.items())
            ]
            words = [f"{len(view.finished)} of {view.total} trials"] if view.name else [self._doing]
            words += running or ([self._doing] if view.name else [])
            words.append(f"elapsed {show_duration(self._clock() - self._began)}")
            left = self.time_left()
            if left is not None:
                words.append(f"about {show_duration(left)} left")
            return "; ".join(words)

    def time_left(self) -> float | None:
        """Seconds until the last trial ends, None while there is nothing to judge by.

        Finished trials (or, before the first has finished, the shares done of the running ones)
        give the seconds of a trial; what is left is shared by as many as run now.

        Returns:
            Seconds.
        """
        with self._lock:
            now = self._clock()
            durations = [
                trial.ended - trial.started
                for trial in self.view.finished
                if trial.started is not None
                and trial.ended is not None
                and trial.state == "COMPLETE"
            ]
            shares = {
                name: share_done(progress)
                for name, progress in self._progress.items()
                if name != BASE_TRIAL and self.view.trial(name).started is not None
            }
            if not durations:
                durations = [
                    (now - float(self.view.trial(name).started or now)) / share
                    for name, share in shares.items()
                    if share >= 0.05
                ]
            if not durations or self.view.ended:
                return None
            todo = max(0.0, self.view.total - len(self.view.finished) - sum(shares.values()))
            if not todo:
                return None  # what comes after the last trial is not known from trials
            return todo * sum(durations) / len(durations) / max(1, len(shares))

    def panel(self) -> RenderableType:
        """The panel for a terminal."""
        with self._lock:
            view = self.view
            done = len(view.finished)
            failed = sum(trial.state == "FAILED" for trial in view.trials)
            head = Text(self._doing if not view.name else f"{done} of {view.total} trials")
            if failed:
                head.append(f", {failed} failed", style="red")
            head.append(f"   elapsed {show_duration(self._clock() - self._began)}")
            left = self.time_left()
            head.append(f"   left {'-' if left is None else 'about ' + show_duration(left)}")
            parts: list[RenderableType] = [head]
            if view.total and view.name:
                whole = Table.grid()
                whole.add_row(ProgressBar(total=view.total, completed=done, width=40))
                parts.append(whole)
            parts += [self._running_table(), Text(f"untouched base  {base_words(view)}")]
            parts.append(Text(f"best so far  {best_words(view)}"))
            if view.name:
                parts.append(Text(self._doing, style="dim"))
            return Panel(Group(*parts), title=Text(view.name or "starting"), title_align="left")

    def _running_table(self) -> Table:
        rows = Table.grid(padding=(0, 2, 0, 0))
        for heading in ("trial", "", "task", "step", "loss", "", ""):
            rows.add_column(heading, no_wrap=True)
        for name, progress in sorted(self._progress.items()):
            share = share_done(progress)
            rows.add_row(
                Text(name, style="bold"),
                Text(str(progress.get("phase", ""))),
                Text(task_place(progress)),
                Text(step_place(progress), justify="right"),
                Text(f"loss {show(progress.get('loss'))}", justify="right"),
                ProgressBar(total=1.0, completed=share, width=14),
                Text(f"{share:4.0%}"),
            )
        return rows
