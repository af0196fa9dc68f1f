"""What people have asked of a running sweep: trials to stop, and trials to add."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.records.events import RequestTaken
from orchestrator.records.requests.request_files import Request, pending, remove
from orchestrator.records.trial_record import BASE_TRIAL, REQUEST
from orchestrator.spec.reach import refusal
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.system.stores.opening import bring_all

LOOKS_SECONDS = 1.0
"""How often the folder of requests is looked at."""
LOOKS_ELSEWHERE_SECONDS = 10.0
"""How often a store is asked for what other machines have left there."""


class Asked:
    """Takes requests up: what becomes of each is journalled before its file is removed."""

    def __init__(
        self,
        ledger: Ledger,
        proposals: Proposals,
        admission: Admission,
        finish: Callable[[str], None],
    ) -> None:
        """Go on with what was journalled and not done.

        Args:
            ledger: The sweep's.
            proposals: Proposes the trials that are asked for.
            admission: Knows which trials wait.
            finish: Ends a trial.
        """
        self._ledger, self._proposals, self._admission = ledger, proposals, admission
        self._finish, self._next, self._next_elsewhere = finish, 0.0, 0.0
        for taken in ledger.state.requests.values():
            if taken.ask == "stop" and taken.refused is None and taken.about in ledger.trials:
                self._stop(taken.about, taken)

    def look(self) -> None:
        """Take up what was left since the last time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOKS_SECONDS
        if now >= self._next_elsewhere:
            self._next_elsewhere = now + LOOKS_ELSEWHERE_SECONDS
            bring_all(self._ledger.folder.requests)
        for request in pending(self._ledger.folder):
            if request.id not in self._ledger.state.requests:
                self._take(request)
            remove(self._ledger.folder, request)

    def _take(self, request: Request) -> None:
        about, refused = request.trial, None
        if request.ask == "stop":
            refused = self._cannot_stop(request.trial)
        else:
            about, refused = self._added(request)
        taken = RequestTaken(
            request.id, request.ask, about, request.who, request.reason, refused
        )  # fmt: skip
        self._ledger.record(taken)
        if refused is not None:
            self._ledger.observer.note(f"not done, as {request.who} has asked: {refused}")
        elif request.ask == "stop" and about is not None:
            self._ledger.observer.note(f"{about} is stopped, as {request.who} has asked")
            self._stop(about, taken)
        else:
            self._ledger.observer.note(f"{about} is added, as {request.who} has asked")

    def _cannot_stop(self, name: str | None) -> str | None:
        if name == BASE_TRIAL:
            return "nothing is judged without the untouched base"
        trial = self._ledger.trials.get(name or "")
        if trial is None:
            return f"there is no trial {name!r}"
        return f"{name} has ended already" if trial.over else None

    def _stop(self, name: str, taken: RequestTaken) -> None:
        trial = self._ledger.trials[name]
        if trial.over:
            return
        trial.asked = f"{taken.who}: {taken.reason}" if taken.reason else taken.who
        if name in self._admission.waiting:
            self._admission.waiting.remove(name)
            self._finish(name)

    def _added(self, request: Request) -> tuple[str | None, str | None]:
        """The trial that was added, or why it could not be."""
        by = f"{REQUEST} {request.id}"
        for trial in self._ledger.trials.values():
            if trial.record.by == by:  # a driver has ended between both lines
                return trial.name, None
        like = self._ledger.trials.get(request.trial) if request.trial is not None else None
        if request.trial is not None and like is None:
            return None, f"there is no trial {request.trial!r}"
        overrides = {**(like.overrides if like is not None else {}), **request.changes}
        try:
            impossible = refusal(self._ledger.experiment, overrides)
            if impossible is not None:
                return None, impossible
            name = self._proposals.propose(self._proposals.free_name(), overrides, by)
        except ExperimentError as error:
            return None, str(error)
        unknown = self._proposals.observe(name)
        if unknown:
            self._ledger.observer.note(f"the searcher does not learn of {name}: {unknown}")
        self._admission.waiting.append(name)
        return name, None
